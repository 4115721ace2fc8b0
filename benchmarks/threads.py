"""Which of an interpreter's threads uses how much CPU: the kernel counts it, py-spy knows the names."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from interpreter_lock import PY_SPY

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

NATIVE = "no Python's"
"""Of threads that run no Python: the engine's, and those of Ray's core."""
_TRIES = 10  # py-spy reads while they run: what it followed may be gone


def used(pids: Iterable[int], seconds: float) -> dict[str, float]:
    """CPU seconds that the threads of these processes use from now on, by name.

    RuntimeError if py-spy may not look: it needs the right to trace them.
    """
    before = {pid: _cpu_s(pid) for pid in pids}
    time.sleep(seconds)
    found: dict[str, float] = {}
    for pid, then in before.items():
        since = {thread: cpu_s - then.get(thread, 0) for thread, cpu_s in _cpu_s(pid).items()}
        for name, cpu_s in by_name(since, _names(pid)).items():
            found[name] = found.get(name, 0) + cpu_s
    return found


def by_name(cpu_s: Mapping[int, float], names: Mapping[int, str]) -> dict[str, float]:
    """Summed over those whose names differ in nothing but a number at their end."""
    found: dict[str, float] = {}
    for thread, seconds in cpu_s.items():
        name = re.sub(r"_\d+$", "", names.get(thread, NATIVE))
        found[name] = found.get(name, 0) + seconds
    return found


def _cpu_s(pid: int) -> dict[int, float]:
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # it has ended
            found[int(task.name)] = int((task / "schedstat").read_text().split()[0]) / 1e9
    return found


def _names(pid: int) -> dict[int, str]:
    command: list[str | Path] = [PY_SPY, "dump", "--nonblocking", "--json", "--pid", str(pid)]
    for _ in range(_TRIES):
        dumped = subprocess.run(command, capture_output=True, text=True, check=False)
        if dumped.returncode == 0:
            return {one["os_thread_id"]: one["thread_name"] or NATIVE for one in json.loads(dumped.stdout)}
    raise RuntimeError(dumped.stderr)
