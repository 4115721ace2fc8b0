"""Which processes are an instance's own."""

from __future__ import annotations

import contextlib
import os
import platform
import secrets
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil
import pytest

from detectctl import processes
from detectctl.processes import MARKER, Process
from installed import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# A child whose environment says nothing, as that of a process which wrote its title over it.
_FAMILY = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], env={})
print(child.pid, flush=True)
time.sleep(60)
"""


@dataclass(frozen=True)
class Family:
    """A mark, the head that carries it, the head's folder, and its child that does not carry it."""

    mark: str
    head: Process
    folder: Path
    child: psutil.Process

    def found(self, *, mark: str | None = None, folder: Path | None = None, head: bool = True) -> set[int]:
        found = processes.family(mark or self.mark, self.head if head else None, folder or self.folder)
        return {process.pid for process in found}


@pytest.fixture
def family(tmp_path: Path) -> Iterator[Family]:
    folder = tmp_path / "instance"
    folder.mkdir()
    mark = secrets.token_hex(8)
    with subprocess.Popen(
        [sys.executable, "-c", _FAMILY],
        env={**os.environ, MARKER: mark},
        cwd=folder,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        try:
            yield Family(mark, Process.of(parent.pid), folder, child)
        finally:
            for process in (child, parent):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()


def _gone(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_process_without_the_mark_is_known_by_its_parent(family: Family) -> None:
    assert family.found(head=False) == {family.head.pid, family.child.pid}
    assert family.found(head=False, mark="another") == set()
    processes.end(processes.family(family.mark, family.head, family.folder), grace_s=5)
    processes.reap(family.head.pid)
    wait_until(lambda: _gone(family.child))


def test_an_orphan_without_the_mark_is_known_by_session_and_folder(family: Family, tmp_path: Path) -> None:
    """Either alone could be a stranger's: a number that is in use again, or a shell that looks around there."""
    psutil.Process(family.head.pid).kill()
    wait_until(lambda: family.head.find() is None)
    family.folder.rmdir()
    assert family.found() == {family.child.pid}
    assert family.found(folder=tmp_path) == set()
    assert family.found(head=False) == set()


def test_a_killed_family_leaves_nobody(family: Family) -> None:
    """Nor does one whose parent has ended and that leads a session of its own; another family is left alone."""
    mark = secrets.token_hex(8)
    env = {**os.environ, MARKER: mark}
    shell = ["/bin/sh", "-c", "sleep 600 >&- & echo $!"]
    pid = subprocess.run(shell, env=env, stdout=subprocess.PIPE, check=True, start_new_session=True).stdout
    orphan = psutil.Process(int(pid))
    processes.kill_family(mark)
    assert _gone(orphan)
    processes.kill_family(mark)  # a second time is not an error
    assert not _gone(family.child)


_EXIT_OF_A_THREAD = {"x86_64": 60, "aarch64": 93}


@pytest.mark.skipif(platform.machine() not in _EXIT_OF_A_THREAD, reason="another number of the system call")
def test_a_process_has_not_ended_while_one_of_its_threads_lives() -> None:
    """Its first thread is a zombie before the others let go of their files."""
    code = "import ctypes, sys, threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()\n"
    code += "ctypes.CDLL(None).syscall(int(sys.argv[1]), 0)"
    command = [sys.executable, "-c", code, str(_EXIT_OF_A_THREAD[platform.machine()])]
    with subprocess.Popen(command) as started:
        process = psutil.Process(started.pid)
        try:
            wait_until(lambda: process.status() == psutil.STATUS_ZOMBIE)
            assert not processes.ended(process)
        finally:
            started.kill()
        wait_until(lambda: processes.ended(process))


def test_a_pid_is_only_ours_together_with_its_start_and_boot() -> None:
    mine = Process.of(os.getpid())
    assert mine.find() is not None
    assert Process(mine.pid, mine.started - 1, mine.boot).find() is None
    assert Process(mine.pid, mine.started, "another boot").find() is None
    with pytest.raises(psutil.NoSuchProcess):
        Process.of(2**22 + 1)


def test_a_mark_may_be_of_any_bytes() -> None:
    """Any program may set the variable; it is not an instance's, and no reason to fail."""
    with subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"], env={os.fsencode(MARKER): b"\xff"}
    ) as process:
        try:
            # The system closes what `Popen` waits for a moment before it lays the variables out.
            wait_until(lambda: processes.mark_of(psutil.Process(process.pid)) == os.fsdecode(b"\xff"))
            assert process.pid not in {one.pid for one in processes.family(secrets.token_hex(8))}
        finally:
            process.kill()
