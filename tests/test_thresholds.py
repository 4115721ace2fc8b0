"""Thresholds as people write them."""

from __future__ import annotations

import re

import pytest

from detectctl.thresholds import Thresholds
from detectctl.wire import DetectOptions


@pytest.mark.parametrize(
    ("text", "confidence", "by_class"),
    [
        ("0.4", 0.4, {}),
        ("1e-3", 0.001, {}),
        ("0.4,person=0.25", 0.4, {"person": 0.25}),
        ("person=0.25, traffic light=1", None, {"person": 0.25, "traffic light": 1.0}),
        ("0.4,a=b=0.1,c, d=0.2,=0.3", 0.4, {"a=b": 0.1, "c, d": 0.2, "": 0.3}),
        ("c, d=0.2,1,e=0.3", None, {"c, d": 0.2, "1,e": 0.3}),
        ("0.4,\n=0.1,人=0.2", 0.4, {"": 0.1, "人": 0.2}),
        ("x=y,z=0.3", None, {"x=y,z": 0.3}),
        ("size=info,x=0.3", None, {"size=info,x": 0.3}),
        ("0.4,a=b,c=,d= .5 ,e=1", 0.4, {"a=b,c=,d": 0.5, "e": 1.0}),
    ],
)
def test_thresholds_are_written_as_they_are_read(
    text: str, confidence: float | None, by_class: dict[str, float]
) -> None:
    """A name reaches to the `=` before a number, so it may have a comma or another `=` in it."""
    read = Thresholds.parse(text)
    assert read == Thresholds(confidence, by_class)
    assert Thresholds.parse(str(read)) == read
    assert DetectOptions(confidence, class_confidence=by_class).parameters() == [("conf", str(read))]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        *(
            (text, "0.4,person=0.25")
            for text in ("", "high", "0.4,", "0.4,person", "person=", "a=high", "x=y,z", "a=0.1,")
        ),
        *((text, "from 0 to 1") for text in ("2", "-0.1", "nan", "inf", "person=1.01", "0.4,person=nan")),
        ("0.4,person=0.1,person=0.1", "'person' one threshold"),
    ],
)
def test_what_are_no_thresholds_is_refused(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        Thresholds.parse(text)
