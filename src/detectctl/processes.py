"""Which processes are ours: a pid counts only together with its start time, so a stranger's never does."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from detectctl.waiting import Deadline

MARKER = "DETECTCTL_INSTANCE_ID"
"""The environment variable that every process of an instance inherits."""


@dataclass(frozen=True, slots=True)
class Process:
    """One process of this machine: its pid may be in use again after its end, all three together never.

    Attributes:
        started: on Linux in clock ticks since the machine started, which no setting of the clock changes; elsewhere in
            seconds since the epoch.
        boot: which run of the machine it belongs to; empty where the system does not say.
    """

    pid: int
    started: float
    boot: str = ""

    @classmethod
    def of(cls, pid: int) -> Process:
        """The process that has this pid now; psutil.NoSuchProcess if none."""
        return cls(pid, _started(psutil.Process(pid)), boot_id())

    def find(self) -> psutil.Process | None:
        """The living process, or None if it ended, even if its pid is in use again."""
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            process = psutil.Process(self.pid)
            same = self.boot == boot_id() and _started(process) == self.started
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        return None


def used(process: psutil.Process) -> dict[str, float]:
    """What a process has taken: `memory`, its resident bytes, and `cpu`, its seconds of user and system."""
    times = process.cpu_times()
    return {"memory": process.memory_info().rss, "cpu": times.user + times.system}


def _started(process: psutil.Process) -> float:
    try:
        stat = Path(f"/proc/{process.pid}/stat").read_text()
    except FileNotFoundError:  # not Linux, or gone meanwhile
        return process.create_time()
    except ProcessLookupError as error:
        raise psutil.NoSuchProcess(process.pid) from error
    # proc(5): the name, in parentheses, may hold anything; starttime is field 22, the 20th after it.
    return float(stat.rpartition(")")[2].split()[19])


def boot_id() -> str:
    """Of this run of the machine; empty where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def family(mark: str, head: Process | None = None, folder: Path | None = None) -> list[psutil.Process]:
    """Every living process that carries the mark in its environment, and its descendants, but not this process.

    A process that gives itself a long title overwrites its environment, as some of Ray's do: it is known by its
    parent, or, when that has died, by the head's session and folder together.

    Args:
        mark: the value of `MARKER`.
        head: the leader of its session, whether it lives or not.
        folder: where its processes work; nobody else knows it, and after a crash it may be gone.
    """
    everybody = {process.pid: process for process in psutil.process_iter()}
    children: dict[int, list[int]] = {}
    pids = []
    for pid, process in everybody.items():
        with contextlib.suppress(psutil.Error, OSError):
            children.setdefault(process.ppid(), []).append(pid)
            if mark_of(process) == mark or (head is not None and _is_of(process, head.pid, folder)):
                pids.append(pid)
    found: dict[int, psutil.Process] = {}
    while pids:
        pid = pids.pop()
        if pid not in found and pid != os.getpid():
            found[pid] = everybody[pid]
            pids += children.get(pid, ())
    return [process for process in found.values() if not ended(process)]


def seen(mark: str) -> bool:
    """Whether processes of the `family` have the pids here that they have themselves; a container's have others."""
    return any(_pid_namespace(process.pid) == _pid_namespace(os.getpid()) for process in family(mark))


def _pid_namespace(pid: int) -> str:
    with contextlib.suppress(OSError):  # not Linux, or gone meanwhile
        return str(Path(f"/proc/{pid}/ns/pid").readlink())
    return ""


def _is_of(process: psutil.Process, session: int, folder: Path | None) -> bool:
    # Either alone is not enough: the session's number may have been reused, and a shell may be in the folder.
    return os.getsid(process.pid) == session and process.cwd().removesuffix(" (deleted)") == str(folder)


def mark_of(process: psutil.Process) -> str | None:
    """The mark that it carries; None if it has none, or wrote over it. psutil.Error or OSError if it cannot be read."""
    return variable_of(process, MARKER)


def variable_of(process: psutil.Process, name: str) -> str | None:
    """What it inherited as an environment variable; None and errors as `mark_of`."""
    try:
        block = Path(f"/proc/{process.pid}/environ").read_bytes()
    except FileNotFoundError:  # not Linux, or gone meanwhile
        return process.environ().get(name)
    # Ray's processes write their title over the block's beginning, where psutil's parser gives up.
    begin = f"{name}=".encode()
    return next((os.fsdecode(each[len(begin) :]) for each in block.split(b"\0") if each.startswith(begin)), None)


def end(found: list[psutil.Process], signum: int = signal.SIGTERM, *, grace_s: float) -> None:
    """Send the signal, and SIGKILL to those alive after `grace_s`; returns when all have ended."""
    kill(_signalled(found, signum, grace_s))


def kill(found: list[psutil.Process]) -> None:
    """SIGKILL; returns when all have ended."""
    _signalled(found, signal.SIGKILL, 5.0)


def kill_family(mark: str, head: Process | None = None, folder: Path | None = None) -> None:
    """SIGKILL for the `family`; returns when all have ended."""
    for _ in range(3):  # again for one that was just being started; more often means that it cannot be killed
        if not (found := family(mark, head, folder)):
            return
        kill(found)


def _signalled(found: list[psutil.Process], signum: int, timeout_s: float) -> list[psutil.Process]:
    """Those that are alive so long after the signal."""
    for process in found:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signum)
    deadline = Deadline.after(timeout_s)
    while (alive := [process for process in found if not ended(process)]) and not deadline.passed:
        time.sleep(0.02)
    return alive


def ended(process: psutil.Process) -> bool:
    """Whether it is gone, or a zombie: its pid stays until its parent, or init, looks."""
    try:
        # A zombie may have threads that are still in the kernel, and write a last file.
        return not process.is_running() or (process.status() == psutil.STATUS_ZOMBIE and process.num_threads() <= 1)
    except psutil.NoSuchProcess:
        return True


def reap(pid: int) -> None:
    """Take note of a child's end, so that it is not a zombie; a process that is not our child is left alone."""
    with contextlib.suppress(OSError):
        os.waitpid(pid, os.WNOHANG)
