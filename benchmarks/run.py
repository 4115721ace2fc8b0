"""How fast the service is, compared with its own engine without a server and with peers, in one run.

Contestants run one at a time, in rounds; every second round runs in reverse, so that a machine that slows down puts
nobody at a disadvantage. Ratios are taken within a round; figures are medians over the rounds, with min and max.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from rich.console import Console

import client
import conditions
import contestants
import instance
import pictures
import report
import startup
import wrk
from contestants import Running
from judgement import Round

if TYPE_CHECKING:
    from collections.abc import Sequence

RESULTS = Path(__file__).parent / "results"
_PEERS = {
    "FastAPI": ("fastapi_openvino.py", "1"),
    "LitServe": ("litserve_openvino.py", "2"),
    "LitServe, a core each": ("litserve_openvino.py", "2", "a-core-each"),
}
_THREADS = (1, 2, 8)
_TWO = ("--replicas", "2")
_CEILING_SIDES = (64, 256, 640, 1280)  # of a square picture of as many pixels


@dataclass(frozen=True)
class Plan:
    """What a round measures.

    Attributes:
        seconds: of each load.
        images: sent in turn.
        clients: of the service.
        few: clients of the peers.
        home: where the service's model is cached.
        options: of `detectctl up`.
        detector: what its replicas load.
        model: what the peers load.
        before: the command of an earlier version to be measured beside, or None.
        home_before: where its model is cached.
    """

    seconds: float
    images: Sequence[Path]
    clients: Sequence[int]
    few: Sequence[int]
    home: Path
    options: Sequence[str]
    detector: dict[str, Any]
    model: Path
    before: Path | None
    home_before: Path


def limit(plan: Plan, done: Round) -> None:
    """The service's engine without a server."""
    for image in plan.images:
        for threads in _THREADS:
            done.measurements.append(contestants.measure_limit(plan.detector, image, threads, plan.seconds))


def peers(plan: Plan, done: Round) -> None:
    """Who else serves the same model."""
    for who, script in _PEERS.items():
        with contestants.peer(who, plan.model, *script) as running:
            _load(plan, done, running, plan.few)


def service(plan: Plan, done: Round) -> None:
    """The service, and that of the version before, from start to end."""
    done.bare_ray_s = startup.bare_ray()
    with pictures.served(plan.images[0].parent) as url:
        _whole_life(plan, done, url, plan.home, instance.DETECTCTL)
        with contestants.service(plan.home, (*plan.options, *_TWO)) as (running, _):
            running.measure(plan.images[0], 8, plan.seconds)
            done.memory_of_two = running.group.memory()
        if plan.before is not None:
            done.before = Round(bare_ray_s=done.bare_ray_s)
            _whole_life(plan, done.before, url, plan.home_before, plan.before)


def ceiling(plan: Plan, done: Round) -> None:
    """What surrounds the network: pictures of 64 pixels and more, and a network of 32, which costs next to nothing."""
    options = (*plan.options, "--imgsz", "32")
    with tempfile.TemporaryDirectory() as folder:
        smallest, *larger = [pictures.resized(plan.images[0], side**2 / 1e6, Path(folder)) for side in _CEILING_SIDES]

        def load(running: Running) -> None:
            crowd = running.measure(smallest, 8, plan.seconds)
            lock_ms, threads_ms = running.inside(smallest, 8, plan.seconds)
            crowd = replace(crowd, lock_ms=lock_ms, threads_ms=threads_ms)
            done.ceiling += [running.measure(smallest, 1, plan.seconds), crowd]
            done.ceiling += [running.measure(image, 8, plan.seconds) for image in larger]

        for who in ("FastAPI", "LitServe"):
            with contestants.peer(who, plan.model, *_PEERS[who], imgsz=32) as running:
                load(running)
        with contestants.service(plan.home, options) as (running, _):
            load(running)
        with contestants.service(plan.home, (*options, *_TWO)) as (running, _):
            done.ceiling.append(replace(running, who="detectctl, two replicas").measure(smallest, 8, plan.seconds))
        if plan.before is not None:
            with contestants.service(plan.home_before, options, plan.before) as (running, _):
                load(replace(running, who="the version before"))


def _whole_life(plan: Plan, done: Round, url: str, home: Path, detectctl: Path) -> None:
    with contestants.service(home, plan.options, detectctl) as (running, up):
        done.up_s, done.up_steps = up.seconds, up.steps
        done.idle = running.idle_ms_per_s()
        _load(plan, done, running, plan.clients)
        for image in plan.images:
            done.detect_many[image.name] = client.detect_many(home, running.url, image, detectctl)
            done.detect_one[image.name] = client.detect_one(home, running.url, image, detectctl)
        _load(plan, done, running, plan.clients, url)
        done.memory = running.group.memory()
        last = time.monotonic()
    done.down_s = time.monotonic() - last


def _load(plan: Plan, done: Round, running: Running, clients: Sequence[int], url: str | None = None) -> None:
    done.objects[running.who] = {image.name: running.objects(image) for image in plan.images}
    for image in plan.images:
        for count in clients:
            done.measurements.append(running.measure(image, count, plan.seconds, images_url=url))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8, help="length of each load, after one second of warm-up")
    parser.add_argument("--quick", action="store_true", help="one round, one image, short loads: does it run?")
    parser.add_argument("--ceiling", action="store_true", help="what surrounds the network, and nothing else")
    parser.add_argument(
        "--replicas",
        default="1",
        help="of `detectctl up`; fixed, so that no autoscaling disturbs",
    )
    parser.add_argument(
        "--before", type=Path, metavar="DETECTCTL", help="the command of an earlier version, to be measured beside"
    )
    parser.add_argument("--output", type=Path, default=RESULTS / "bench.json")
    arguments = parser.parse_args()
    wrk.require_tools()
    images, clients = [pictures.photograph("bus.jpg"), pictures.photograph("zidane.jpg")], (1, 2, 8, 32, 64)
    if arguments.quick:
        arguments.rounds, arguments.seconds, images, clients = 1, 2, images[:1], (1, 8, 64)
    options, rounds = ("--replicas", arguments.replicas), []
    model = contestants.export_for_peers()
    before = arguments.before
    with instance.temporary_home() as home, instance.temporary_home() as home_before:
        with contestants.service(home, options) as (_, up):  # converts the model and fills the page cache
            detector = up.detector
        if before is not None:
            with contestants.service(home_before, options, before):
                pass
        plan = Plan(arguments.seconds, images, clients, (1, 8), home, options, detector, model, before, home_before)
        for number in range(arguments.rounds):
            rounds.append(Round(others_percent=psutil.cpu_percent(3)))
            print(f"round {number + 1} of {arguments.rounds}", file=sys.stderr)
            turns = (ceiling,) if arguments.ceiling else (peers, limit, service, ceiling)
            for turn in turns[:: -1 if number % 2 else 1]:
                turn(plan, rounds[-1])
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    for part in [report.ceiling(rounds)] if arguments.ceiling else report.tables(rounds):
        console.print(part)
    if arguments.ceiling:
        return
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    asked = {name: getattr(arguments, name) for name in ("rounds", "seconds", "replicas", "quick")}
    everything = {"conditions": conditions.conditions() | asked, **report.summary(rounds)}
    arguments.output.write_text(json.dumps(everything, indent=1) + "\n")
    console.print(f"written to {arguments.output}")


if __name__ == "__main__":
    main()
