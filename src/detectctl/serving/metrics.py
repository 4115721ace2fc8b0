"""`/metrics`: what all replicas have counted, and what they are now, as Prometheus reads it.

Whichever replica is asked reads the tallies of all of them, of those that have ended too; on a cluster it asks the
keeper on the head for them.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from typing import TYPE_CHECKING, Any

import psutil
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder

from detectctl import errors, processes
from detectctl.processes import Process
from detectctl.serving import request_stats
from detectctl.serving.tally import Content, Key, Tally, readable, tally_files, total

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from prometheus_client.metrics_core import Metric

PREFIX = "detectctl_"
UPDATES = ("done", "went_back", "failed")
"""How an update ends: with the new deployment, with the one before, or with neither."""
_MODEL = ("name", "version", "digest", "fallback", "stale", "task")
_HISTOGRAMS = {
    request_stats.LATENCY: ("Of a successful request in the replica, its wait included.", ["route"]),
    request_stats.STAGES: ("Of each stage of a successful request.", ["stage"]),
    request_stats.IMAGE_BYTES: ("Size of the images that were decoded, as they came.", []),
    request_stats.IMAGE_PIXELS: ("Size of the images that were decoded.", []),
}


class Metrics:
    """Writes the text; of a replica that has ended it reads the tally once.

    Args:
        own: the tally of the replica that is asked; those of the others lie beside it.
    """

    def __init__(self, own: Tally) -> None:
        self._own = own
        self._ended: set[Path] = set()
        self._ended_counted: dict[Key, float] = {}
        self._lock = threading.Lock()

    def page(
        self, accept: str, replicas: tuple[int, int] | None, collected: list[Content] | None = None
    ) -> tuple[bytes, str]:
        """The text, and its type.

        Args:
            accept: the request's header.
            replicas: how many are wanted, and how many take requests; None if that is not known.
            collected: the tallies of all replicas, where they lie in no folder.
        """
        own = self._own
        with self._lock:
            tallies = collected or [*self._others(), ({}, self._ended_counted), (own.about, own.values)]
            encode, content_type = choose_encoder(accept)
            return encode(_Collector(list(_families(tallies, replicas)))), content_type

    def _others(self) -> list[Content]:
        """The tallies that may still grow."""
        if self._own.path is None:
            return []
        growing = []
        for path in tally_files(self._own.path.parent):
            if path != self._own.path and path not in self._ended and (content := readable(path)) is not None:
                if _has_ended(content[0]):
                    # Once more, for what it wrote between the look at its file and its end.
                    self._ended_counted = total([self._ended_counted, (readable(path) or content)[1]])
                    self._ended.add(path)
                else:
                    growing.append(content)
        return growing


class _Collector:
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _families(tallies: list[Content], replicas: tuple[int, int] | None) -> Iterator[Metric]:
    counted = total(values for _, values in tallies)
    requests = CounterMetricFamily(
        PREFIX + "requests", "Requests that were answered.", labels=["route", "code", "status", "source"]
    )
    for route, code, source in _labels(counted, request_stats.REQUESTS):
        requests.add_metric([route, code, _status(code), source], counted[request_stats.REQUESTS, route, code, source])
    yield requests
    for histogram, (told, names) in _HISTOGRAMS.items():
        yield _histogram(histogram, told, names, counted)
    objects = CounterMetricFamily(PREFIX + "objects", "Objects in the answers, by class.", labels=["class"])
    for (name,) in _labels(counted, request_stats.OBJECTS):
        # Names come from a checkpoint, and may be no Unicode.
        told = name.encode(errors="replace").decode()
        objects.add_metric([told], counted[request_stats.OBJECTS, name])
    yield objects
    updates = CounterMetricFamily(PREFIX + "updates", "Changes of what is served, by their end.", labels=["outcome"])
    # Where no host counts them, each replica was told; during an update, some have not heard of it yet.
    told_of = [about["updates"] for about, _ in tallies if isinstance(about.get("updates"), dict)]
    for outcome in UPDATES:
        most = max((float(told.get(outcome, 0)) for told in told_of), default=0.0)
        updates.add_metric([outcome], counted.get((request_stats.UPDATES, outcome), most))
    yield updates
    if replicas is not None:
        for name, told, value in zip(
            ("replicas_wanted", "replicas_ready"),
            ("Replicas that Serve wants now.", "Replicas that take requests."),
            replicas,
            strict=True,
        ):
            yield GaugeMetricFamily(PREFIX + name, told, float(value))
    yield from _of_the_living(tallies)


def _has_ended(about: dict[str, Any]) -> bool:
    """Whether the process of a tally has; nobody can say it of one that another version describes in other words."""
    with contextlib.suppress(LookupError, TypeError):
        return Process(**about["process"]).find() is None
    return False


def _of_the_living(tallies: list[Content]) -> Iterator[Metric]:
    waiting = GaugeMetricFamily(
        PREFIX + "requests_in_hand", "Requests that a replica works on, or that wait in it.", labels=["replica"]
    )
    limit = GaugeMetricFamily(PREFIX + "queue_limit", "The most that a replica has in hand.", labels=["replica"])
    model = GaugeMetricFamily(PREFIX + "model_info", "1 for each model that answers now.", labels=_MODEL)
    memory = GaugeMetricFamily(PREFIX + "process_resident_memory_bytes", "Of a replica's process.", labels=["replica"])
    cpu = CounterMetricFamily(
        PREFIX + "process_cpu_seconds", "Of a replica's process, user and system.", labels=["replica"]
    )
    models = set()
    for about, values in tallies:
        # It may have ended just now, or be of another version, which says other things of itself.
        with contextlib.suppress(psutil.Error, LookupError, TypeError):
            used = about["used"] if "used" in about else _used(Process(**about["process"]).find())
            if used is None:
                continue
            replica = [str(about["replica"])]
            models.add(tuple(_label(about["model"].get(name)) for name in _MODEL))
            waiting.add_metric(replica, values.get((request_stats.IN_HAND,), 0.0))
            limit.add_metric(replica, float(about["queue_limit"]))
            memory.add_metric(replica, float(used["memory"]))
            cpu.add_metric(replica, float(used["cpu"]))
    for labels in sorted(models):
        model.add_metric(labels, 1.0)
    yield from (waiting, limit, model, memory, cpu)


def _used(process: psutil.Process | None) -> dict[str, float] | None:
    return None if process is None else processes.used(process)


def _histogram(
    histogram: request_stats.Histogram, told: str, names: list[str], counted: Mapping[Key, float]
) -> HistogramMetricFamily:
    family = HistogramMetricFamily(PREFIX + histogram.name, told, labels=names)
    bounds = [str(bound) for bound in histogram.bounds[:: histogram.steps]]
    for labels, counts in sorted(histogram.counts(counted).items()):
        below = list(itertools.accumulate(counts))
        buckets = list(zip([*bounds, "+Inf"], [*below[: -1 : histogram.steps], below[-1]], strict=True))
        family.add_metric(list(labels), buckets, counted.get((histogram.name + request_stats.SUM, *labels), 0.0))
    return family


def _labels(counted: Mapping[Key, float], name: str) -> list[list[str]]:
    return sorted(list(labels) for first, *labels in counted if first == name)


def _label(value: Any) -> str:
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _status(code: str) -> str:
    """The HTTP status that goes with an error's code; empty for one that this version does not have."""
    if code == request_stats.OK:
        return "200"
    known = errors.REQUEST_ERRORS.get(code)
    return "" if known is None else str(known.status)
