"""Runs one of our own modules as a child process, with a deadline it cannot outlive.

The two speak JSON lines. The child reads one request from stdin, which then ends, so that nothing can prompt; it writes
its progress, then one result or error, to stdout. Everything it starts carries its mark, so that all can be killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict
from typing import IO, TYPE_CHECKING, Any

from detectctl import errors
from detectctl.progress import Progress, Report

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Message = dict[str, Any]
"""JSON data: a request or a result."""


class ChildTimeout(Exception):
    """The deadline passed, and the child and its children were killed; `last` is what it reported last, or None."""

    def __init__(self, last: Progress | None) -> None:
        super().__init__("the child process passed its deadline")
        self.last = last


class ChildCrashed(Exception):
    """The child ended without a result.

    Attributes:
        returncode: as `subprocess` gives it: negative for a signal.
        stderr: the end of what the child printed; a note for the error that it becomes, for `--verbose`.
        last_words: the last line of it, or the signal's name.
    """

    def __init__(self, returncode: int, stderr: str) -> None:
        super().__init__(f"the child process ended with {returncode} and no result")
        self.returncode, self.stderr = returncode, stderr
        self.last_words = (stderr.strip().splitlines() or [f"exit status {returncode}"])[-1]
        if returncode < 0:  # it had no time for a last word
            self.last_words = f"{signal.strsignal(-returncode)} (signal {-returncode})"


def run(
    module: str, request: Mapping[str, Any], *, timeout_s: float, env: Mapping[str, str], report: Report
) -> Message:
    """Run `python -m module`, hand it `request`, and return its result.

    Args:
        module: dotted name of a module whose `__main__` calls `serve_parent`.
        request: JSON data.
        timeout_s: seconds from now until the child and its children are killed.
        env: the whole environment of the child; the working folder is not on its module path.
        report: called in this thread with what the child reports.

    Raises:
        ChildTimeout: the deadline passed.
        ChildCrashed: it ended without a result.
        DetectctlError: it raised one; what, why and hint are the child's.
    """
    from detectctl import processes  # psutil, which the child's side does without

    deadline = time.monotonic() + timeout_s
    mark = secrets.token_hex(8)
    with (
        tempfile.TemporaryFile() as stderr,
        subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            # The user's folder may hold a json.py or torch.py; Python would run it instead of the real one.
            env={**env, "PYTHONSAFEPATH": "1", processes.MARKER: mark},
            start_new_session=True,
        ) as process,
    ):
        try:
            return _converse(process, request, deadline, stderr, report)
        finally:
            # Also on Ctrl-C and when `report` fails: nobody else knows of this process.
            process.kill()
            processes.kill_family(mark)


def _converse(
    process: subprocess.Popen[bytes], request: Mapping[str, Any], deadline: float, stderr: IO[bytes], report: Report
) -> Message:
    assert process.stdin is not None  # noqa: S101 - narrows the type; both are pipes
    assert process.stdout is not None  # noqa: S101
    with contextlib.suppress(BrokenPipeError), process.stdin:  # it died at once; its exit says why
        process.stdin.write(json.dumps(request).encode() + b"\n")
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_read_lines, args=(process.stdout, lines), daemon=True).start()
    last = None
    while True:
        try:
            line = lines.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise ChildTimeout(last) from None
        if not line:
            raise ChildCrashed(process.wait(), _tail(stderr))
        message = json.loads(line)
        if "result" in message:
            result: Message = message["result"]
            return result
        if "error" in message:
            raise getattr(errors, message.pop("error"))(**message)
        last = Progress(**message)
        report(last)


def _read_lines(stream: IO[bytes], lines: queue.SimpleQueue[bytes]) -> None:
    for line in stream:
        lines.put(line)
    lines.put(b"")


def _tail(stderr: IO[bytes], limit: int = 8000) -> str:
    size = stderr.seek(0, os.SEEK_END)
    stderr.seek(max(0, size - limit))
    return stderr.read().decode(errors="replace")


def serve_parent(work: Callable[[Message, Report], Message]) -> None:
    """The child's side: read the request, call `work(request, report)`, send its result.

    A `DetectctlError` that `work` raises is raised again in the parent. Whatever libraries print to stdout goes to
    stderr, so that it cannot be mistaken for an answer.
    """
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    _die_with_parent()

    def send(message: Message) -> None:
        answers.write(json.dumps(message) + "\n")

    try:
        send({"result": work(json.loads(sys.stdin.readline()), lambda progress: send(asdict(progress)))})
    except errors.DetectctlError as error:
        send({"error": type(error).__name__, "what": error.what, "why": error.why, "hint": error.hint})


def _die_with_parent() -> None:
    """Ask Linux for SIGKILL when the parent dies, so that even a `kill -9` of the parent leaves no orphan."""
    if sys.platform == "linux":
        import ctypes

        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
