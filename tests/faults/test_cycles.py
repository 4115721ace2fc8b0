"""Many lives of an instance, one after the other: none leaves anything, and the last is as quick as the first."""

from __future__ import annotations

import contextlib
import statistics
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

import tiers
from faults.scene import TABLE, Row, fresh_options, within
from installed import listening, marked

if TYPE_CHECKING:
    from installed import Home

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(3000)]

CYCLES = 50 if tiers.ALL else 1


def _listened_at(home: Home) -> set[int]:
    """Where anybody listens whose home is this one; a neighbour may have taken a port that is free again."""
    ports = set()
    for one in psutil.net_connections("tcp"):
        if one.status == psutil.CONN_LISTEN and one.pid is not None and one.laddr:
            with contextlib.suppress(OSError):
                if f"HOME={home.path}".encode() in Path(f"/proc/{one.pid}/environ").read_bytes():
                    ports.add(one.laddr.port)
    return ports


def _files(home: Home) -> set[Path]:
    """The state folder's, and the machine's shared memory, where Ray keeps its object store."""
    return {*home.state.rglob("*"), *Path("/dev/shm").iterdir()}  # noqa: S108 - listed, not written


def _in_use() -> str:
    """What any process has mapped or open: a file in shared memory may be that of a test beside this one."""
    used = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            used += [one.path for one in process.memory_maps()] + [one.path for one in process.open_files()]
    return "\n".join(used)


def test_nothing_piles_up(home: Home) -> None:
    """Processes, ports, shared memory, temporary files and our own state are as they were before the first."""
    options = fresh_options()
    # Of its own: what other commands on this machine leave in theirs is not ours.
    temporary = home.path / "tmp"
    temporary.mkdir()
    run = partial(home.run, TMPDIR=str(temporary))
    assert run("up", *options).returncode == 0  # leaves what every first `up` leaves
    assert run("down").returncode == 0
    files, open_files = _files(home), _open_files()
    seconds: list[float] = []
    downs: list[float] = []
    ports: set[int] = set()
    states: list[dict[str, Any]] = []
    for _ in range(CYCLES):
        begun = time.monotonic()
        done = run("up", *options)
        seconds.append(time.monotonic() - begun)
        assert done.returncode == 0, done.stderr
        state = home.instance()
        assert state is not None
        states.append(state)
        ports |= {port for _, port, _ in listening(home.processes())}
        begun = time.monotonic()
        done = run("down")
        assert done.returncode == 0, done.stderr
        downs.append(time.monotonic() - begun)
        seconds[-1] += downs[-1]
    assert [process for state in states for process in marked(state["instance_id"])] == []
    assert [state["temp_dir"] for state in states if Path(state["temp_dir"]).exists()] == []
    assert ports
    assert ports & _listened_at(home) == set()
    in_use = _in_use()
    assert [file for file in _files(home) - files if str(file) not in in_use] == []
    assert list(temporary.iterdir()) == []
    third = max(1, CYCLES // 3)
    ratio = statistics.median(seconds[-third:]) / statistics.median(seconds[:third])
    TABLE.append(Row(f"{CYCLES} cycles; last third by first x{ratio:.2f}", 0, 0, seconds=statistics.median(seconds)))
    TABLE.append(Row(f"  open files of the machine {open_files} -> {_open_files()}", 0, 0))
    TABLE.append(Row("  the slowest down of them, idle", 0, 0, seconds=max(downs)))
    assert max(downs) < within(12)
    if tiers.ALL:
        assert ratio <= 1.25, seconds


def _open_files() -> int:
    return int(Path("/proc/sys/fs/file-nr").read_text().split()[0])
