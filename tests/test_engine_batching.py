"""Batches of what waits: whose answers they are, how large they get, and what a failure does."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest

from detectctl.engine.batching import Batcher
from detectctl.engine.yolo_head import Candidates
from installed import wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


NOTHING = np.empty((0, 1), np.float32)


class Device:
    """Answers with the first pixel and the threshold of each image; holds its first batch until it is let go."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.go_on = threading.Event()

    def run(self, images: NDArray[np.uint8], confidences: Sequence[float]) -> list[Candidates]:
        self.sizes.append(len(images))
        assert self.go_on.wait(30)
        if images[:, 0, 0, 0].max() == 255:
            raise RuntimeError("out of memory")
        return [
            Candidates(np.array([[image[0, 0, 0]]], np.float32), np.array([[confidence]], np.float32), NOTHING)
            for image, confidence in zip(images, confidences, strict=True)
        ]


def _image(value: int, width: int = 32) -> NDArray[np.uint8]:
    return np.full((1, 32, width, 3), value, np.uint8)


def _ask_all(batcher: Batcher, device: Device, images: list[NDArray[np.uint8]]) -> list[object]:
    """The first caller gets the device; when all others wait, it goes on. Gives what each got."""
    answers: list[object] = [None] * len(images)

    def ask(index: int) -> None:
        try:
            (found,) = batcher.infer(images[index], [index / 100])
            answers[index] = found.boxes.item(), found.scores.item()
        except RuntimeError as error:
            answers[index] = str(error)

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(len(images))]
    threads[0].start()
    wait_until(lambda: device.sizes)
    for thread in threads[1:]:
        thread.start()
    wait_until(lambda: len(batcher._waiting) == len(images) - 1)
    device.go_on.set()
    for thread in threads:
        thread.join()
    return answers


def test_those_who_wait_go_together_and_get_their_own_answers() -> None:
    device = Device()
    answers = _ask_all(Batcher(device.run, largest=4), device, [_image(value) for value in range(10)])
    assert answers == [pytest.approx((value, value / 100)) for value in range(10)]
    assert device.sizes[0] == 1, "the first one waits for nobody"
    assert sorted(device.sizes[1:]) == [1, 4, 4]


def test_only_images_of_one_shape_go_together() -> None:
    device = Device()
    images = [_image(0), *(_image(value, width=32 if value % 2 else 64) for value in range(1, 7))]
    answers = _ask_all(Batcher(device.run, largest=8), device, images)
    assert answers == [pytest.approx((value, value / 100)) for value in range(7)]
    assert device.sizes == [1, 3, 3]


def test_a_failure_is_told_to_each_of_its_batch_and_to_nobody_else() -> None:
    device = Device()
    images = [_image(0), _image(255, width=64), _image(1, width=64), _image(2)]
    answers = _ask_all(Batcher(device.run, largest=8), device, images)
    assert answers == [pytest.approx((0, 0)), "out of memory", "out of memory", pytest.approx((2, 0.03))]
    device.go_on.set()
    assert Batcher(device.run, largest=1).infer(_image(7), [0.5])[0].boxes.item() == 7
