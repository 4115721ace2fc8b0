"""What is printed, and what happens when nobody can read it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

_SCRIPT = """
from detectctl.progress import Progress
from detectctl.console import Console

with Console().progress() as lines:
    for _ in range(3):
        lines.report(Progress("deploy", "a step", done=True))
        lines.report(Progress("deploy", "a warning", warning=True))
print("all done")
"""


@pytest.mark.parametrize("reader", ["gone", "full"])
def test_progress_that_nobody_can_read_stops_nothing(reader: str) -> None:
    """`detectctl up 2>&1 | head -1` brings the service up, and so does a full disk behind `2>`."""
    if reader == "gone":
        reading, stderr = os.pipe()
        os.close(reading)
    else:
        stderr = os.open("/dev/full", os.O_WRONLY)
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT], stdout=subprocess.PIPE, stderr=stderr, text=True, timeout=60, check=False
    )
    os.close(stderr)
    assert (done.returncode, done.stdout) == (0, "all done\n")
