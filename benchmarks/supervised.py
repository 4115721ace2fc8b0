"""A command that may hang or die: it gets so many seconds, and what went wrong is said in a phrase."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import tempfile
from typing import IO, TYPE_CHECKING

import psutil

from detectctl import processes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

GRACE_S = 10.0
"""To stop what it has started, after its time is over."""


def run(command: Sequence[str], seconds: float, env: Mapping[str, str]) -> str:
    """Run it; empty if it went well, else why not, and neither it nor what it had started then is left."""
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            started = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_S)
            process.kill()
            process.wait()
            processes.kill([each for each in started if each.is_running()])
            return f"not done after {seconds:.0f} s"
        return f"exit code {process.returncode}: {_last_line(said)}" if process.returncode else ""


def _last_line(said: IO[bytes]) -> str:
    said.seek(0)
    lines = (line.strip() for line in reversed(said.read().decode(errors="replace").split("\n")))
    return next((line for line in lines if line), "it said nothing")
