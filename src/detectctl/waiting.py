"""Waiting the one way that detectctl does: poll, with a deadline, and name what was seen last."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from detectctl.errors import DetectctlError

T = TypeVar("T")


@dataclass(frozen=True, slots=True, order=True)
class Deadline:
    """A moment on the monotonic clock.

    Attributes:
        at: seconds, as `time.monotonic` counts.
    """

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


def until(
    probe: Callable[[], T | NotYet], deadline: Deadline, *, every_s: float, late: Callable[[str], DetectctlError]
) -> T:
    """The first answer of `probe` other than `NotYet`; it is called at least once.

    Args:
        probe: looks once; what it raises ends the wait.
        deadline: of the whole wait.
        every_s: seconds between two looks.
        late: makes the error to raise when the deadline has passed, from what was seen last.
    """
    while isinstance(found := probe(), NotYet):
        if deadline.passed:
            raise late(found.seen)
        time.sleep(min(every_s, max(0.001, deadline.left_s)))
    return found
