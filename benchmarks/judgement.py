"""From measurements to ratios, and from ratios to a verdict on each promise. Pure: nothing here measures."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from client import Command
    from contestants import Measurement


@dataclass
class Round:
    """What was measured side by side.

    Attributes:
        measurements: of every contestant.
        others_percent: how busy the processors were before anybody was measured.
        bare_ray_s: seconds of `ray start --head`.
        up_s: seconds of `up`, everything cached.
        up_steps: the same by step.
        down_s: seconds of `down`, right after the last load.
        memory: MB by kind of process after the load, see `accounting.Group.memory`.
        memory_of_two: the same with two replicas.
        idle: CPU ms per second by kind of process while nobody asks.
        objects: contestant → image → what it finds.
        detect_many: image → the command `detect` on many files of it.
        detect_one: image → the same on one file.
        ceiling: of the service with one replica and with two, its version before and two peers, with a network that
            costs next to nothing.
        before: the same of an earlier version of the service, without its limit and its peers.
    """

    measurements: list[Measurement] = field(default_factory=list)
    others_percent: float = 0.0
    bare_ray_s: float = 0.0
    up_s: float = 0.0
    up_steps: dict[str, float] = field(default_factory=dict)
    down_s: float = 0.0
    memory: dict[str, dict[str, float]] = field(default_factory=dict)
    memory_of_two: dict[str, dict[str, float]] = field(default_factory=dict)
    idle: dict[str, float] = field(default_factory=dict)
    objects: dict[str, dict[str, Any]] = field(default_factory=dict)
    detect_many: dict[str, Command] = field(default_factory=dict)
    detect_one: dict[str, Command] = field(default_factory=dict)
    ceiling: list[Measurement] = field(default_factory=list)
    before: Round | None = None

    def of(self, image: str, who: str, way: str, clients: int) -> Measurement:
        """KeyError if that was not measured."""
        for one in self.measurements:
            if (one.image, one.who, one.way, one.clients) == (image, who, way, clients):
                return one
        raise KeyError((image, who, way, clients))

    def limit(self, image: str) -> float:
        """Requests per second in process, with as many threads as serve it best."""
        return max(one.requests_per_s for one in self.measurements if (one.who, one.image) == ("limit", image))

    def at_ceiling(self, who: str) -> Measurement:
        """With 8 clients and the smallest picture; StopIteration if that was not measured."""
        return next(one for one in self.ceiling if one.who == who and one.clients == 8)

    def best_peer(self, image: str) -> float:
        """Requests per second that 8 clients get from the peer that serves them best."""
        ours = {"limit", "detectctl"}
        return max(
            one.requests_per_s
            for one in self.measurements
            if (one.image, one.clients) == (image, 8) and one.who not in ours
        )


_Figure = Callable[[Round, str], float]


@dataclass(frozen=True)
class Spread:
    """The median of some rounds, and the least and greatest."""

    median: float
    least: float
    greatest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.least:.2f}-{self.greatest:.2f})"


@dataclass(frozen=True)
class Verdict:
    """One line of the judgement; `kept` is None where a figure could not be measured."""

    promise: str
    wanted: str
    measured: str
    kept: bool | None


def judge(rounds: Sequence[Round]) -> list[Verdict]:
    """Every promise of the project about speed and size."""

    def rate(way: str, clients: int, by: _Figure) -> _Figure:
        return lambda one, image: one.of(image, "detectctl", way, clients).requests_per_s / by(one, image)

    def rate_of(who: str, way: str) -> _Figure:
        return lambda one, image: one.of(image, who, way, 8).requests_per_s

    def latency(percentile: str) -> _Figure:
        def ours_by_theirs(one: Round, image: str) -> float:
            ours, theirs = (getattr(one.of(image, who, "POST", 1), percentile) for who in ("detectctl", "FastAPI"))
            return float(ours / theirs)

        return ours_by_theirs

    def ceiling(by: str, who: str = "detectctl") -> _Figure:
        return lambda one, _: one.at_ceiling(who).requests_per_s / one.at_ceiling(by).requests_per_s

    def lock(one: Round, _: str) -> float:
        return one.at_ceiling("detectctl").lock_ms or math.nan

    def overhead(one: Round, image: str) -> float:
        return one.of(image, "detectctl", "POST", 8).all_cpu_ms - one.of(image, "limit", "in process", 8).all_cpu_ms

    def client(one: Round, image: str) -> float:
        return one.detect_many[image].images_per_s / one.of(image, "detectctl", "POST", 8).requests_per_s

    def second(one: Round, _: str) -> float:
        return one.memory_of_two["replica"]["pss"] - one.memory["replica"]["pss"]

    every = [
        ("POST, 8 clients / limit", rate("POST", 8, Round.limit), ">=", 0.92),
        ("image_url / POST, 8 clients", rate("image_url", 8, rate_of("detectctl", "POST")), ">=", 0.95),
        ("POST, 8 clients / LitServe's", rate("POST", 8, rate_of("LitServe", "POST")), ">=", 1.35),
        ("POST, 8 clients / the best peer's", rate("POST", 8, Round.best_peer), ">=", 1.05),
        ("POST, 1 client: p50 / FastAPI's", latency("p50_ms"), "<=", 0.95),
        ("POST, 1 client: p99 / FastAPI's", latency("p99_ms"), "<=", 1.1),
        ("POST, 64 clients / 8 clients", rate("POST", 64, rate_of("detectctl", "POST")), ">=", 0.97),
        ("image_url, 64 clients / 8 clients", rate("image_url", 64, rate_of("detectctl", "image_url")), ">=", 0.97),
        ("CPU ms per request beyond the engine's", overhead, "<=", 3),
        ("detect on 1,000 files / POST, 8 clients", client, ">=", 0.95),
        ("CPU s of detect on one file", lambda one, image: one.detect_one[image].cpu_s, "<=", 0.25),
    ]
    whole: list[tuple[str, _Figure, str, float]] = [
        ("up / bare ray start --head", lambda one, _: one.up_s / one.bare_ray_s, "<=", 2.0),
        ("ceiling / the version before's", ceiling("the version before"), ">=", 3),
        ("ceiling: two replicas / one", ceiling("detectctl", "detectctl, two replicas"), ">=", 1.4),
        ("ceiling: ms that the lock is held", lock, "<=", 1.2),
        ("down, seconds", lambda one, _: one.down_s, "<=", 6),
        ("RSS of the replica, MB", lambda one, _: one.memory["replica"]["rss"], "<=", 350),
        ("PSS of the replica, MB", lambda one, _: one.memory["replica"]["pss"], "<=", 350),
        ("PSS of the second replica, MB", second, "<=", 350),
        ("RSS of all processes, MB", lambda one, _: sum(kind["rss"] for kind in one.memory.values()), "<=", 1800),
    ]
    images = sorted({measured.image for one in rounds for measured in one.measurements})
    return [
        *(_verdict(rounds, images, *promise) for promise in every),
        *(_verdict(rounds, [""], *promise) for promise in whole),
        _answers(rounds),
        _agreement(rounds),
    ]


def against_before(rounds: Sequence[Round]) -> dict[str, dict[str, Spread]]:
    """Figure of the service → image → by that of the version before; empty if that was not measured."""

    def load(way: str, clients: int, attribute: str) -> _Figure:
        return lambda one, image: float(getattr(one.of(image, "detectctl", way, clients), attribute))

    measured = {(one.way, one.clients) for one in rounds[0].measurements if one.who == "detectctl"}
    figures: dict[str, _Figure] = {}
    for way, clients in sorted(measured):
        figures[f"{way}, {clients} clients: requests/s"] = load(way, clients, "requests_per_s")
        figures[f"{way}, {clients} clients: p50"] = load(way, clients, "p50_ms")
        figures[f"{way}, {clients} clients: CPU"] = load(way, clients, "all_cpu_ms")
    figures |= {
        "detect on 1,000 files: images/s": lambda one, image: one.detect_many[image].images_per_s,
        "detect on one file: CPU": lambda one, image: one.detect_one[image].cpu_s,
        "up": lambda one, _: one.up_s,
        "down": lambda one, _: one.down_s,
        "RSS of the replica": lambda one, _: one.memory["replica"]["rss"],
        "RSS of all processes": lambda one, _: sum(kind["rss"] for kind in one.memory.values()),
    }
    pairs = [(one, one.before) for one in rounds if one.before is not None]
    images = sorted({one.image for one in rounds[0].measurements})
    return {
        name: {
            image: Spread.of([figure(now, image) / figure(before, image) for now, before in pairs]) for image in images
        }
        for name, figure in figures.items()
        if pairs
    }


def _verdict(
    rounds: Sequence[Round], images: Sequence[str], promise: str, figure: _Figure, sign: str, bound: float
) -> Verdict:
    """Kept if the median of the rounds is within the bound for each image."""
    try:
        spreads = {image: Spread.of([figure(one, image) for one in rounds]) for image in images}
    except (KeyError, ValueError, ZeroDivisionError, StopIteration):
        return Verdict(promise, f"{sign} {bound:g}", "not measured", None)
    kept = all(spread.median >= bound if sign == ">=" else spread.median <= bound for spread in spreads.values())
    measured = "   ".join(f"{image} {spread}".strip() for image, spread in spreads.items())
    return Verdict(promise, f"{sign} {bound:g}", measured, kept)


def _answers(rounds: Sequence[Round]) -> Verdict:
    counts: dict[str, int] = {}
    for one in rounds:
        for measured in one.measurements:
            if measured.who == "detectctl":
                for status, count in measured.statuses.items():
                    counts[status] = counts.get(status, 0) + count
    said = ", ".join(f"{count} x {status}" for status, count in sorted(counts.items()))
    return Verdict("answers under every load", "only 200 or 503", said, counts.keys() <= {"200", "503"})


def _agreement(rounds: Sequence[Round]) -> Verdict:
    """Not the parity bounds, which the tests check, but that all contestants did the same work."""
    found = {
        (image, tuple(sorted(thing["class"] for thing in things if thing["confidence"] > 0.5)))
        for one in rounds
        for images in one.objects.values()
        for image, things in images.items()
    }
    differ = [image for image, _ in found if sum(image == other for other, _ in found) > 1]
    said = f"they differ on {', '.join(sorted(set(differ)))}" if differ else "yes"
    return Verdict("all contestants find the same classes above 0.5", "yes", said, not differ)
