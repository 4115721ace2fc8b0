"""JPEGs decoded and letterboxed where the network computes: nvJPEG on a GPU."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from detectctl.engine.letterbox import Placement, letterbox

if TYPE_CHECKING:
    from collections.abc import Sequence

    from detectctl.wire import Device

_GREY = 114  # of the letterbox
_WHITE = 255


def decoded(jpegs: Sequence[bytes], device: Device) -> list[torch.Tensor]:
    """Each as RGB (3, height, width), uint8; turned by no EXIF, which torchvision heeds on the CPU only."""
    from torchvision.io import ImageReadMode, decode_jpeg

    encoded = [torch.frombuffer(bytearray(jpeg), dtype=torch.uint8) for jpeg in jpegs]
    pictures: list[torch.Tensor] = decode_jpeg(encoded, mode=ImageReadMode.RGB, device=device)
    return pictures


def letterboxed(pixels: torch.Tensor, imgsz: tuple[int, int], stride: int) -> tuple[torch.Tensor, Placement]:
    """As `letterbox.letterbox`, but for the rounding of single pixels; (1, height, width, 3), where the picture is."""
    (box_height, box_width), rows, columns, placement = _geometry(*pixels.shape[1:], imgsz, stride)
    size = rows.stop - rows.start, columns.stop - columns.start
    scaled = functional.interpolate(pixels[None].float(), size, mode="bilinear", align_corners=False)
    box = torch.full((1, box_height, box_width, 3), _GREY, dtype=torch.uint8, device=pixels.device)
    box[:, rows, columns] = scaled.round().to(torch.uint8).permute(0, 2, 3, 1)
    return box, placement


@functools.cache
def _geometry(
    height: int, width: int, imgsz: tuple[int, int], stride: int
) -> tuple[tuple[int, int], slice, slice, Placement]:
    """The letterbox's height and width, and the picture's rows and columns in it, as `letterbox` lays a white one."""
    box, placement = letterbox(np.full((height, width, 3), _WHITE, np.uint8), imgsz, stride)
    rows, columns = (np.flatnonzero((box[0, :, :, 0] == _WHITE).any(axis=axis)) for axis in (1, 0))
    return box.shape[1:3], slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1), placement
