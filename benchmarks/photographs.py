"""A batch of JPEGs that differ in all but their size, and the ways to what a network takes and from what it gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch

import device_jpeg
import pictures
from detectctl.engine.decode import decode
from detectctl.engine.detector_settings import CONFIDENCE, IOU, MAX_IMAGE_BYTES, MAX_IMAGE_PIXELS
from detectctl.engine.letterbox import fit
from detectctl.engine.nms import select
from detectctl.engine.objects import located

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Executor, Future

    from numpy.typing import NDArray

    from detectctl.engine.letterbox import Placement
    from detectctl.engine.trained import Trained
    from detectctl.engine.yolo_head import Candidates
    from detectctl.wire import Detection, Device


@dataclass(frozen=True)
class Photographs:
    """A batch for a network.

    Attributes:
        jpegs: the images.
        trained: the network's description.
        imgsz: the most that it sees: height and width in pixels.
    """

    jpegs: Sequence[bytes]
    trained: Trained
    imgsz: tuple[int, int]

    @classmethod
    def of(cls, count: int, trained: Trained, imgsz: int) -> Photographs:
        """So many, of bus.jpg: as it is, mirrored, darker, and both."""
        bus = cv2.imread(str(pictures.photograph("bus.jpg")))
        assert bus is not None
        kinds = [bus, bus[:, ::-1], bus // 2, bus[:, ::-1] // 2]
        jpegs = [cv2.imencode(".jpg", kind)[1].tobytes() for kind in kinds]
        return cls([jpegs[number % len(jpegs)] for number in range(count)], trained, trained.size(imgsz))

    @property
    def thresholds(self) -> list[float]:
        """One for each image."""
        return [CONFIDENCE] * len(self.jpegs)

    def decoding(self, pool: Executor) -> list[Future[tuple[NDArray[np.uint8], Placement]]]:
        """Each on its way to (1, height, width, 3), as the product's detector decodes and fits it."""
        return [pool.submit(self._fitted, jpeg) for jpeg in self.jpegs]

    def decoded(self, pool: Executor) -> tuple[NDArray[np.uint8], Placement]:
        """All of them (B, height, width, 3), and where each image is in its part."""
        return joined(self.decoding(pool))

    def decoded_there(self, device: Device) -> tuple[torch.Tensor, Placement]:
        """The same, decoded and letterboxed on the device."""
        stride = self.trained.head.stride
        pixels = device_jpeg.decoded(self.jpegs, device)
        boxes, placements = zip(*(device_jpeg.letterboxed(each, self.imgsz, stride) for each in pixels), strict=True)
        return torch.cat(boxes), placements[0]

    def objects(
        self, candidates: Sequence[Candidates], placement: Placement, shape: Sequence[int]
    ) -> list[tuple[Detection, ...]]:
        """Those of each image; `shape` is that of the images that the network saw (B, height, width, 3)."""
        selections = [select(one, iou=IOU, confidence=CONFIDENCE) for one in candidates]
        return [
            located(one, selection, self.trained, placement, shape[1:3])
            for one, selection in zip(candidates, selections, strict=True)
        ]

    def _fitted(self, jpeg: bytes) -> tuple[NDArray[np.uint8], Placement]:
        pixels = decode(jpeg, max_bytes=MAX_IMAGE_BYTES, max_pixels=MAX_IMAGE_PIXELS)
        return fit(pixels, self.trained, self.imgsz)


def joined(decoding: Sequence[Future[tuple[NDArray[np.uint8], Placement]]]) -> tuple[NDArray[np.uint8], Placement]:
    """What `Photographs.decoding` has begun, as `decoded` gives it."""
    boxes, placements = zip(*(each.result() for each in decoding), strict=True)
    return np.concatenate(boxes), placements[0]
