from __future__ import annotations

import itertools
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from detectctl.client.outcomes import Outcome, Outcomes, in_order
from detectctl.errors import DetectctlError, NotReady, SourceUnreadable, UrlNotAllowed
from detectctl.sources import Source

if TYPE_CHECKING:
    from collections.abc import Iterator


def test_results_come_in_the_order_of_the_items_though_they_are_ready_in_another() -> None:
    def work(item: int) -> int:
        time.sleep((5 - item) * 0.02)
        return item * 10

    assert list(in_order(work, range(5), workers=5, window=5)) == [0, 10, 20, 30, 40]


def test_so_many_work_at_once_and_no_more() -> None:
    barrier = threading.Barrier(3)
    lock = threading.Lock()
    working = most = 0

    def work(_item: int) -> None:
        nonlocal working, most
        with lock:
            working += 1
            most = max(most, working)
        barrier.wait(timeout=10)  # passes only if three are here together
        with lock:
            working -= 1

    list(in_order(work, range(9), workers=3, window=9))
    assert most == 3


def test_items_are_taken_at_most_the_window_ahead() -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for item in itertools.count():
            taken += 1
            yield item

    results = in_order(lambda item: item, items(), workers=2, window=5)
    for expected in range(20):
        assert next(results) == expected
        assert taken <= expected + 1 + 5


def test_a_slow_first_item_does_not_keep_the_others_from_being_worked_on() -> None:
    others_done = threading.Event()
    done = itertools.count(1)

    def work(item: int) -> int:
        if item == 0:
            assert others_done.wait(10)
        elif next(done) == 9:
            others_done.set()
        return item

    assert list(in_order(work, range(10), workers=2, window=10)) == list(range(10))


def test_what_work_raises_is_raised_in_its_turn() -> None:
    def work(item: int) -> int:
        if item == 1:
            raise KeyError(item)
        return item

    results = in_order(work, range(3), workers=3, window=3)
    assert next(results) == 0
    with pytest.raises(KeyError):
        next(results)


def test_closing_ends_the_threads_and_begins_nothing_more() -> None:
    begun: list[int] = []

    def work(item: int) -> int:
        begun.append(item)
        time.sleep(0.02)
        return item

    before = set(threading.enumerate())
    results = in_order(work, range(100), workers=2, window=50)
    next(results)
    results.close()
    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=20)
        assert not thread.is_alive()
    assert len(begun) < 10


def test_ctrl_c_ends_the_process_though_a_thread_is_stuck() -> None:
    """The thread is in a wait of a minute when the main thread is interrupted."""
    code = (
        "import threading, time\n"
        "from detectctl.client.outcomes import in_order\n"
        "stuck = threading.Event()\n"
        "def work(item):\n"
        "    if item:\n"
        "        stuck.wait()\n"
        "        raise KeyboardInterrupt\n"
        "    stuck.set()\n"
        "    time.sleep(60)\n"
        "results = in_order(work, [1, 0], workers=2, window=2)\n"
        "next(results)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=False)
    assert "KeyboardInterrupt" in done.stderr


LATE, FORBIDDEN, UNREADABLE = NotReady("late"), UrlNotAllowed("forbidden"), SourceUnreadable("unreadable")


@pytest.mark.parametrize(
    ("errors", "code"),
    [
        ([], 0),
        ([None, None], 0),
        ([None, LATE], 6),
        ([UNREADABLE], 6),
        ([LATE, LATE], 4),
        ([FORBIDDEN], 7),
        ([LATE, FORBIDDEN], 6),
    ],
)
def test_the_exit_code_is_that_of_the_one_reason_that_all_failed_for_else_6(
    errors: list[DetectctlError | None], code: int
) -> None:
    outcomes = Outcomes(Outcome(Source("a.jpg"), error=error) for error in errors)
    assert len(list(outcomes)) == len(errors)
    assert outcomes.exit_code == code
