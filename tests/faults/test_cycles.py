"""Many lives of an instance, one after the other: none leaves anything, and the last is as quick as the first."""

from __future__ import annotations

import statistics
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from faults.scene import TABLE, Row, fresh_options, within
from remains import Remains

if TYPE_CHECKING:
    from installed import Home

# Long: fifty starts; that one leaves nothing is a part of test_life.py.
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3000), pytest.mark.long]

CYCLES = 50


def test_nothing_piles_up(home: Home) -> None:
    """Processes, ports, shared memory, temporary files and our own state are as they were before the first."""
    options = fresh_options()
    temporary = home.path / "tmp"
    temporary.mkdir()
    run = partial(home.run, TMPDIR=str(temporary))
    assert run("up", *options).returncode == 0  # leaves what every first `up` leaves
    assert run("down").returncode == 0
    before, open_files = Remains.of(home, temporary), _open_files()
    seconds: list[float] = []
    downs: list[float] = []
    for _ in range(CYCLES):
        begun = time.monotonic()
        done = run("up", *options)
        seconds.append(time.monotonic() - begun)
        assert done.returncode == 0, done.stderr
        before.note()
        begun = time.monotonic()
        done = run("down")
        assert done.returncode == 0, done.stderr
        downs.append(time.monotonic() - begun)
        seconds[-1] += downs[-1]
    before.assert_nothing_else()
    third = CYCLES // 3
    ratio = statistics.median(seconds[-third:]) / statistics.median(seconds[:third])
    TABLE.append(Row(f"{CYCLES} cycles; last third by first x{ratio:.2f}", 0, 0, seconds=statistics.median(seconds)))
    TABLE.append(Row(f"  open files of the machine {open_files} -> {_open_files()}", 0, 0))
    TABLE.append(Row("  the slowest down of them, idle", 0, 0, seconds=max(downs)))
    assert max(downs) < within(12)
    assert ratio <= 1.25, seconds


def _open_files() -> int:
    return int(Path("/proc/sys/fs/file-nr").read_text().split()[0])
