"""Children that speak to W&B without half a second of `import wandb` each: forks of one process that has imported it.

    with Forks() as forks:
        ...  # `child.run` of the W&B child forks where the environment it gives has FORKED; all else starts as usual

The parent's side is the real one, with its deadline and its killing; what is shared is the import alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

import psutil
import pytest

from detectctl import child

if TYPE_CHECKING:
    from collections.abc import Mapping

FORKED = "DETECTCTL_TEST_FORKED"
_MODULE = "detectctl.registry.wandb_source_child"


@dataclass
class Fork:
    """As much of a `subprocess.Popen` as `child` uses."""

    pid: int
    stdin: IO[bytes]
    stdout: IO[bytes]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stdout.close()
        self.wait()

    def kill(self) -> None:
        """SIGKILL."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def wait(self, timeout: float = 20) -> int:
        """Return when it has ended; how is not known."""
        deadline = time.monotonic() + timeout
        while psutil.pid_exists(self.pid):
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(_MODULE, timeout)
            time.sleep(0.005)
        return 1


class Forks:
    """The process to fork, and the patch that makes `child` do so."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._lock = threading.Lock()
        self._popen = subprocess.Popen
        self._patch = pytest.MonkeyPatch()
        command = [sys.executable, __file__, str(theirs.fileno())]
        self._process = subprocess.Popen(
            command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, env={"PATH": os.environ["PATH"]}
        )
        theirs.close()

    def __enter__(self) -> Self:
        self._patch.setattr("detectctl.child.subprocess.Popen", self._start)
        return self

    def __exit__(self, *_: object) -> None:
        self._patch.undo()
        self._control.close()
        self._process.wait(20)

    def _start(self, command: Any, *, env: Mapping[str, str] | None = None, **options: Any) -> Any:
        if env is None or FORKED not in env or _MODULE not in command:
            return self._popen(command, env=env, **options)
        their_in, our_in = os.pipe()
        our_out, their_out = os.pipe()
        with self._lock:
            files = [their_in, their_out, options["stderr"].fileno()]
            socket.send_fds(self._control, [json.dumps(dict(env)).encode()], files)
            pid = int(self._control.recv(100))
        os.close(their_in)
        os.close(their_out)
        return Fork(pid, os.fdopen(our_in, "wb"), os.fdopen(our_out, "rb"))


def _serve(control: socket.socket) -> None:
    import wandb  # noqa: F401 - what this process is for

    from detectctl.registry import wandb_source_child

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks here
    while True:
        message, files, *_ = socket.recv_fds(control, 1 << 20, 3)
        if not message:
            return
        pid = os.fork()
        if pid == 0:
            _become(control, json.loads(message), files)
            child.serve_parent(wandb_source_child.work)
            return  # and end as a process does, with all that the SDK does then
        for file in files:
            os.close(file)
        control.send(str(pid).encode())


def _become(control: socket.socket, env: dict[str, str], files: list[int]) -> None:
    """What `subprocess` would have done before the module began."""
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    control.close()
    for target, file in enumerate(files):
        os.dup2(file, target)
        os.close(file)
    os.environ.clear()
    os.environ.update(env)
    tempfile.tempdir = None  # found for another environment


if __name__ == "__main__":
    sys.path.remove(str(Path(__file__).parent))
    _serve(socket.socket(fileno=int(sys.argv[1])))
