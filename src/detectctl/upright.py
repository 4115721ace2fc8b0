"""Images as upright RGB pixels, the same for detecting and for drawing.

Pixels are those that Ultralytics sees. Alpha is dropped, not composited, so what lies under transparent parts shows; of
16 bits the upper 8 are kept; the orientation in the EXIF data is applied, and no other is looked at.
"""

from __future__ import annotations

import io
import struct

from PIL import Image

from detectctl.errors import UnsupportedImage

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
"""What is decoded, in Pillow's words."""

_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def open_upright(data: bytes) -> Image.Image:
    """The first frame of an encoded image as upright RGB, with its colour profile and no other metadata.

    Raises:
        UnsupportedImage: it cannot be decoded.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            picture = upright_rgb(image)
            picture.info = {"icc_profile": profile} if (profile := _profile(image)) else {}
            return picture
    # What Pillow raises for damaged files depends on the format's reader.
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise UnsupportedImage("the image cannot be decoded", why=str(error), hint="save it anew") from error


def upright_rgb(image: Image.Image) -> Image.Image:
    """The first frame, upright, of mode RGB.

    Raises:
        UnsupportedImage: 32 bits per channel, whose range is not known.
    """
    image.load()
    turn = _TURNS.get(orientation(image))
    upright = image if turn is None else image.transpose(turn)
    if image.mode in {"I", "F"}:
        why = "images with 32 bits per channel are not supported"
        raise UnsupportedImage("the image cannot be decoded", why=why, hint="convert it to 8 bits per channel")
    if image.mode.startswith("I;16"):
        upright = upright.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    return upright.convert("RGB")


def orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 to 8; 1 if there is none, or none that can be read.

    Not Pillow's `getexif`, which takes XMP's where EXIF has none: OpenCV, Ultralytics and browsers do not.
    """
    try:
        exif = Image.Exif()
        exif.load(image.info.get("exif"))  # type: ignore[arg-type]  # None is none; Pillow turns a TIFF when it loads it
        return int(exif.get(_ORIENTATION, 1))
    except Exception:  # noqa: BLE001 - damaged EXIF raises nearly anything, and the picture is good without it
        return 1


def colour_profile(data: bytes) -> bytes | None:
    """The ICC profile of an encoded image; None if it has none, or one that is not for RGB."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        return _profile(image)


def _profile(image: Image.Image) -> bytes | None:
    profile = image.info.get("icc_profile") if image.mode in {"RGB", "RGBA", "P"} else None
    return profile if isinstance(profile, bytes) else None  # a TIFF may have numbers in its place
