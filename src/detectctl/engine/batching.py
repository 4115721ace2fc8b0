"""Batches of whatever happens to be waiting: no request waits for a batch to fill."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from detectctl.engine.yolo_head import Candidates

    Run = Callable[[NDArray[np.uint8], Sequence[float]], list[Candidates]]


class Batcher:
    """Lets one caller at a time run, together with those that wait with images of the same shape.

    Under load, batches grow by themselves while the device is busy; a caller that is alone starts at once. `run` is
    like `Engine.infer`; `largest` is the most images in a batch, but a caller that brings more has them run in one.
    """

    def __init__(self, run: Run, largest: int) -> None:
        self._run = run
        self._largest = largest
        self._waiting: list[_Job] = []
        self._list_lock = threading.Lock()
        self._device_lock = threading.Lock()

    def infer(self, images: NDArray[np.uint8], confidences: Sequence[float]) -> list[Candidates]:
        """Like `run`; raises what `run` raised for the batch that these images were in."""
        job = _Job(images, confidences)
        with self._list_lock:
            self._waiting.append(job)
        with self._device_lock:
            if not job.done:
                self._run_batch(self._taken_with(job))
        if job.error is not None:
            raise job.error
        return job.found

    def _taken_with(self, job: _Job) -> list[_Job]:
        """`job`, and of the others with its shape those that have waited longest."""
        with self._list_lock:
            self._waiting.remove(job)
            batch, size = [job], len(job.images)
            for other in list(self._waiting):
                if other.images.shape[1:] == job.images.shape[1:] and size + len(other.images) <= self._largest:
                    self._waiting.remove(other)
                    batch.append(other)
                    size += len(other.images)
            return batch

    def _run_batch(self, batch: list[_Job]) -> None:
        try:
            images = batch[0].images if len(batch) == 1 else np.concatenate([job.images for job in batch])
            found = self._run(images, [confidence for job in batch for confidence in job.confidences])
            for job in batch:
                job.found, found = found[: len(job.images)], found[len(job.images) :]
        except Exception as error:  # noqa: BLE001 - every caller in the batch gets it
            for job in batch:
                job.error = error
        for job in batch:
            job.done = True


@dataclass(slots=True, eq=False)
class _Job:
    images: NDArray[np.uint8]
    confidences: Sequence[float]
    found: list[Candidates] = field(default_factory=list)
    error: Exception | None = None
    done: bool = False
