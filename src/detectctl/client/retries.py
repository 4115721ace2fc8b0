"""When a request that failed is made again."""

from __future__ import annotations

import random
import threading
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from detectctl.errors import DetectctlError
    from detectctl.waiting import Deadline

T = TypeVar("T")

FIRST_PAUSE_S = 0.2
"""Before the second attempt; doubles with each further one."""

_LONGEST_PAUSE_S = 3.2


class TryAgain(Exception):
    """This attempt failed in a way that another may not.

    Args:
        problem: what to raise if there is no other attempt.
        pause_s: what the server asked for.
        counts: against the number of retries; a service that is away or full for a while is waited for instead.
    """

    def __init__(self, problem: DetectctlError, pause_s: float = 0.0, *, counts: bool = True) -> None:
        super().__init__(problem.what)
        self.problem, self.pause_s, self.counts = problem, pause_s, counts


class RetryPolicy:
    """Growing and random pauses, until the `retries` after the first attempt are used up, the deadline, or `close`."""

    def __init__(self, retries: int) -> None:
        self._retries = retries
        self._closed = threading.Event()

    def close(self) -> None:
        """End all pauses; their requests raise their last problem."""
        self._closed.set()

    def run(self, attempt: Callable[[], T], deadline: Deadline, *, retry: bool = True) -> T:
        """What `attempt` returns first; raises the last problem, or anything else that `attempt` raises."""
        left = self._retries if retry else 0
        base = FIRST_PAUSE_S
        while True:
            try:
                return attempt()
            except TryAgain as again:
                # Random, or all threads that one refusal hit come back together.
                pause = again.pause_s + base * random.uniform(0.5, 1.5)  # noqa: S311 - no secret
                if left == 0 or pause >= deadline.left_s or self._closed.wait(pause):
                    raise again.problem from again.__cause__
                left -= again.counts
                base = min(2 * base, _LONGEST_PAUSE_S)
