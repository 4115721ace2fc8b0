"""Minimum confidences as people write them, on the command line as in the query of a request."""

from __future__ import annotations

import re
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Minimum confidences, 0 to 1: of all classes, and of those that have one of their own.

    Written `0.4`, `0.4,person=0.25` or `person=0.25`.
    """

    confidence: float | None = None
    by_class: dict[str, float] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Thresholds:
        """As written in `text`; a name reaches to the `=` before a number. ValueError says what is wrong."""
        confidence, at = None, 0
        first = text.partition(",")[0]
        try:
            float(first)
        except ValueError:
            pass  # it begins with a class, whose name may have a comma in it
        else:
            confidence, at = _share(first), len(first) + 1
        by_class: dict[str, float] = {}
        while at <= len(text):
            if (match := _OF_A_CLASS.match(text, at)) is None:
                raise ValueError(_THRESHOLDS)
            name = match[1].strip()
            if name in by_class:
                raise ValueError(f"must give {name[:100]!r} one threshold, not two")
            by_class[name], at = _share(match[2]), match.end() + 1
        return cls(confidence, by_class)

    def __str__(self) -> str:
        general = [] if self.confidence is None else [f"{self.confidence}"]
        return ",".join(general + [f"{name}={value}" for name, value in self.by_class.items()])


_OF_A_CLASS = re.compile(r"(.*?)=(\s*[+-]?(?:\.?\d[^=,]*|(?:nan|inf(?:inity)?)\s*))(?=,|\Z)", re.DOTALL | re.IGNORECASE)
_THRESHOLDS = "must be a number from 0 to 1, or one for each class, as in 0.4,person=0.25"


def _share(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise ValueError(_THRESHOLDS) from None
    if not 0 <= number <= 1:  # also NaN
        raise ValueError("must be from 0 to 1")
    return number
