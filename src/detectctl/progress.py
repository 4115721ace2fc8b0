"""What `up` and `down` say while they work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Step = Literal["lock", "resolve", "convert", "quantise", "start Ray", "deploy", "warm up", "drain", "stop"]


@dataclass(frozen=True, slots=True)
class Progress:
    """One thing to tell.

    Attributes:
        step: which step is under way.
        message: what is known of it now.
        done: whether the step is finished.
        fraction: 0 to 1 where it can be said.
        warning: whether a person should notice although nothing failed.
    """

    step: Step
    message: str
    done: bool = False
    fraction: float | None = None
    warning: bool = False


Report = Callable[[Progress], None]


def silent(_: Progress) -> None:
    """A `Report` for callers who show nothing."""
