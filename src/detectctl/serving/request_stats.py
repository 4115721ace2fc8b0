"""Counters of a replica, in a small file that `status` adds up: no scraping delay, and a dead replica's still count."""

from __future__ import annotations

import asyncio
import bisect
import itertools
import json
import logging
import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from detectctl.files import reason, write_atomically
from detectctl.serving.request_log import LOGGER

if TYPE_CHECKING:
    from pathlib import Path

# 1 ms to about 2 minutes in steps of 10 %: percentiles are right within 5 %.
BOUNDS_MS: tuple[float, ...] = tuple(1.1**step for step in range(124))
_WRITE_PERIOD_S = 0.5

logger = logging.getLogger(LOGGER)


@dataclass(slots=True)
class RequestStats:
    """Counts of finished requests.

    Attributes:
        errors: error code → how many.
        latency: counts per bucket of `BOUNDS_MS`, of the successful ones; the last bucket is open.
    """

    requests: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    latency: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_MS) + 1))

    def count(self, elapsed_ms: float, error_code: str | None) -> None:
        """Note one answered request."""
        self.requests += 1
        if error_code is None:
            self.latency[bisect.bisect_left(BOUNDS_MS, elapsed_ms)] += 1
        else:
            self.errors[error_code] = self.errors.get(error_code, 0) + 1

    def add(self, other: RequestStats) -> None:
        """Fold another replica's counts into these; ValueError, and nothing folded, if its buckets are others."""
        self.latency = [mine + its for mine, its in zip(self.latency, other.latency, strict=True)]
        self.requests += other.requests
        for code, count in other.errors.items():
            self.errors[code] = self.errors.get(code, 0) + count

    def percentile_ms(self, fraction: float) -> float | None:
        """Latency that `fraction` of the successful requests stayed under; None without any."""
        seen = list(itertools.accumulate(self.latency))
        if seen[-1] == 0:
            return None
        bucket = bisect.bisect_left(seen, math.ceil(seen[-1] * fraction))
        upper = BOUNDS_MS[min(bucket, len(BOUNDS_MS) - 1)]
        return upper if bucket == 0 else math.sqrt(upper * BOUNDS_MS[bucket - 1])


class RequestRecorder:
    """Where a replica counts what it has answered.

    Args:
        path: written within half a second of a change; None keeps the counts in memory only.
    """

    def __init__(self, path: Path | None) -> None:
        self.stats = RequestStats()
        self._path = path
        self._timer: asyncio.TimerHandle | None = None

    def record(self, elapsed_ms: float, error_code: str | None) -> None:
        """Note one answered request; call it in the event loop."""
        self.stats.count(elapsed_ms, error_code)
        if self._path is not None and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_WRITE_PERIOD_S, self.write)

    def write(self) -> None:
        """Bring the file up to date."""
        self._timer = None
        if self._path is None:
            return
        try:
            write_atomically(self._path, json.dumps(asdict(self.stats)))
        except OSError as error:  # a full disk costs figures in `status`, not answers
            logger.warning("the counters could not be written: %s", reason(error))


def read_all(folder: Path) -> RequestStats:
    """The sum over all replicas that ever wrote into `folder`; a file that cannot be understood does not count."""
    total = RequestStats()
    for path in folder.glob("*.json"):
        try:
            counts = json.loads(path.read_text())
            # By name: other versions of detectctl write other keys besides, and what their replicas answered counts.
            total.add(RequestStats(counts["requests"], counts["errors"], counts["latency"]))
        except (OSError, ValueError, TypeError, KeyError):
            continue
    return total
