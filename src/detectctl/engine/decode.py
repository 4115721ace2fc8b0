"""Bytes of an image to pixels, bounded in memory and time, whatever the bytes are.

The content decides the format, never a name or a Content-Type. The header is checked before pixels are decoded.
"""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image, ImageOps

# Image.open() would else import every plugin there is to find these two.
from PIL import TiffImagePlugin, WebPImagePlugin  # noqa: F401  isort: skip

from detectctl.engine.image_limits import check_parts, has_all_pixels
from detectctl.errors import ImageTooLarge, UnsupportedImage

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")

_TILE_WIDTH, _TILE_LENGTH = 322, 323

Image.MAX_IMAGE_PIXELS = None  # our own limit is checked below, from the header, and cannot be a mere warning
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # about metadata that nobody here reads


def decode(data: bytes, *, max_bytes: int, max_pixels: int) -> NDArray[np.uint8]:
    """The first frame, upright, as RGB `(height, width, 3)`, C-contiguous.

    Pixels are those that Ultralytics sees: alpha is dropped, not composited; of 16 bits the upper 8 are kept; EXIF
    orientation is applied. Safe to call from many threads; JPEG is decoded without the GIL.

    Args:
        data: JPEG, PNG, WebP, BMP, TIFF or GIF.
        max_bytes: more are refused unread.
        max_pixels: width times height, from the header; more are refused undecoded.

    Raises:
        ImageTooLarge: over a limit.
        UnsupportedImage: another format, truncated, damaged, or of absurdly many parts.
    """
    if len(data) > max_bytes:
        raise ImageTooLarge(f"the image has {len(data)} bytes; at most {max_bytes} are accepted")
    try:
        check_parts(data)
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(image, max_pixels)
            if image.format in {"JPEG", "MPO"} and image.mode in {"RGB", "L"} and data.endswith(b"\xff\xd9"):
                return _decode_jpeg(data)
            if image.format == "PNG":
                _check_end(image, data)
            return _decode_any(image)
    except (ImageTooLarge, UnsupportedImage):
        raise
    except Exception as error:  # codecs raise whatever hostile bytes lead them to
        raise _unsupported() from error


def _check_size(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise ImageTooLarge(f"the image is {width} by {height} pixels; at most {max_pixels} pixels are accepted")
    if isinstance(image, TiffImagePlugin.TiffImageFile):  # a tile is decoded whole, and may exceed the image
        width, height = int(image.tag_v2.get(_TILE_WIDTH, 1)), int(image.tag_v2.get(_TILE_LENGTH, 1))
        if width * height > max_pixels:
            raise ImageTooLarge(f"its tiles are {width} by {height} pixels; at most {max_pixels} pixels are accepted")
    if width < 1 or height < 1:
        raise _unsupported()


def _check_end(png: Image.Image, data: bytes) -> None:
    """Unpacking twice is worth it only where the end may be missing: the last line is black, or lines come in turns."""
    png.load()
    if (png.info.get("interlace") or not np.asarray(png)[-1].any()) and not has_all_pixels(data):
        raise _unsupported()


def _decode_jpeg(data: bytes) -> NDArray[np.uint8]:
    """OpenCV's decoder takes two thirds of Pillow's time and gives the same pixels.

    It would fill up a truncated file with grey, so it is only given files that end with the end-of-image marker.
    """
    pixels: NDArray[np.uint8] | None = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    if pixels is None:
        raise _unsupported()
    return pixels


def _decode_any(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode.startswith("I;16"):
        grey = (np.asarray(_upright(image)) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, np.newaxis], 3, axis=2)
    if image.mode in {"I", "F"}:
        raise UnsupportedImage("images with 32 bits per channel are not supported")
    return np.array(_upright(image).convert("RGB"), order="C")


def _upright(image: Image.Image) -> Image.Image:
    image.load()
    try:
        orientation = image.getexif().get(0x0112, 1)
    except Exception:  # noqa: BLE001 - damaged EXIF raises nearly anything, and the picture is good without it
        return image
    return ImageOps.exif_transpose(image) if orientation != 1 else image


def _unsupported() -> UnsupportedImage:
    return UnsupportedImage("this is no JPEG, PNG, WebP, BMP, TIFF or GIF image, or it is truncated or damaged")
