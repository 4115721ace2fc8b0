"""Who is measured: the limit, the peers, the service. One runs at a time, for an idle Ray is not quite idle."""

from __future__ import annotations

import contextlib
import json
import math
import os
import secrets
import subprocess
import sys
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import instance
import interpreter_lock
import limit
import pictures
import threads
import wrk
from accounting import Group
from detectctl import processes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PEERS = Path(__file__).parent / "peers"
CACHE = instance.ROOT / ".cache" / "bench"
# Their packages that the project does not have, see `make bench`.
ENVIRONMENT = {"PYTHONPATH": str(CACHE / "site"), "YOLO_CONFIG_DIR": str(CACHE / "ultralytics")}
_WARM_UP_S = 1


@dataclass(frozen=True)
class Measurement:
    """One contestant under one load.

    Attributes:
        who: `limit`, a peer, or `detectctl`.
        way: `in process`, `POST` or `image_url`.
        image: file name.
        clients: or threads, in process.
        requests_per_s: successful ones.
        p50_ms: latency.
        p99_ms: likewise.
        cpu_ms: CPU per request by kind of process; the load generator's and the image server's are not in it.
        statuses: HTTP status → answers.
        lock_ms: for which interpreters' locks are held in a request; None where that is not measured.
        threads_ms: CPU per request by thread of the busy interpreters; empty where that is not measured.
    """

    who: str
    way: str
    image: str
    clients: int
    requests_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_ms: dict[str, float]
    statuses: dict[str, int]
    lock_ms: float | None = None
    threads_ms: dict[str, float] = field(default_factory=dict)

    @property
    def all_cpu_ms(self) -> float:
        """CPU per request of all its processes."""
        return sum(self.cpu_ms.values())


@dataclass(frozen=True)
class Running:
    """A contestant that answers at `url`/detect."""

    who: str
    url: str
    group: Group

    def measure(
        self, image: Path, clients: int, seconds: float, *, images_url: str | None = None, patient: bool = False
    ) -> Measurement:
        """Its figures for one image, sent by POST, or named by URL if `images_url` is where nginx serves it."""
        url = f"{self.url}/detect"
        post: Path | None = image
        if images_url is not None:
            url, post = f"{url}?image_url={images_url}/{image.name}", None
        self.group.settle()  # what the last load left in its queues
        wrk.load(url, clients=clients, seconds=_WARM_UP_S, post=post, patient=patient)
        before = self.group.cpu_s()
        load = wrk.load(url, clients=clients, seconds=seconds, post=post, patient=patient)
        used = self.group.cpu_s() - before
        answered = max(load.statuses.get("200", 0), 1)
        cpu_ms = {kind: cpu * 1000 / answered for kind, cpu in used.items()}
        way = "POST" if post else "image_url"
        figures = (load.requests_per_s, load.p50_ms, load.p99_ms, cpu_ms, load.statuses)
        return Measurement(self.who, way, image.name, clients, *figures)

    def inside(self, image: Path, clients: int, seconds: float) -> tuple[float, dict[str, float]]:
        """Of its busy interpreters, per request: ms for which their locks are held, and CPU ms by thread.

        RuntimeError if they may not be looked at.
        """
        with ThreadPoolExecutor() as pool:
            length = math.ceil(seconds)
            load = pool.submit(wrk.load, f"{self.url}/detect", clients=clients, seconds=2 * length + 5, post=image)
            pids = self.group.busy_interpreters()
            cpu_s = threads.used(pids, length)  # before py-spy looks on, which costs them some
            share = interpreter_lock.held(pids, length)
            rate = load.result().requests_per_s
        by_thread = {name: used * 1000 / length / rate for name, used in cpu_s.items()}
        return share * 1000 / rate, by_thread

    def objects(self, image: Path) -> list[dict[str, Any]]:
        """What it finds."""
        request = urllib.request.Request(f"{self.url}/detect", image.read_bytes(), {"Content-Type": "image/jpeg"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            found: list[dict[str, Any]] = json.load(answer)["objects"]
        return found

    def idle_ms_per_s(self, seconds: float = 3) -> dict[str, float]:
        """CPU that it uses while nobody asks, by kind of process."""
        self.group.settle()
        before, begun = self.group.cpu_s(), time.monotonic()
        time.sleep(seconds)
        used, elapsed = self.group.cpu_s() - before, time.monotonic() - begun
        return {kind: cpu * 1000 / elapsed for kind, cpu in used.items()}


def measure_limit(detector: dict[str, Any], image: Path, threads: int, seconds: float) -> Measurement:
    """The engine in one process, as many threads at it."""
    figures = limit.measure(detector, image, threads=threads, seconds=seconds)
    requests_per_s, p50_ms, p99_ms, cpu_ms = (figures[key] for key in ("requests_per_s", "p50_ms", "p99_ms", "cpu_ms"))
    return Measurement(
        "limit", "in process", image.name, threads, requests_per_s, p50_ms, p99_ms, {"replica": cpu_ms}, {}
    )


def export_for_peers() -> Path:
    """Ultralytics' own OpenVINO export of YOLOv8n; made once."""
    folder = CACHE / f"ultralytics-{version('ultralytics-opencv-headless')}"
    command = [sys.executable, str(PEERS / "ultralytics_openvino.py"), str(instance.YOLOV8N), str(folder)]
    done = subprocess.run(command, env=os.environ | ENVIRONMENT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return Path(done.stdout.strip().splitlines()[-1])


@contextlib.contextmanager
def peer(who: str, model: Path, script: str, *options: str, imgsz: int = 640) -> Iterator[Running]:
    """A peer from its start to its end."""
    port, marker = pictures.free_port(), secrets.token_hex(8)
    env = os.environ | ENVIRONMENT | {"MODEL": str(model), "IMGSZ": str(imgsz), processes.MARKER: marker}
    command = [sys.executable, script, str(port), *options]
    # What they say is of interest only if they do not answer: some complain of the clients that wrk leaves waiting.
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, cwd=PEERS, env=env, stdout=said, stderr=said, start_new_session=True)
        try:
            pictures.wait_for_port(port, process)
            running = Running(who, f"http://127.0.0.1:{port}", Group(marker))
            running.objects(pictures.photograph("bus.jpg"))  # waits until the model is loaded
            yield running
        except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
            said.seek(0)
            raise RuntimeError(f"{who} failed: {said.read().decode()}") from error
        finally:
            processes.end(processes.family(marker), grace_s=5)
            process.wait()


@contextlib.contextmanager
def service(
    home: Path, options: Sequence[str] = (), detectctl: Path = instance.DETECTCTL
) -> Iterator[tuple[Running, instance.Up]]:
    """The service from `up` to `down`."""
    try:
        started = instance.up(home, pictures.free_port(), *options, detectctl=detectctl)
        yield Running("detectctl", started.url, Group(started.instance_id)), started
    finally:
        instance.down(home, detectctl)
