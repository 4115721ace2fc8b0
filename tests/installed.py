"""The installed `detectctl` command in a home of its own, for end-to-end tests."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from detectctl.engine.compiled import CompiledModel

DETECTCTL = Path(sys.executable).with_name("detectctl")
# Nothing of the developer's own: no W&B key, no settings, no proxy, no Ray.
_KEPT = ("PATH", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV")


def free_port() -> int:
    """Neither one that the system lends to outgoing connections nor one that instances choose for their inside.

    It has to stay free until `up` opens it, so tests that run side by side are given different ones.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]
    while True:
        port = random.randrange(12_000 + int(worker) % 8, 20_000, 8)  # noqa: S311 - no secret
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@dataclass(frozen=True)
class Home:
    """A home folder with its own state and cache."""

    path: Path

    @property
    def env(self) -> dict[str, str]:
        return {name: os.environ[name] for name in _KEPT if name in os.environ} | {"HOME": str(self.path)}

    @property
    def cache(self) -> Path:
        return self.path / ".cache" / "detectctl"

    @property
    def state(self) -> Path:
        return self.path / ".local" / "state" / "detectctl"

    def seed(self, yolov8n_pt: Path, *compiled: CompiledModel) -> None:
        """Put the base weights where detectctl looks before it asks Ultralytics' servers, and models it converted."""
        folder = self.cache / "base"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(yolov8n_pt, folder / "yolov8n.pt")
        for model in compiled:
            shutil.copytree(model.directory, self.compiled(model), dirs_exist_ok=True)

    def compiled(self, model: CompiledModel) -> Path:
        """Where the commands of this home look for the compiled model."""
        return self.cache / "compiled" / model.directory.name

    def start(self, *arguments: str, **env: str) -> subprocess.Popen[str]:
        return self.start_command([str(DETECTCTL), *arguments], **env)

    def start_command(self, command: list[str], **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command,
            env=self.env | env,
            cwd=self.path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        return self.run_with(b"", *arguments, **env)

    def run_with(self, stdin: bytes, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [DETECTCTL, *arguments],
            env=self.env | env,
            cwd=self.path,
            input=stdin,
            capture_output=True,
            timeout=240,
            check=False,
        )
        return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())

    def json(self, *arguments: str, code: int = 0) -> Any:
        done = self.run(*arguments)
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout)

    def instance(self, name: str = "default") -> dict[str, Any] | None:
        file = self.state / name / "instance.json"
        return json.loads(file.read_text()) if file.exists() else None

    def processes(self, name: str = "default") -> list[psutil.Process]:
        """Every living process that the instance caused."""
        state = self.instance(name)
        return [] if state is None else marked(state["instance_id"])

    def clean(self) -> list[str]:
        """Take every instance down; what had to be ended by force although `down` said it was done."""
        left = []
        for file in self.state.glob("*/instance.json"):
            instance_id = json.loads(file.read_text())["instance_id"]
            self.run("down", "--name", file.parent.name, "--force")
            for process in marked(instance_id):
                with contextlib.suppress(psutil.Error):
                    left.append(" ".join(process.cmdline())[:100])
                    process.kill()
        return left


def marked(instance_id: str) -> list[psutil.Process]:
    """All of an instance."""
    return carrying(f"DETECTCTL_INSTANCE_ID={instance_id}")


def carrying(variable: str) -> list[psutil.Process]:
    """Those with this mark, and their descendants: one that gave itself a long title has written over its mark."""
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            # Not psutil's environ(), which gives up where a process wrote its title over the block's beginning.
            if variable.encode() in Path(f"/proc/{process.pid}/environ").read_bytes():
                found |= {one.pid: one for one in (process, *process.children(recursive=True))}
    return list(found.values())


def listening(processes: Iterable[psutil.Process]) -> list[tuple[str, int, str]]:
    """Address, port and process name of their TCP listeners; one that was idle may end meanwhile."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.Error):
            name = process.name()
            found += [
                (one.laddr.ip, one.laddr.port, name)
                for one in process.net_connections("tcp")
                if one.status == psutil.CONN_LISTEN
            ]
    return found


@dataclass(frozen=True)
class Service:
    """A running instance."""

    home: Home
    url: str
    name: str

    @property
    def env(self) -> dict[str, str]:
        """For subprocesses that call `detectctl`, which lies first on the PATH."""
        return self.home.env | {"PATH": f"{DETECTCTL.parent}{os.pathsep}{os.environ['PATH']}"}


@contextlib.contextmanager
def up(home: Home, *options: str, name: str = "default") -> Iterator[Service]:
    """An instance from `detectctl up` to `detectctl down`."""
    port = free_port()
    try:
        done = home.run("up", "--name", name, "--port", str(port), "--allow-url", "127.0.0.1", *options)
        assert done.returncode == 0, done.stderr
        yield Service(home, f"http://127.0.0.1:{port}", name)
    finally:
        left = home.clean()
    assert left == []


@contextlib.contextmanager
def file_server(folder: Path) -> Iterator[str]:
    """A folder over HTTP on loopback; gives its URL."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def wait_until(condition: Any, timeout: float = 30) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
