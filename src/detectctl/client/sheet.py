"""Many results on one picture: rows of cells of equal size, the name of its source below each."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING

from PIL import Image, ImageCms, ImageDraw

from detectctl import lettering

if TYPE_CHECKING:
    from detectctl.errors import DetectctlError

_WIDTH = 4096
"""Pixels of the widest sheet: with its rows it takes less than 64 MB."""
_WIDEST = 640
"""Pixels of a cell where there are few."""
_GAP = 4
MOST_CELLS = 32**2
"""Of a sheet: smaller ones show nothing."""

_GROUND, _INK = (24, 24, 24), "white"
_FAILED = (110, 24, 24)


class Sheet:
    """A picture with a cell for each of `count` images, in rows; as wide as it is high, or nearly.

    Threads may fill it together: nobody else writes to a cell.

    Attributes:
        cell: the room for a picture, in pixels: width, height.
        image: the sheet, RGB.
    """

    def __init__(self, count: int) -> None:
        self._columns = math.ceil(math.sqrt(count))
        width = min(_WIDEST, (_WIDTH - _GAP) // self._columns - _GAP)
        self.cell = width, width * 3 // 4
        self._letters = max(lettering.MIN_PX, width // 32)
        self._strip = 2 * self._letters
        rows = math.ceil(count / self._columns)
        size = self._columns * (width + _GAP) + _GAP, rows * (self.cell[1] + self._strip + _GAP) + _GAP
        self.image = Image.new("RGB", size, _GROUND)

    def put(self, number: int, picture: Image.Image, name: str) -> None:
        """In the middle of the cell of this number, from 0; the picture is not larger than a cell."""
        self._fill(number, _in_srgb(picture), name)

    def put_failure(self, number: int, error: DetectctlError, name: str) -> None:
        """In the cell of this number, why there is no picture."""
        width, height = self.cell
        words = lettering.caption(f"failed: {error.why or error.what}", self._letters, width, height)
        picture = Image.new("RGB", self.cell, _FAILED)
        words.write(ImageDraw.Draw(picture), (width - words.width) // 2, (height - words.height) // 2, _INK)
        self._fill(number, picture, name)

    def _fill(self, number: int, picture: Image.Image, name: str) -> None:
        width, height = self.cell
        cell = Image.new("RGB", (width, height + self._strip), _GROUND)
        cell.paste(picture, ((width - picture.width) // 2, (height - picture.height) // 2))
        words = lettering.file_name(name, self._letters, width)
        words.write(ImageDraw.Draw(cell), (width - words.width) // 2, height, _INK)
        row, column = divmod(number, self._columns)
        self.image.paste(cell, (_GAP + column * (cell.width + _GAP), _GAP + row * (cell.height + _GAP)))


def _in_srgb(picture: Image.Image) -> Image.Image:
    """Without the profile of its own, which the sheet cannot have for one cell."""
    profile = picture.info.get("icc_profile")
    if not profile:
        return picture
    try:
        own, common = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(picture, own, common, outputMode="RGB") or picture
    except (ImageCms.PyCMSError, OSError):  # a damaged profile: its colours are a little off
        return picture
