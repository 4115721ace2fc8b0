"""The parts of `gpu.py` in one process: the network, decoders, and from JPEG to objects with no server around it."""

from __future__ import annotations

import functools
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import torch

import limit
import parity
import pictures
from detectctl.engine.cpus import available_cpus
from detectctl.engine.detector import Detector
from detectctl.engine.detector_settings import CONFIDENCE
from executions import ExecutedEngine, yolov8n
from gpu_rows import Row, attempt
from photographs import Photographs, joined

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Executor

    from detectctl.wire import Detection, Device
    from executions import Execution
    from gpu_rows import Plan

    Objects = Sequence[Sequence[Detection]]


def network(plan: Plan, execution: Execution) -> Iterator[Row]:
    """The network alone, its input on the device; and the engine, from pixels on the CPU to candidates there."""
    for precision in ("fp32", plan.half) if execution == "eager" else (plan.half,):
        engine = ExecutedEngine(execution, plan.device, precision)
        for count in plan.batches:
            variant = f"{execution} {precision}"
            yield attempt(Row("network", variant, count), _network, plan, engine, count)
            yield attempt(Row("engine", variant, count), _engine, plan, engine, count)


def decoding(plan: Plan) -> Iterator[Row]:
    """JPEGs to what the network takes: on the CPU, and on the device."""
    trained = _reference(plan.device).trained
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(available_cpus()) as many:
        for count in plan.batches:
            batch = Photographs.of(count, trained, plan.imgsz)
            for variant, pool in {"CPU, 1 thread": one, "CPU, all threads": many}.items():
                yield attempt(Row("decoding", variant, count), _rate, plan, count, batch.decoded, pool)
            yield attempt(Row("decoding", "device", count), _rate, plan, count, batch.decoded_there, plan.device)


def loop(plan: Plan) -> Iterator[Row]:
    """From JPEGs to objects: batch after batch; and by what a replica loads, asked by threads as a replica asks it."""
    executions: tuple[Execution, ...] = ("eager", "graphs")
    with ThreadPoolExecutor(available_cpus()) as pool:
        for execution in executions:
            engine = ExecutedEngine(execution, plan.device, plan.half)
            for count in plan.batches:
                batch = Photographs.of(count, engine.trained, plan.imgsz)
                expected = _objects(_reference(plan.device), batch, pool)
                turns = {"CPU": _decoding_ahead(engine, batch, pool), "device": _all_there(plan, engine, batch)}
                for where, turn in turns.items():
                    row = Row("loop", f"{execution}, decoding on the {where}", count)
                    yield attempt(row, _turns, plan, count, turn, expected)
    detector = Detector.load(yolov8n(plan.device, plan.half, plan.imgsz))
    detector.warm_up()
    for threads in plan.clients:
        yield attempt(Row("detector", "threads", threads), _from_threads, plan, detector, threads)


@functools.cache
def _reference(device: Device) -> ExecutedEngine:
    return ExecutedEngine("eager", device, "fp32")


def _network(plan: Plan, engine: ExecutedEngine, count: int) -> dict[str, Any]:
    with ThreadPoolExecutor() as pool, torch.inference_mode():
        images, _ = Photographs.of(count, engine.trained, plan.imgsz).decoded(pool)
        return _rate(plan, count, engine.network, engine.tensor(torch.from_numpy(images)))


def _engine(plan: Plan, engine: ExecutedEngine, count: int) -> dict[str, Any]:
    batch = Photographs.of(count, engine.trained, plan.imgsz)
    with ThreadPoolExecutor() as pool:
        images, _ = batch.decoded(pool)
        expected, ours = (_objects(each, batch, pool) for each in (_reference(plan.device), engine))

    def infer() -> None:
        engine.infer(images, batch.thresholds, alone=True)

    return {**_rate(plan, count, infer), "parity": parity.compare(expected, ours, CONFIDENCE)}


def _objects(engine: ExecutedEngine, batch: Photographs, pool: Executor) -> Objects:
    images, placement = batch.decoded(pool)
    return batch.objects(engine.infer(images, batch.thresholds, alone=True), placement, images.shape)


def _decoding_ahead(engine: ExecutedEngine, batch: Photographs, pool: Executor) -> Callable[[], Objects]:
    """A turn that decodes the next batch while the device computes this one."""
    ahead = [batch.decoding(pool)]

    def turn() -> Objects:
        images, placement = joined(ahead.pop())
        ahead.append(batch.decoding(pool))
        return batch.objects(engine.infer(images, batch.thresholds, alone=True), placement, images.shape)

    return turn


def _all_there(plan: Plan, engine: ExecutedEngine, batch: Photographs) -> Callable[[], Objects]:
    """A turn that decodes on the device, too."""

    def turn() -> Objects:
        images, placement = batch.decoded_there(plan.device)
        return batch.objects(engine.infer_there(images, batch.thresholds), placement, images.shape)

    return turn


def _turns(plan: Plan, count: int, turn: Callable[[], Objects], expected: Objects) -> dict[str, Any]:
    return {"parity": parity.compare(expected, turn(), CONFIDENCE), **_rate(plan, count, turn)}


def _from_threads(plan: Plan, detector: Detector, threads: int) -> dict[str, Any]:
    bus = pictures.photograph("bus.jpg").read_bytes()
    limit.detect_for(detector, bus, threads, plan.seconds)
    begun = time.perf_counter()
    took = limit.detect_for(detector, bus, threads, plan.seconds)
    return {"images_per_s": len(took) / (time.perf_counter() - begun), "p50_ms": statistics.median(took) * 1000}


def _rate(plan: Plan, count: int, work: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    """Images per second and median milliseconds of calls that each take `count` images, one after the other."""
    synchronise = torch.cuda.synchronize if plan.device == "cuda" else lambda: None
    for _ in range(plan.calls):
        work(*arguments)
    synchronise()
    took: list[float] = []
    end = time.perf_counter() + plan.seconds
    while (begun := time.perf_counter()) < end or len(took) < plan.calls:
        work(*arguments)
        synchronise()
        took.append(time.perf_counter() - begun)
    return {"images_per_s": count * len(took) / sum(took), "p50_ms": statistics.median(took) * 1000}
