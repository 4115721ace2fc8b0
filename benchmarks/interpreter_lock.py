"""For how long interpreters' locks are held: py-spy looks on from outside, so that nothing is measured in its place."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import instance

if TYPE_CHECKING:
    from collections.abc import Iterable

PY_SPY = instance.ROOT / ".cache" / "bench" / "site" / "bin" / "py-spy"
_LOOKS_PER_S = 250


def held(pids: Iterable[int], seconds: int) -> float:
    """The share of this time for which each process's lock is held, summed over the processes.

    RuntimeError if py-spy may not look: it needs the right to trace them.
    """
    with tempfile.TemporaryDirectory() as folder:
        spies = [(_spy(pid, seconds, _file(Path(folder), pid)), pid) for pid in pids]
        for spy, _ in spies:
            _, said = spy.communicate()
            if spy.returncode:
                raise RuntimeError(said.decode())
        return sum(looks(_file(Path(folder), pid).read_text()) for _, pid in spies) / (seconds * _LOOKS_PER_S)


def looks(raw: str) -> int:
    """How many of them found a thread that held the lock: each line is a stack, and how often it was seen."""
    return sum(int(line.rpartition(" ")[2]) for line in raw.splitlines())


def _spy(pid: int, seconds: int, output: Path) -> subprocess.Popen[bytes]:
    looking = ("record", "--gil", "--nonblocking", "--rate", str(_LOOKS_PER_S), "--duration", str(seconds))
    command: list[str | Path] = [PY_SPY, *looking, "--format", "raw", "--output", output, "--pid", str(pid)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def _file(folder: Path, pid: int) -> Path:
    return folder / f"{pid}.raw"
