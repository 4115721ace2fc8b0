"""Which processes are ours: a pid counts only together with its start time, a stranger never does."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

MARKER = "DETECTCTL_INSTANCE_ID"
"""The environment variable that every process an instance causes inherits."""


@dataclass(frozen=True, slots=True)
class Process:
    """One process of this machine.

    Attributes:
        pid: reused by the system after the process ends.
        started: when it started; pid and this together are unique on a machine until it is restarted. On Linux in
            clock ticks since the machine started, which no setting of the clock changes; elsewhere in seconds since
            the epoch.
        boot: which run of the machine it belongs to; empty where the system does not say.
    """

    pid: int
    started: float
    boot: str = ""

    @classmethod
    def of(cls, pid: int) -> Process:
        """The process that has this pid now; psutil.NoSuchProcess if none."""
        return cls(pid, _started(psutil.Process(pid)), _boot())

    def find(self) -> psutil.Process | None:
        """The living process, or None if it ended, even if its pid is in use again."""
        try:
            process = psutil.Process(self.pid)
            same = self.boot == _boot() and _started(process) == self.started
            if same and process.status() != psutil.STATUS_ZOMBIE:
                return process
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            pass
        return None


def _started(process: psutil.Process) -> float:
    try:
        stat = Path(f"/proc/{process.pid}/stat").read_text()
    except FileNotFoundError:  # no Linux, or gone meanwhile
        return process.create_time()
    except ProcessLookupError as error:
        raise psutil.NoSuchProcess(process.pid) from error
    # proc(5): the name, in parentheses, may hold anything; starttime is field 22, the 20th after it.
    return float(stat.rpartition(")")[2].split()[19])


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def family(instance_id: str, head: Process | None = None, folder: Path | None = None) -> list[psutil.Process]:
    """Every living process that an instance caused, but not this one.

    They carry its mark in their environment. A process that gives itself a long title writes over its environment, as
    some of Ray's do: it is known by its parent, or, when that has died, by the head's session and folder together.

    Args:
        instance_id: the mark.
        head: the leader of its session, whether it lives or not.
        folder: where its processes work; nobody else knows it, and after a crash it may be gone.
    """
    everybody = {process.pid: process for process in psutil.process_iter()}
    children: dict[int, list[int]] = {}
    wanted = []
    for pid, process in everybody.items():
        with contextlib.suppress(psutil.Error, OSError):
            children.setdefault(process.ppid(), []).append(pid)
            if _carries(process, instance_id) or (head is not None and _is_of(process, head.pid, folder)):
                wanted.append(pid)
    found: dict[int, psutil.Process] = {}
    while wanted:
        pid = wanted.pop()
        if pid not in found and pid != os.getpid():
            found[pid] = everybody[pid]
            wanted += children.get(pid, ())
    return list(found.values())


def _is_of(process: psutil.Process, session: int, folder: Path | None) -> bool:
    # Either alone would not do: the session's number may be another's by now, and a shell may be in the folder.
    return os.getsid(process.pid) == session and process.cwd().removesuffix(" (deleted)") == str(folder)


def _carries(process: psutil.Process, instance_id: str) -> bool:
    try:
        block = Path(f"/proc/{process.pid}/environ").read_bytes()
    except FileNotFoundError:  # no Linux, or gone meanwhile
        return process.environ().get(MARKER) == instance_id
    # Ray's processes write their title over the block's beginning, where psutil's parser gives up.
    return f"{MARKER}={instance_id}".encode() in block.split(b"\0")


def end(found: list[psutil.Process], signum: int = signal.SIGTERM, *, grace_s: float) -> None:
    """Send the signal, and SIGKILL to those alive after `grace_s`; returns when all have ended."""
    _send(found, signum)
    kill(_alive_after(found, grace_s))


def kill(found: list[psutil.Process]) -> None:
    """SIGKILL; returns when all have ended."""
    _send(found, signal.SIGKILL)
    _alive_after(found, 5.0)


def kill_family(mark: str) -> None:
    """SIGKILL every process that carries the mark, and its descendants; returns when all have ended."""
    for _ in range(3):  # again for one that was just being started; more often means that it cannot be killed
        if not (found := [process for process in family(mark) if not ended(process)]):
            return
        kill(found)


def _send(found: list[psutil.Process], signum: int) -> None:
    for process in found:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signum)


def _alive_after(found: list[psutil.Process], timeout_s: float) -> list[psutil.Process]:
    """Who has not ended after `timeout_s` at most; a zombie has, though its pid is there until init looks."""
    deadline = time.monotonic() + timeout_s
    while alive := [process for process in found if not ended(process)]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.02)
    return alive


def ended(process: psutil.Process) -> bool:
    """Whether it is gone, or a zombie, though its pid is there until its parent looks."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def reap(pid: int) -> None:
    """Take note of a child's end, so that it is no zombie; a process that is not our child is left alone."""
    with contextlib.suppress(ChildProcessError, OSError):
        os.waitpid(pid, os.WNOHANG)
