"""Polling with a deadline."""

from __future__ import annotations

import pytest

from detectctl import waiting
from detectctl.errors import DeadlineExceeded
from detectctl.waiting import Deadline, NotYet, until


def test_the_first_answer_ends_the_wait() -> None:
    """Whatever it is: 0 and None are answers."""
    answers = iter([NotYet("a"), NotYet("b"), 0])
    assert until(lambda: next(answers), Deadline.after(30), "it never came") == 0
    assert list(answers) == []
    assert until(lambda: None, Deadline.after(30), "it never came") is None


def test_a_deadline_that_has_passed_still_allows_one_look() -> None:
    """Then the error names what was seen."""
    passed = Deadline.after(-1)
    assert passed.passed
    assert passed.left_s == 0
    assert until(lambda: "there", passed, "it never came") == "there"
    with pytest.raises(DeadlineExceeded, match="it never came") as caught:
        until(lambda: NotYet("nobody"), passed, "it never came")
    assert caught.value.why == "last seen: nobody"


def test_the_last_pause_ends_with_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interval of an hour does not make a wait of 50 ms last an hour."""
    monkeypatch.setattr(waiting, "_POLL_S", 3600)
    with pytest.raises(DeadlineExceeded):
        until(lambda: NotYet("nobody"), Deadline.after(0.05), "it never came")
