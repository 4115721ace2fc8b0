"""A home whose W&B is the stand-in, with a custom model in its registry, and the instance that serves it."""

from __future__ import annotations

import contextlib
import json
import queue
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from installed import Home, free_port
from wandb_server import API_KEY, WandbServer

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

WANTED = "acme/registry/yolo:latest"


class Site:
    """Its instance has a port of its own."""

    def __init__(self, home: Home, wandb: WandbServer) -> None:
        self.home = home
        self.wandb = wandb
        self.port = str(free_port())
        self.url = f"http://127.0.0.1:{self.port}"
        # Half the usual size: what these tests are about does not depend on it, but how long they take does.
        self.env = {
            "WANDB_BASE_URL": wandb.url,
            "WANDB_API_KEY": API_KEY,
            "DETECTCTL_PORT": self.port,
            "DETECTCTL_IMGSZ": "320",
        }

    def up(self, *options: str, code: int = 0) -> Any:
        """The JSON of `up`; what it said on stderr if it has printed none."""
        done = self.home.run("up", "--model", WANTED, "--json", *options, **self.env)
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout) if done.stdout else done.stderr

    def model(self) -> Any:
        return httpx.get(f"{self.url}/info", timeout=30).json()["model"]

    def detect(self, image: Path) -> Any:
        return httpx.post(f"{self.url}/detect", content=image.read_bytes(), timeout=30).json()

    def pids(self) -> set[int]:
        # Exit 4 while a replica is missing, and JSON all the same.
        replicas = json.loads(self.home.run("status", "--json").stdout)["replicas"]
        return {replica["pid"] for replica in replicas if replica["state"] == "RUNNING"}

    def start(self, *options: str) -> subprocess.Popen[str]:
        """`up` in the background."""
        return self.home.start("up", "--model", WANTED, *options, **self.env)


class Following:
    """A running `up --follow`, and what it says."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.said: list[str] = []
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._lines.put(line)
        self._lines.put("")

    def wait_for(self, words: str, timeout: float = 240) -> None:
        """Return when a new line has these words."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                self.said.append(self._lines.get(timeout=max(0.01, deadline - time.monotonic())))
            except queue.Empty:
                pytest.fail(f"{words!r} was never said: {''.join(self.said)}")
            if words in self.said[-1]:
                return
            assert self.said[-1], f"it ended before it said {words!r}: {''.join(self.said)}"

    def up_said(self) -> str:
        """The first line of `up` itself, which then is over, and the watch begins."""
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def end(self) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(60)
        self._reader.join()
        while not self._lines.empty():
            self.said.append(self._lines.get())
        return code


@contextlib.contextmanager
def following(site: Site, *options: str) -> Iterator[Following]:
    """`up --follow`, which is ended at the end."""
    with watched(site.start("--follow", "--interval", "1", *options)) as found:
        yield found


@contextlib.contextmanager
def watched(process: subprocess.Popen[str]) -> Iterator[Following]:
    """The same of one that was started already."""
    with process:
        found = Following(process)
        try:
            yield found
        finally:
            if process.poll() is None:
                found.end()
            found._reader.join()
