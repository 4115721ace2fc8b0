"""`up --follow`: the installed command against the stand-in registry, where versions appear and some are bad."""

from __future__ import annotations

import contextlib
import queue
import signal
import threading
import time
from typing import TYPE_CHECKING

import httpx
import pytest

from faults.scene import bent
from installed import wait_until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from wandb_site import Site

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(600)]


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

    def wait_for(self, words: str, timeout: float = 120) -> None:
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

    def wait_until_started(self) -> None:
        """Return when `up` itself is over, and the watch begins."""
        self.wait_for("warm up   answered")
        assert self.process.stdout is not None
        assert self.process.stdout.readline().startswith("started")

    def end(self) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(60)
        self._reader.join()
        while not self._lines.empty():
            self.said.append(self._lines.get())
        return code


@contextlib.contextmanager
def _following(site: Site, *options: str) -> Iterator[Following]:
    with site.start("--follow", "--interval", "1", *options) as process:
        following = Following(process)
        try:
            yield following
        finally:
            if process.poll() is None:
                following.end()
            following._reader.join()


def test_it_rolls_to_good_versions_and_leaves_bad_ones(
    site: Site, yolov8n_pt: Path, fall_pt: Path, bus_jpg: Path
) -> None:
    """A new version is rolled out; one that does not load is told once, not retried, and the last good one serves.

    A version whose requests begin to fail is taken back. SIGTERM ends the watch, and the service goes on;
    the next one ends when somebody takes the service down.
    """
    site.env["PYTHONPATH"] = bent(site.home, _BREAKS)
    with _following(site) as following:
        following.wait_until_started()
        assert site.model()["version"] == "v0"

        site.wandb.log("acme/registry/yolo", {"best.pt": yolov8n_pt})
        following.wait_for("now serving yolo v1")
        assert site.model()["version"] == "v1"

        site.wandb.log("acme/registry/yolo", {"best.pt": b"no checkpoint at all"})
        following.wait_for("was refused")
        _let_it_look(site)
        assert site.model()["version"] == "v1"
        told = site.home.json("status", "--json", code=4)
        assert told["state"] == "failed update"

        site.wandb.log("acme/registry/yolo", {"best.pt": fall_pt, "notes.txt": b"as v0, newly trained"})
        following.wait_for("now serving yolo v3")
        answers = {httpx.post(f"{site.url}/detect", content=bus_jpg.read_bytes()).status_code for _ in range(6)}
        assert answers == {500}
        following.wait_for("went back to yolo v1")
        assert "requests failed" in following.said[-1]
        wait_until(lambda: site.model()["version"] == "v1")
        assert site.detect(bus_jpg)["status"] == "found"
        _let_it_look(site)
        assert site.model()["version"] == "v1", "a version that was taken back is not tried again"
        assert following.end() == 0
    assert sum("was refused" in line for line in following.said) == 1, following.said
    assert site.home.json("status", "--json", code=4)["message"].startswith("acme/registry/yolo:latest: yolo v3")
    assert site.model()["version"] == "v1"

    site.wandb.move_alias("acme/registry/yolo", "latest", "v1")
    with _following(site) as again:
        assert again.process.stdout is not None
        assert "nothing to change" in again.process.stdout.readline()
        assert site.home.run("down").returncode == 0
        again.wait_for("was taken down")
        assert again.process.wait(30) == 0


def _let_it_look(site: Site, times: int = 2) -> None:
    """Return when it has asked W&B so many times more what the alias means."""
    asked = site.wandb.requests.count("artifact")
    wait_until(lambda: site.wandb.requests.count("artifact") >= asked + times, timeout=60)


_BREAKS = """
import importlib.util, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name != "detectctl.serving.admission":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        usual = spec.loader.exec_module
        def exec_module(module):
            usual(module)
            work = module.Turn._work
            def break_on_v3(self, *arguments):
                if self.service.config.model.version == "v3":
                    raise RuntimeError("v3 breaks on every image but that of its warm-up")
                return work(self, *arguments)
            module.Turn._work = break_on_v3
        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Finder())
"""
"""A fault that only requests show: v3 loads and warms up, and then fails."""


def test_it_starts_again_what_died_and_ends_what_it_was_told_to(site: Site) -> None:
    """The head is killed: the service comes back by itself. With `--down-on-exit` SIGTERM ends the service too."""
    with _following(site, "--down-on-exit") as following:
        following.wait_until_started()
        state = site.home.instance()
        assert state is not None
        (head,) = [process for process in site.home.processes() if process.pid == state["head"]["pid"]]
        head.kill()
        following.wait_for("now serving yolo v0")
        assert site.model()["version"] == "v0"
        assert following.end() == 0
    assert site.home.instance() is None
