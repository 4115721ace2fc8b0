"""`/metrics`: what all replicas have counted, and what they are now, as Prometheus reads it.

Whichever replica is asked reads the tallies of all of them, of those that have ended too.
"""

from __future__ import annotations

import contextlib
import itertools
from typing import TYPE_CHECKING, Any

import psutil
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder

from detectctl import errors
from detectctl.processes import Process
from detectctl.serving import request_stats
from detectctl.serving.tally import Key, Tally, read_all, total

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

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


def page(accept: str, own: Tally, replicas: tuple[int, int] | None) -> tuple[bytes, str]:
    """The text, and its type.

    Args:
        accept: the request's header.
        own: the tally of the replica that was asked; those of the others lie beside it.
        replicas: how many are wanted, and how many take requests; None if that is not known.
    """
    found = [] if own.path is None else read_all(own.path.parent)
    tallies = [(about, values) for path, about, values in found if path != own.path] + [(own.about, own.values)]
    encode, content_type = choose_encoder(accept)
    return encode(_Collector(list(_families(tallies, replicas)))), content_type


class _Collector:
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _families(
    tallies: list[tuple[dict[str, Any], dict[Key, float]]], replicas: tuple[int, int] | None
) -> Iterator[Metric]:
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
    for outcome in UPDATES:
        updates.add_metric([outcome], counted.get((request_stats.UPDATES, outcome), 0.0))
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


def _of_the_living(tallies: list[tuple[dict[str, Any], dict[Key, float]]]) -> Iterator[Metric]:
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
            process = Process(**about["process"]).find()
            if process is None:
                continue
            replica = [str(about["replica"])]
            models.add(tuple(_label(about["model"].get(name)) for name in _MODEL))
            waiting.add_metric(replica, values.get((request_stats.IN_HAND,), 0.0))
            limit.add_metric(replica, float(about["queue_limit"]))
            times = process.cpu_times()
            memory.add_metric(replica, float(process.memory_info().rss))
            cpu.add_metric(replica, times.user + times.system)
    for labels in sorted(models):
        model.add_metric(labels, 1.0)
    yield from (waiting, limit, model, memory, cpu)


def _histogram(
    histogram: request_stats.Histogram, told: str, names: list[str], counted: Mapping[Key, float]
) -> HistogramMetricFamily:
    family = HistogramMetricFamily(PREFIX + histogram.name, told, labels=names)
    bounds = [str(bound) for bound in histogram.bounds[:: histogram.steps]]
    for labels, counts in sorted(histogram.counts(counted).items()):
        below = list(itertools.accumulate(counts))
        buckets = list(zip([*bounds, "+Inf"], [*below[: -1 : histogram.steps], below[-1]], strict=True))
        family.add_metric(list(labels), buckets, counted[histogram.name + request_stats.SUM, *labels])
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
