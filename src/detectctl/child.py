"""Runs one of our own modules as a child process, with a deadline it cannot outlive.

The child speaks JSON lines: one request on its stdin, which is then at its end, so nothing can prompt; events and one
result or error on its stdout. Its own session makes the whole family killable at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import psutil

Event = dict[str, Any]


class ChildTimeout(Exception):
    """The deadline passed, and the child and its children were killed.

    Attributes:
        last_event: the last event the child had sent, or None.
    """

    def __init__(self, last_event: Event | None) -> None:
        super().__init__("the child process passed its deadline")
        self.last_event = last_event


class ChildCrashed(Exception):
    """The child ended without a result.

    Attributes:
        returncode: as `subprocess` gives it: negative for a signal.
        stderr: the end of what the child printed; whoever catches this makes it a note of its error, for `--verbose`.
    """

    def __init__(self, returncode: int, stderr: str) -> None:
        super().__init__(f"the child process ended with {returncode} and no result")
        self.returncode = returncode
        self.stderr = stderr


class ChildFailed(Exception):
    """The child reported an error.

    Attributes:
        kind: the child's own word for it; see the child's module.
        message: one line.
        detail: more, for `--verbose`.
    """

    def __init__(self, kind: str, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.detail = detail


def run(
    module: str,
    request: Mapping[str, Any],
    *,
    timeout_s: float,
    env: Mapping[str, str],
    on_event: Callable[[Event], None] | None = None,
) -> Event:
    """Run `python -m module`, hand it `request`, and return its result.

    Args:
        module: dotted name of a module whose `__main__` calls `serve_parent`.
        request: JSON data.
        timeout_s: seconds from now until the child and its children are killed.
        env: the whole environment of the child; the working folder is not on its module path.
        on_event: called in this thread for each event that is not the result.

    Raises:
        ChildTimeout: the deadline passed.
        ChildCrashed: it ended without a result.
        ChildFailed: it reported an error.
    """
    deadline = time.monotonic() + timeout_s
    with tempfile.TemporaryFile() as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            # The user's folder may hold a json.py or torch.py; Python would run it instead of the real one.
            env={**env, "PYTHONSAFEPATH": "1"},
            start_new_session=True,
        )
        try:
            return _converse(process, request, deadline, stderr, on_event)
        finally:
            # Also on Ctrl-C and on a failing `on_event`: nobody else knows of this process.
            _kill_family(process)


def _converse(
    process: subprocess.Popen[bytes],
    request: Mapping[str, Any],
    deadline: float,
    stderr: IO[bytes],
    on_event: Callable[[Event], None] | None,
) -> Event:
    assert process.stdin is not None  # noqa: S101 - narrows the type; both are pipes
    assert process.stdout is not None  # noqa: S101
    with contextlib.suppress(BrokenPipeError):  # it died at once; its end says why
        process.stdin.write(json.dumps(request).encode() + b"\n")
        process.stdin.close()
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_read_lines, args=(process.stdout, lines), daemon=True).start()
    last_event = None
    while True:
        try:
            line = lines.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise ChildTimeout(last_event) from None
        if not line:
            raise ChildCrashed(process.wait(), _tail(stderr))
        message = json.loads(line)
        if "result" in message:
            result: Event = message["result"]
            return result
        if "error" in message:
            raise ChildFailed(**message["error"])
        last_event = message
        if on_event is not None:
            on_event(message)


def _read_lines(stream: IO[bytes], lines: queue.SimpleQueue[bytes]) -> None:
    for line in stream:
        lines.put(line)
    lines.put(b"")


def _tail(stderr: IO[bytes], limit: int = 8000) -> str:
    size = stderr.seek(0, os.SEEK_END)
    stderr.seek(max(0, size - limit))
    return stderr.read().decode(errors="replace")


def _kill_family(process: subprocess.Popen[bytes]) -> None:
    import psutil

    # A grandchild may have made a session of its own, so ask for the family before the parent is gone.
    family: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        family = psutil.Process(process.pid).children(recursive=True)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for relative in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            relative.kill()
    process.wait()
    deadline = time.monotonic() + 5
    while any(map(_runs, family)) and time.monotonic() < deadline:
        time.sleep(0.01)
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


def _runs(process: psutil.Process) -> bool:
    """A zombie runs no more; it waits for whoever is init here, who may take seconds."""
    import psutil

    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def serve_parent(work: Callable[[Event, Callable[[Event], None]], Event]) -> None:
    """The child's side: read the request, do `work(request, send_event)`, send its result.

    `work` raises `ChildFailed` for errors that the parent should understand. Whatever libraries print on stdout goes
    to stderr, so that it cannot be taken for an answer.
    """
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    _die_with_parent()

    def send(message: Event) -> None:
        answers.write(json.dumps(message) + "\n")

    try:
        send({"result": work(json.loads(sys.stdin.readline()), send)})
    except ChildFailed as error:
        send({"error": {"kind": error.kind, "message": error.message, "detail": error.detail}})


def _die_with_parent() -> None:
    """Ask Linux for SIGKILL when the parent is gone, so that even its `kill -9` leaves no orphan."""
    if sys.platform == "linux":
        import ctypes

        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
