"""What a replica counts of its requests, in a tally that `status` and `/metrics` add up over all replicas.

A dead replica's tally still counts.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

from detectctl.serving.tally import Content, Key, Tally, read_all, total

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from detectctl.wire import Detection

# The first part of a key says what the rest of it means, to other versions too: another meaning has another name.
REQUESTS = "requests"
OBJECTS = "objects"
IN_HAND = "in_hand"
UPDATES = "updates"
SUM = "_sum"
"""After a histogram's name: the key of the sum of what it has seen."""
OK = "ok"
"""In place of an error's code."""
OTHER = "other"
ROUTES = frozenset({"/detect", "/annotate", "/info", "/metrics", "/docs", "/openapi.json"})
"""Those that are told apart; a caller who guesses at paths makes no new numbers."""
CLASSES = 100
"""So many classes of a model are told apart, those that come first in it."""
_CLASS_CHARS = 100


@dataclass(frozen=True)
class Histogram:
    """How often values came near which size.

    Attributes:
        name: the first part of its keys; then come its labels, and the place of a bound.
        first: the lowest bound that is shown.
        factor: from one such bound to the next.
        shown: how many there are.
        steps: bounds that are counted, for each that is shown.
    """

    name: str
    first: float
    factor: float
    shown: int
    steps: int = 1

    @cached_property
    def bounds(self) -> tuple[float, ...]:
        """Inclusive upper bounds; what is above the last is counted at the place after it."""
        places = range((self.shown - 1) * self.steps + 1)
        return tuple(self.first * self.factor ** (place / self.steps) for place in places)

    def seen(self, value: float, *labels: str) -> list[tuple[Key, float]]:
        """The changes of a tally for one value."""
        place = bisect.bisect_left(self.bounds, value)
        return [((self.name, *labels, str(place)), 1.0), ((self.name + SUM, *labels), value)]

    def counts(self, values: Mapping[Key, float]) -> dict[Key, list[int]]:
        """By labels: how many values fell to each place."""
        found: dict[Key, list[int]] = {}
        for (name, *rest), value in values.items():
            if name == self.name:
                *labels, place = rest
                found.setdefault(tuple(labels), [0] * (len(self.bounds) + 1))[int(place)] += int(value)
        return found


# In steps of 10 %, from 1 ms to about 2 minutes: percentiles are right within 5 %.
LATENCY = Histogram("request_seconds", 0.001, 2, 18, steps=7)
STAGES = Histogram("stage_seconds", 0.001, 2, 18)
IMAGE_BYTES = Histogram("image_bytes", 4096, 4, 8)
IMAGE_PIXELS = Histogram("image_pixels", 256 * 256, 4, 7)


@dataclass(frozen=True, slots=True)
class RequestStats:
    """Counts of finished requests.

    Attributes:
        errors: error code → how many.
        latency: counts per bucket of `LATENCY`, of the successful ones; the last bucket is open.
        replicas: of each that is known, by its id: its requests, and its model's version, or digest where it has none.
    """

    requests: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    latency: tuple[int, ...] = (0,)
    replicas: dict[str, tuple[int, str | None]] = field(default_factory=dict)

    @classmethod
    def of_all(cls, tallies: Iterable[Content]) -> Self:
        """The sum over them."""
        tallies = list(tallies)
        replicas = {
            str(about["replica"]): (cls.of(values).requests, _version(about))
            for about, values in tallies
            if "replica" in about
        }
        return replace(cls.of(total(values for _, values in tallies)), replicas=replicas)

    @classmethod
    def of(cls, values: Mapping[Key, float]) -> Self:
        """As they are in the sum of all tallies."""
        codes: Counter[str] = Counter()
        for (name, *labels), value in values.items():
            if name == REQUESTS:
                codes[labels[1]] += int(value)
        latency = tuple(map(sum, zip(*LATENCY.counts(values).values(), strict=True)))
        return cls(codes.total(), {code: count for code, count in codes.items() if code != OK}, latency or (0,))

    def since(self, before: RequestStats) -> RequestStats:
        """What was counted after `before`."""
        errors = {code: count - before.errors.get(code, 0) for code, count in self.errors.items()}
        pairs = itertools.zip_longest(self.latency, before.latency, fillvalue=0)
        return RequestStats(
            self.requests - before.requests,
            {code: count for code, count in errors.items() if count},
            tuple(now - then for now, then in pairs),
        )

    def percentile_ms(self, fraction: float) -> float | None:
        """Latency that `fraction` of the successful requests stayed under; None without any."""
        seen = list(itertools.accumulate(self.latency))
        if seen[-1] == 0:
            return None
        bucket = bisect.bisect_left(seen, math.ceil(seen[-1] * fraction))
        upper = LATENCY.bounds[min(bucket, len(LATENCY.bounds) - 1)]
        return 1000 * (upper if bucket == 0 else math.sqrt(upper * LATENCY.bounds[bucket - 1]))


@dataclass(frozen=True, slots=True)
class Answered:
    """One request at its end.

    Attributes:
        route: path as it was asked for.
        code: of the error that it was answered with, or `OK`.
        source: where the image came from.
        admitted: whether it was in hand.
        seconds: from its begin to its end.
        stages: seconds of those that it came through, by name.
        size: bytes and pixels of the image, if it came so far.
    """

    route: str
    code: str
    source: str
    admitted: bool
    seconds: float
    stages: Mapping[str, float] = field(default_factory=dict)
    size: tuple[int, int] | None = None
    found: tuple[Detection, ...] = ()


class RequestRecorder:
    """Where a replica counts what it has answered; call it in the event loop.

    Args:
        path: None keeps the counts in memory only.
        about: what the tally says of the replica.
    """

    def __init__(self, path: Path | None, about: dict[str, Any] | None = None) -> None:
        self.tally = Tally(path, about)
        self.tally.add(((IN_HAND,), 0.0))

    def admitted(self) -> None:
        """Note a request that waits for its turn."""
        self.tally.add(((IN_HAND,), 1.0))

    def answered(self, request: Answered) -> None:
        """Note its end; what it took counts only if it succeeded: a refusal takes no time."""
        route = request.route if request.route in ROUTES else OTHER
        changes: list[tuple[Key, float]] = [((REQUESTS, route, request.code, request.source), 1.0)]
        if request.admitted:
            changes.append(((IN_HAND,), -1.0))
        if request.code == OK:
            changes += LATENCY.seen(request.seconds, route)
            for stage, seconds in request.stages.items():
                changes += STAGES.seen(seconds, stage)
            changes += [((OBJECTS, name), float(count)) for name, count in Counter(_names(request.found)).items()]
        if request.size is not None:
            encoded, pixels = request.size
            changes += IMAGE_BYTES.seen(encoded)
            changes += IMAGE_PIXELS.seen(pixels)
        self.tally.add(*changes)


def _names(found: Iterable[Detection]) -> Iterable[str]:
    for one in found:
        yield one.class_name[:_CLASS_CHARS] if one.class_id < CLASSES else OTHER


def read_stats(folder: Path) -> RequestStats:
    """The sum over all replicas that ever wrote into `folder`."""
    return RequestStats.of_all(read_all(folder))


def _version(about: Mapping[str, Any]) -> str | None:
    model = about.get("model") or {}
    return model.get("version") or model.get("digest")
