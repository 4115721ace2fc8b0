"""Signals that end a command."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

_UNINTERRUPTED = """
import os, signal
from detectctl.signals import uninterrupted
class Stopped(Exception): pass
def stop(*_): raise Stopped
signal.signal(signal.SIGTERM, stop)
for shielded in (True, False):
    try:
        if shielded:
            with uninterrupted():
                os.kill(os.getpid(), signal.SIGTERM)
                print("undone", end=", ")
        else:
            os.kill(os.getpid(), signal.SIGTERM)
            print("went on", end=", ")
    except Stopped:
        print("stopped", end="; ")
"""


def test_a_signal_waits_for_the_end_of_what_must_not_be_interrupted() -> None:
    """Then it takes effect, and the next one does at once."""
    done = subprocess.run([sys.executable, "-c", _UNINTERRUPTED], capture_output=True, text=True, check=True)
    assert done.stdout == "undone, stopped; stopped; "


_SCRIPT = """
import os, signal, sys
from detectctl.signals import Interrupted, unwind_when_signalled
signum = int(sys.argv[1])
if sys.argv[2] == "ignored":
    signal.signal(signum, signal.SIG_IGN)
unwind_when_signalled()
try:
    os.kill(os.getpid(), signum)
    print("went on")
except (KeyboardInterrupt, Interrupted) as error:
    os.kill(os.getpid(), signum)
    print(type(error).__name__, "taken back")
"""


@pytest.mark.parametrize(
    ("signum", "before", "said"),
    [
        (signal.SIGINT, "usual", "KeyboardInterrupt taken back"),
        (signal.SIGTERM, "usual", "Interrupted taken back"),
        (signal.SIGHUP, "usual", "Interrupted taken back"),
        (signal.SIGHUP, "ignored", "went on"),
    ],
)
def test_a_signal_unwinds_once(signum: int, before: str, said: str) -> None:
    """A second one does not disturb the taking back; one that nohup has ignored stays ignored."""
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, str(int(signum)), before], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == said
