"""What `up` and `down` report while they work, also from child processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Step = Literal["lock", "device", "resolve", "convert", "quantise", "start Ray", "deploy", "warm up", "drain", "stop"]


@dataclass(frozen=True, slots=True)
class Progress:
    """What a step is doing now, or how it ended.

    Attributes:
        fraction: how much of it is done, from 0 to 1, where that is known.
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
