"""Numbers in a file that outlives their writer."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from array import array
from typing import TYPE_CHECKING

from detectctl.serving.request_log import LOGGER
from detectctl.serving.tally import Key, Tally, read, read_all, total

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


class _Asking(dict[Key, int]):
    """Asks for all numbers whenever one gets its name, as another thread may."""

    def __init__(self, tally: Tally) -> None:
        super().__init__()
        self.tally, self.seen = tally, list[dict[Key, float]]()

    def __setitem__(self, key: Key, place: int) -> None:
        self.seen.append(self.tally.values)
        super().__setitem__(key, place)
        self.seen.append(self.tally.values)


def test_the_numbers_may_be_read_while_one_is_added() -> None:
    tally = Tally(None)
    asking = tally._places = _Asking(tally)
    tally.add((("x",), 2.0), (("y",), 3.0))
    assert asking.seen == [{}, {("x",): 0.0}, {("x",): 2.0}, {("x",): 2.0, ("y",): 0.0}]


def test_each_change_is_in_the_file_at_once(tmp_path: Path) -> None:
    tally = Tally(tmp_path / "a.tally", {"replica": "a"})
    tally.add((("x", "ä"), 2.0), (("y",), 0.5))
    tally.add((("y",), 0.25))
    assert read(tmp_path / "a.tally") == ({"replica": "a"}, {("x", "ä"): 2.0, ("y",): 0.75})
    tally.describe({"replica": "b"})
    assert read(tmp_path / "a.tally") == ({"replica": "b"}, tally.values)
    assert [path.name for path in tmp_path.iterdir()] == ["a.tally"]
    assert (tmp_path / "a.tally").stat().st_mode & 0o777 == 0o600
    tally.close()


def test_who_comes_after_continues(tmp_path: Path) -> None:
    for _ in range(3):
        tally = Tally(tmp_path / "a.tally")
        tally.add((("x",), 1.0))
        tally.close()
    assert read(tmp_path / "a.tally")[1] == {("x",): 3.0}


def test_nothing_that_was_counted_is_lost_with_a_process_that_is_killed(tmp_path: Path) -> None:
    """It says each number before it counts on; what it has said is in the file, however it ends."""
    script = (
        "import sys; from pathlib import Path; from detectctl.serving.tally import Tally\n"
        "tally = Tally(Path(sys.argv[1]))\n"
        "for number in range(10**9):\n"
        "    tally.add((('x',), 1.0), (('y', str(number % 300)), 1.0)); print(number + 1, flush=True)\n"
    )
    file = tmp_path / "a.tally"
    with subprocess.Popen([sys.executable, "-c", script, str(file)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) == 2000:
                break
        process.send_signal(signal.SIGKILL)
        said = int([line, *process.stdout][-1])
    counted = read(file)[1]
    assert counted[("x",)] - said in (0, 1)
    assert sum(value for (name, *_), value in counted.items() if name == "y") == counted[("x",)]


def test_a_reader_never_sees_less_than_before(tmp_path: Path) -> None:
    """Nor half a change, while new numbers come to the file and old ones grow."""
    tally = Tally(tmp_path / "a.tally")
    tally.add((("x",), 0.0))
    seen: list[float] = []
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            seen.append(read(tmp_path / "a.tally")[1][("x",)])

    thread = threading.Thread(target=look)
    thread.start()
    number = 0
    while len(seen) < 500 or number < 3000:
        number += 1
        tally.add((("x",), 1.0), (("y", str(number // 10)), 1.0))
    stop.set()
    thread.join()
    tally.close()
    assert seen == sorted(seen)
    assert len(set(seen)) > 5


def test_what_is_damaged_is_left_out_of_the_sum(tmp_path: Path) -> None:
    for name in "ab":
        tally = Tally(tmp_path / f"{name}.tally")
        tally.add((("x",), 1.0), ((name,), 1.0))
        tally.close()
    whole = (tmp_path / "a.tally").read_bytes()
    damaged = (b"", b"{", b"{}\n", b"[]\n", whole[:-8], whole[:-3], b"\xff" + whole, whole.partition(b"\n")[0])
    for number, data in enumerate(damaged):
        (tmp_path / f"{number}.tally").write_bytes(data)
    (tmp_path / ".a.tally.0.part").write_bytes(whole)  # of a process that was killed while it wrote a file
    found = read_all(tmp_path)
    assert len(found) == 2
    assert total(values for _, values in found) == {("x",): 2.0, ("a",): 1.0, ("b",): 1.0}


def test_what_another_version_says_besides_does_no_harm(tmp_path: Path) -> None:
    """During an update both write."""
    told = {"about": {"new": 1}, "keys": [["x"], ["new", "a", "b"]], "more": True}
    (tmp_path / "a.tally").write_bytes(json.dumps(told).encode() + b"\n" + array("d", [1.0, 2.0]).tobytes())
    assert read(tmp_path / "a.tally") == ({"new": 1}, {("x",): 1.0, ("new", "a", "b"): 2.0})


def test_a_full_disk_costs_figures_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said once, and when there is room again the file has everything."""
    monkeypatch.setattr(logging.getLogger(LOGGER), "propagate", True)  # a replica's request log turns it off
    folder = tmp_path / "later"
    tally = Tally(folder / "a.tally")
    with caplog.at_level(logging.WARNING, LOGGER):
        for _ in range(3):
            tally.add((("x",), 1.0))
    # Counted by file: a tally of another test may also have lost its folder.
    assert caplog.text.count(f"could not be written to {folder / 'a.tally'}: No such file") == 1
    folder.mkdir()
    tally.add((("x",), 1.0))
    assert read(folder / "a.tally")[1] == {("x",): 4.0}
    monkeypatch.setattr(os, "pwrite", lambda *_: 0)  # what a full disk may say instead
    tally.add((("x",), 1.0))
    monkeypatch.undo()
    tally.add((("x",), 1.0))
    assert read(folder / "a.tally")[1] == {("x",): 6.0}
    tally.close()
