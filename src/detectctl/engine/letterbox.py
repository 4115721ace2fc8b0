"""Letterboxing as Ultralytics' predictor does it: scale into a square, pad to the next multiple of the stride.

After `LetterBox(auto=True)` and `scale_boxes` of ultralytics 8.4, with the same rounding, so that detections agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_GREY = 114


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


def letterbox(image: NDArray[np.uint8], imgsz: int, stride: int) -> tuple[NDArray[np.uint8], Placement]:
    """Scale `image` (height, width, 3) to fit `imgsz`, and pad each side's length to a multiple of `stride`.

    The channels may be in any order; `imgsz`, pixels of the longer side, is a multiple of `stride`, pixels too. Returns
    (1, height, width, 3), and where the image is in it.
    """
    height, width = image.shape[:2]
    ratio = min(imgsz / height, imgsz / width)
    new_width, new_height = max(round(width * ratio), 1), max(round(height * ratio), 1)
    pad_x, pad_y = ((imgsz - new_width) % stride) / 2, ((imgsz - new_height) % stride) / 2
    left, top = round(pad_x - 0.1), round(pad_y - 0.1)
    box_width, box_height = new_width + left + round(pad_x + 0.1), new_height + top + round(pad_y + 0.1)

    if (new_width, new_height) != (width, height):
        image = cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_LINEAR)
    if (box_width, box_height) == (new_width, new_height):
        box = np.ascontiguousarray(image)[np.newaxis]
    else:
        box = np.full((1, box_height, box_width, 3), _GREY, np.uint8)
        box[0, top : top + new_height, left : left + new_width] = image

    # Ultralytics computes these again from the two shapes instead of keeping them; to agree, so must we.
    gain = min(box_height / height, box_width / width)
    new_width, new_height = max(round(width * gain), 1), max(round(height * gain), 1)
    offset = round((box_width - new_width) / 2 - 0.1), round((box_height - new_height) / 2 - 0.1)
    return box, Placement(width, height, (new_width / width, new_height / height), offset)
