"""The parts of `gpu.py` that go over HTTP: the service, its replicas on one device, and LitServe with its workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import contestants
import http_load
import instance
import pictures
from gpu_rows import Row, attempt

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gpu_rows import Part, Plan


def service(plan: Plan, home: Path) -> Iterator[Row]:
    """Replicas on this machine reserve no part of a GPU: all compute on the first, however many there are."""
    port = pictures.free_port()
    try:
        for count in plan.replicas:
            options = ("--device", plan.device, "--imgsz", str(plan.imgsz), "--replicas", str(count))
            up = instance.up(home, port, *options)
            yield from _loads(plan, "service", count, up.url)
    finally:
        instance.down(home)


def litserve(plan: Plan) -> Iterator[Row]:
    """Its workers on the device, each with batches of its own."""
    for count in plan.replicas:
        script = ("litserve_torch.py", str(count), plan.device)
        with contestants.peer("LitServe", instance.YOLOV8N, *script, imgsz=plan.imgsz) as running:
            yield from _loads(plan, "litserve", count, running.url)


def _loads(plan: Plan, part: Part, count: int, url: str) -> Iterator[Row]:
    for clients in plan.clients:
        yield attempt(Row(part, f"{clients} clients", count), _load, plan, url, clients)


def _load(plan: Plan, url: str, clients: int) -> dict[str, Any]:
    image = pictures.photograph("bus.jpg").read_bytes()
    load = http_load.load(f"{url}/detect", image, clients=clients, seconds=plan.http_s)
    return {"images_per_s": load.images_per_s, "p50_ms": load.p50_ms}
