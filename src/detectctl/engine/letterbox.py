"""A picture as the network takes it, as Ultralytics' predictor makes it: scaled and padded, stretched, or cropped.

After `LetterBox`, `scale_boxes` and `classify_transforms` of ultralytics 8.4, with their rounding, so that
answers agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from detectctl.engine.trained import Trained

_GREY = 114
# Pixels of what is cropped to a square; all of a picture that is a million times as long as high would fill memory.
_LONGEST = 2**16


@dataclass(frozen=True, slots=True)
class Placement:
    """Where an image of `width` and `height` pixels is in its letterbox.

    Attributes:
        gain: letterbox pixels per source pixel, (x, y).
        offset: letterbox pixels left of and above the image, (x, y).
    """

    width: int
    height: int
    gain: tuple[float, float]
    offset: tuple[int, int]

    def in_source(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """Points (…, 2) of the letterbox, x and y, in pixels of the source image; may lie outside it."""
        offset, gain = np.array(self.offset, np.float32), np.array(self.gain, np.float32)
        return ((points - offset) / gain).astype(np.float32, copy=False)

    def limited(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """Points (…, 2) of the source image, each moved to the nearest in it."""
        return np.clip(points, 0, np.array((self.width, self.height), np.float32))


def fit(image: NDArray[np.uint8], trained: Trained, imgsz: tuple[int, int]) -> tuple[NDArray[np.uint8], Placement]:
    """An RGB image (height, width, 3) as a network takes it (1, height, width, channels), and where it is in that.

    `imgsz` is height and width in pixels, multiples of the head's stride: the most for an image that is letterboxed.
    """
    if trained.channels == 1:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., np.newaxis]
    height, width = image.shape[:2]
    if trained.task == "classify":
        return _centre(image, imgsz)[np.newaxis], Placement(width, height, (1, 1), (0, 0))
    if not trained.stretched:
        return letterbox(image, imgsz, None if trained.fixed else trained.head.stride)
    box = _resized(image, imgsz[1], imgsz[0])[np.newaxis]
    return box, Placement(width, height, (imgsz[1] / width, imgsz[0] / height), (0, 0))


def _centre(image: NDArray[np.uint8], imgsz: tuple[int, int]) -> NDArray[np.uint8]:
    """The middle of the image, scaled so that its shorter side fits a square; stretched to other shapes."""
    height, width, channels = image.shape
    beyond = (max(height, width) - _LONGEST // imgsz[0] * min(height, width)) // 2
    if beyond > 0 and imgsz[0] == imgsz[1]:
        image = image[:, beyond : width - beyond] if width > height else image[beyond : height - beyond]
        height, width = image.shape[:2]
    longest = imgsz[0] * max(height, width) // min(height, width)
    scaled = (longest, imgsz[0]) if width > height else (imgsz[0], longest)
    if imgsz[0] != imgsz[1]:
        scaled = imgsz[1], imgsz[0]
    # Pillow's filter takes in all of what it makes smaller, which OpenCV's does not.
    picture = Image.fromarray(image[..., 0] if channels == 1 else image).resize(scaled, Image.Resampling.BILINEAR)
    left, top = round((scaled[0] - imgsz[1]) / 2), round((scaled[1] - imgsz[0]) / 2)
    pixels = np.asarray(picture.crop((left, top, left + imgsz[1], top + imgsz[0])), np.uint8)
    return pixels.reshape(*imgsz, channels)


def _resized(image: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    if image.shape[:2] != (height, width):
        channels = image.shape[2]
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR).reshape(height, width, channels)
    return np.ascontiguousarray(image)


def letterbox(
    image: NDArray[np.uint8], imgsz: tuple[int, int], stride: int | None
) -> tuple[NDArray[np.uint8], Placement]:
    """Scale `image` (height, width, channels) to fit `imgsz`, and pad each side's length to a multiple of `stride`.

    Without a stride, they are padded to `imgsz`.
    The channels may be in any order; `imgsz`, pixels of height and width, are multiples of `stride`, pixels too.
    Returns (1, height, width, channels), and where the image is in it.
    """
    height, width, channels = image.shape
    ratio = min(imgsz[0] / height, imgsz[1] / width)
    new_width, new_height = max(round(width * ratio), 1), max(round(height * ratio), 1)
    missing_x, missing_y = imgsz[1] - new_width, imgsz[0] - new_height
    if stride:
        missing_x, missing_y = missing_x % stride, missing_y % stride
    pad_x, pad_y = missing_x / 2, missing_y / 2
    left, top = round(pad_x - 0.1), round(pad_y - 0.1)
    box_width, box_height = new_width + left + round(pad_x + 0.1), new_height + top + round(pad_y + 0.1)

    image = _resized(image, new_width, new_height)
    if (box_width, box_height) == (new_width, new_height):
        box = image[np.newaxis]
    else:
        box = np.full((1, box_height, box_width, channels), _GREY, np.uint8)
        box[0, top : top + new_height, left : left + new_width] = image

    # Ultralytics computes these again from the two shapes instead of keeping them; to agree, so must we.
    gain = min(box_height / height, box_width / width)
    new_width, new_height = max(round(width * gain), 1), max(round(height * gain), 1)
    offset = round((box_width - new_width) / 2 - 0.1), round((box_height - new_height) / 2 - 0.1)
    return box, Placement(width, height, (new_width / width, new_height / height), offset)
