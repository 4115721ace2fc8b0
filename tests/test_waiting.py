"""Polling with a deadline."""

from __future__ import annotations

import pytest

from detectctl.errors import DeadlineExceeded
from detectctl.waiting import Deadline, until


def late() -> DeadlineExceeded:
    return DeadlineExceeded("it never came")


def test_the_first_answer_ends_the_wait() -> None:
    answers = iter([None, None, 0])
    assert until(lambda: next(answers), Deadline.after(30), every_s=0.001, late=late) == 0
    assert list(answers) == []


def test_a_deadline_that_has_passed_still_allows_one_look() -> None:
    """Then the caller's own error, which can name what was seen."""
    passed = Deadline.after(-1)
    assert passed.passed
    assert passed.left_s == 0
    assert until(lambda: "there", passed, every_s=60, late=late) == "there"
    with pytest.raises(DeadlineExceeded, match="it never came"):
        until(lambda: None, passed, every_s=60, late=late)


def test_the_last_pause_ends_with_the_deadline() -> None:
    """However long the interval: an interval of an hour does not make a wait of 50 ms last an hour."""
    with pytest.raises(DeadlineExceeded):
        until(lambda: None, Deadline.after(0.05), every_s=3600, late=late)
