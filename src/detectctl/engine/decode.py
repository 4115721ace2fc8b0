"""Bytes of an image to pixels, bounded in memory and time, whatever the bytes are.

The content decides the format, never a name or a Content-Type. The header is checked before pixels are decoded.
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import AvifImagePlugin, Image, TiffImagePlugin, UnidentifiedImageError

from detectctl.engine.detector_settings import MOST_PIXELS
from detectctl.engine.image_limits import check_parts, codestreams, has_all_pixels
from detectctl.errors import ImageTooLarge, UnsupportedImage
from detectctl.upright import NAMES, opened, orientation, upright_rgb

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

_TILE_WIDTH, _TILE_LENGTH = 322, 323

_TURNS: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {  # what undoes each EXIF orientation
    2: lambda pixels: cv2.flip(pixels, 1),
    3: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_180),
    4: lambda pixels: cv2.flip(pixels, 0),
    5: cv2.transpose,
    6: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_90_CLOCKWISE),
    7: lambda pixels: cv2.rotate(cv2.transpose(pixels), cv2.ROTATE_180),
    8: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_90_COUNTERCLOCKWISE),
}

Image.MAX_IMAGE_PIXELS = None  # our own limit is checked below, from the header, and cannot be a mere warning
AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # requests are decoded beside each other already
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # damaged files are their senders' business
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # about metadata, which is not used here


def decode(data: bytes, *, max_bytes: int, max_pixels: int) -> NDArray[np.uint8]:
    """The first frame, upright, as RGB `(height, width, 3)`, C-contiguous.

    The pixels of `upright.upright_rgb`. Safe to call from many threads; JPEG is decoded without the GIL.

    Args:
        data: JPEG, PNG, WebP, BMP, TIFF, GIF, AVIF, JPEG 2000 or, with the extra `heic`, HEIC.
        max_bytes: more are refused unread.
        max_pixels: width times height, from the header; more are refused undecoded.

    Raises:
        ImageTooLarge: over a limit.
        UnsupportedImage: another format, truncated, damaged, or of absurdly many parts.
    """
    if len(data) > max_bytes:
        raise ImageTooLarge(
            f"the image has {len(data)} bytes",
            why=f"at most {max_bytes} are accepted",
            hint="send a smaller image, or raise the limit: `detectctl up --max-image-bytes SIZE`",
        )
    try:
        check_parts(data)
        with opened(data) as image:
            _check_size(image, data, max_pixels)
            if image.format in {"JPEG", "MPO"} and image.mode in {"RGB", "L"} and data.endswith(b"\xff\xd9"):
                return _decode_jpeg(data, orientation(image))
            if image.format == "PNG":
                _check_end(image, data)
            return np.array(upright_rgb(image, data), order="C")
    except (ImageTooLarge, UnsupportedImage):
        raise
    except UnidentifiedImageError as error:
        raise UnsupportedImage(
            "the image cannot be decoded",
            why=f"it is not a {NAMES}",
            hint="convert it to one of these formats",
        ) from error
    except Exception as error:  # codecs raise whatever hostile bytes lead them to
        raise _damaged() from error


def _check_size(image: Image.Image, data: bytes, max_pixels: int) -> None:
    sizes = {"image is": image.size}
    if image.format == "JPEG2000":  # OpenCV does not compare it with what is around it
        sizes["image's pixels are"] = max(codestreams(data), key=math.prod, default=(0, 0))
    if isinstance(image, TiffImagePlugin.TiffImageFile):  # a tile is decoded whole, and may exceed the image
        tile = int(image.tag_v2.get(_TILE_WIDTH, 1)), int(image.tag_v2.get(_TILE_LENGTH, 1))
        sizes["image's tiles are"] = tile
    for what, (width, height) in sizes.items():
        pixels = width * height
        if pixels > max_pixels:
            raise_it = f", or raise the limit: `detectctl up --max-image-pixels {-(-pixels // 10**6)}M`"
            raise ImageTooLarge(
                f"the {what} {width}x{height} pixels",
                why=f"at most {max_pixels} pixels are accepted",
                hint="send a smaller image" + (raise_it if pixels <= MOST_PIXELS else ""),
            )
        if width < 1 or height < 1:
            raise _damaged()


def _check_end(png: Image.Image, data: bytes) -> None:
    """Unpacking twice is worth it only where the end may be missing: the last line is black, or lines come in turns."""
    png.load()
    if (png.info.get("interlace") or not np.asarray(png)[-1].any()) and not has_all_pixels(data):
        raise _damaged()


def _decode_jpeg(data: bytes, turned: int) -> NDArray[np.uint8]:
    """OpenCV's decoder takes two thirds of Pillow's time and gives the same pixels.

    It would fill up a truncated file with grey, so it is only given files that end with the end-of-image marker; and it
    reads EXIF in its own way, so it does not.
    """
    pixels: NDArray[np.uint8] | None = cv2.imdecode(
        np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    )
    if pixels is None:
        raise _damaged()
    return _TURNS[turned](pixels) if turned in _TURNS else pixels


def _damaged() -> UnsupportedImage:
    return UnsupportedImage(
        "the image cannot be decoded", why="it is truncated or damaged", hint="check that other programs can open it"
    )
