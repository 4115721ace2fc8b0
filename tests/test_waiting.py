"""Polling with a deadline."""

from __future__ import annotations

import pytest

from detectctl.errors import DeadlineExceeded
from detectctl.waiting import Deadline, NotYet, until


def late(seen: str) -> DeadlineExceeded:
    return DeadlineExceeded("it never came", why=f"last seen: {seen}")


def test_the_first_answer_ends_the_wait() -> None:
    """Whatever it is: 0 and None are answers."""
    answers = iter([NotYet("a"), NotYet("b"), 0])
    assert until(lambda: next(answers), Deadline.after(30), every_s=0.001, late=late) == 0
    assert list(answers) == []
    assert until(lambda: None, Deadline.after(30), every_s=0.001, late=late) is None


def test_a_deadline_that_has_passed_still_allows_one_look() -> None:
    """Then the caller's own error names what was seen."""
    passed = Deadline.after(-1)
    assert passed.passed
    assert passed.left_s == 0
    assert until(lambda: "there", passed, every_s=60, late=late) == "there"
    with pytest.raises(DeadlineExceeded, match="it never came") as caught:
        until(lambda: NotYet("nobody"), passed, every_s=60, late=late)
    assert caught.value.why == "last seen: nobody"


def test_the_last_pause_ends_with_the_deadline() -> None:
    """An interval of an hour does not make a wait of 50 ms last an hour."""
    with pytest.raises(DeadlineExceeded):
        until(lambda: NotYet("nobody"), Deadline.after(0.05), every_s=3600, late=late)
