"""What `status --watch` has seen of an instance: how its counters grew from one look to the next."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from detectctl.serving.request_stats import RequestStats

_LOOKS = 40
_ERRORS = 5


@dataclass(frozen=True, slots=True)
class Step:
    """From one look to the next; latencies of the requests that ended meanwhile, None without any."""

    requests_per_s: float
    p50_ms: float | None
    p99_ms: float | None


@dataclass(slots=True)
class Course:
    """Of one instance, the oldest first.

    Attributes:
        steps: the last of them.
        errors: time (seconds since the epoch), error code and number of the last failures that were seen.
    """

    clock: Callable[[], float] = time.monotonic
    steps: deque[Step] = field(default_factory=lambda: deque(maxlen=_LOOKS))
    errors: deque[tuple[float, str, int]] = field(default_factory=lambda: deque(maxlen=_ERRORS))
    _before: tuple[float, RequestStats] | None = None

    def note(self, stats: RequestStats) -> None:
        """Note a look; counters that have become less are those of another start, from which it goes on."""
        now, before = self.clock(), self._before
        self._before = now, stats
        if before is None or stats.requests < before[1].requests or now <= before[0]:
            return
        new = stats.since(before[1])
        self.steps.append(Step(new.requests / (now - before[0]), new.percentile_ms(0.5), new.percentile_ms(0.99)))
        self.errors.extend((time.time(), code, count) for code, count in sorted(new.errors.items()))
