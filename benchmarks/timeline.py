"""Which processes `up` starts, when each begins, and the CPU that it uses until `up` ends."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import psutil

from accounting import kind

if TYPE_CHECKING:
    from collections.abc import Mapping

_PAUSE_S = 0.05


@dataclass
class Life:
    """Of one process, as far as it was seen.

    Attributes:
        begun_s: after the first of them.
        cpu_s: user's and system's, without that of its children.
        command: as it was called last: Ray's workers change their titles.
    """

    begun_s: float
    cpu_s: float
    command: str


class Watch:
    """From `with` to the end of its block, of all processes with this home.

    Attributes:
        lives: by process id.
    """

    def __init__(self, home: Path) -> None:
        self.lives: dict[int, Life] = {}
        self._home = f"HOME={home}".encode()
        self._others = set(psutil.pids())
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look_on)

    def __enter__(self) -> Self:
        self._begun = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look_on(self) -> None:
        while not self._ended.wait(_PAUSE_S):
            for pid in psutil.pids():
                if pid not in self._others:
                    with contextlib.suppress(OSError, psutil.Error):
                        self._look_at(pid)

    def _look_at(self, pid: int) -> None:
        process = psutil.Process(pid)
        if pid not in self.lives:  # at first sight; those that have given themselves a long title by then are children
            environ = (Path("/proc") / str(pid) / "environ").read_bytes().split(b"\0")
            if self._home not in environ and process.ppid() not in self.lives:
                self._others.add(pid)
                return
        life = self.lives.setdefault(pid, Life(time.monotonic() - self._begun, 0, ""))
        life.cpu_s, life.command = sum(process.cpu_times()[:2]), " ".join(process.cmdline())


def table(lives: Mapping[int, Life], seconds: float) -> list[str]:
    """A line for each process that took a hundredth of all their CPU, and one for all; shares add up to 1.

    Args:
        lives: of each process.
        seconds: from the first one's beginning until `up` had ended.
    """
    total = sum(life.cpu_s for life in lives.values())
    lines = [f"{'process':<24}{'begins at':>12}{'of the CPU':>12}"]
    for life in sorted(lives.values(), key=lambda life: life.begun_s):
        if life.cpu_s >= total / 100:
            name = "up" if " up " in life.command else kind(life.command)
            lines.append(f"{name:<24}{life.begun_s / seconds:>12.2f}{life.cpu_s / total:>12.2f}")
    busy = total / (seconds * (os.cpu_count() or 1))
    return [*lines, f"all cores are busy for {busy:.2f} of the time"]
