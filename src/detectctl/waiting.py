"""Waiting the one way that detectctl does: poll, with a deadline, and name what was seen last."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from detectctl.errors import DeadlineExceeded

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
_POLL_S = 0.1


@dataclass(frozen=True, slots=True, order=True)
class Deadline:
    """A moment, in seconds of the monotonic clock."""

    at: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """So many seconds from now."""
        return cls(time.monotonic() + seconds)

    @property
    def left_s(self) -> float:
        """Seconds until then; 0 once it has passed."""
        return max(0.0, self.at - time.monotonic())

    @property
    def passed(self) -> bool:
        """Whether it is over."""
        return time.monotonic() >= self.at


@dataclass(frozen=True, slots=True)
class NotYet:
    """What a probe saw instead of what is waited for, in words that complete `last seen: …`."""

    seen: str


def until(probe: Callable[[], T | NotYet], deadline: Deadline, late: str) -> T:
    """The first answer of `probe` other than `NotYet`; it is called at least once, and what it raises ends the wait.

    Raises:
        DeadlineExceeded: `late`, and what was seen last.
    """
    while isinstance(found := probe(), NotYet):
        if deadline.passed:
            raise DeadlineExceeded(late, why=f"last seen: {found.seen}", hint="allow more time with `--timeout`")
        time.sleep(min(_POLL_S, max(0.001, deadline.left_s)))
    return found
