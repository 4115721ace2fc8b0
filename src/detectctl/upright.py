"""Images as upright RGB pixels, the same for detecting and for drawing.

Pixels are those that Ultralytics sees. Alpha is dropped, not composited, so what lies under transparent parts shows; of
16 bits the upper 8 are kept; the orientation in the EXIF data is applied, and no other is looked at.
"""

from __future__ import annotations

import io
import re
import struct

from PIL import Image

# Image.open() would else import every plugin there is to find these.
from PIL import AvifImagePlugin, Jpeg2KImagePlugin, TiffImagePlugin, WebPImagePlugin  # noqa: F401  isort: skip

from detectctl import masked_bmp, png
from detectctl.errors import UnsupportedImage

FORMATS: tuple[str, ...] = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "JPEG2000")
"""What is decoded, in Pillow's words; with the extra `heic` also HEIF."""

NAMES = "JPEG, PNG, WebP, BMP, TIFF, GIF, AVIF, JPEG 2000 or HEIC"
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, RuntimeError, struct.error, Image.DecompressionBombError)
"""What Pillow raises for damaged files depends on the format's reader."""
_HEIC = re.compile(rb"....ftyp(hei[cxms]|hev[cxms]|mif1|msf1)", re.DOTALL)

_ORIENTATION = 0x0112
_BYTE_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
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
        with opened(data) as image:
            profile = _profile(image, data)
            picture = upright_rgb(image, data)
            picture.info = {"icc_profile": profile} if profile else {}
            return picture
    except _DAMAGE as error:
        raise UnsupportedImage("the image cannot be decoded", why=str(error), hint="save it anew") from error


def upright_rgb(image: Image.Image, data: bytes) -> Image.Image:
    """The first frame, upright, of mode RGB; `image` is what `opened` made of `data`.

    Raises:
        UnsupportedImage: 32 bits per channel, whose range is not known.
    """
    if image.format == "JPEG2000":
        return _by_opencv(data)
    image.load()
    turn = _TURNS.get(orientation(image))
    upright = image if turn is None else image.transpose(turn)
    if image.mode in {"I", "F"}:
        why = "images with 32 bits per channel are not supported"
        raise UnsupportedImage("the image cannot be decoded", why=why, hint="convert it to 8 bits per channel")
    if image.mode.startswith("I;16"):
        upright = upright.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    return upright if upright.mode == "RGB" else upright.convert("RGB")


def _by_opencv(data: bytes) -> Image.Image:
    """Of JPEG 2000, for which Pillow would hold Python's lock for seconds; the same pixels."""
    import cv2
    import numpy as np

    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error as error:
        raise ValueError("it is damaged") from error
    if pixels is None:
        raise ValueError("it is truncated, damaged, or of a kind that OpenCV does not decode")
    return Image.fromarray(pixels)


def opened(data: bytes) -> Image.Image:
    """The image, its pixels not yet decoded; Pillow's errors if it is none, or damaged.

    Raises:
        UnsupportedImage: it is a HEIC, and what reads it is not installed.
    """
    formats = FORMATS
    if _HEIC.match(data) and _reads_heic(must=data[8:11] in {b"hei", b"hev"}):
        formats = (*FORMATS, "HEIF")
    if bmp := masked_bmp.decoded(data):
        return bmp
    return Image.open(io.BytesIO(png.essential(data)), formats=formats)


def _reads_heic(*, must: bool) -> bool:
    """Whether Pillow does, now; an error if it does not but `must`, as nothing else reads the file."""
    try:
        import pi_heif
    except ImportError as error:
        if must:
            raise UnsupportedImage(
                "the image is a HEIC, which is not read here",
                why="the package that decodes it is not installed beside detectctl",
                hint="convert it to JPEG, or install it: `pip install 'detectctl[heic]'`, then `detectctl up` again",
            ) from error
        return False
    pi_heif.register_heif_opener(thumbnails=False, aux_images=False, depth_images=False)
    return True


def orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 to 8; 1 if there is none, or none that can be read.

    As OpenCV, and so Ultralytics, reads it: the first two bytes of the value, whatever type it says to have. Not
    Pillow's `getexif`, which takes XMP's where EXIF has none: OpenCV, Ultralytics and browsers do not.
    """
    if image.format in {"AVIF", "HEIF"}:
        # Ultralytics leaves these to Pillow, which has put the container's turn there.
        try:
            return int(image.getexif().get(_ORIENTATION, 1))
        except Exception:  # noqa: BLE001 - damaged EXIF raises nearly anything, and the picture is good without it
            return 1
    exif = image.info.get("exif") or b""  # none of a TIFF, which Pillow turns when it loads it
    exif = exif if image.format == "WEBP" else exif.removeprefix(b"Exif\0\0")
    if (order := _BYTE_ORDERS.get(exif[:4])) is None:
        return 1
    try:
        (directory,) = struct.unpack_from(order + "L", exif, 4)
        (entries,) = struct.unpack_from(order + "H", exif, directory)
        for entry in range(entries):
            tag, value = struct.unpack_from(order + "H6xH", exif, directory + 2 + 12 * entry)
            if tag == _ORIENTATION:
                return value if value in _TURNS else 1
    except struct.error:  # it is damaged, and the picture is good without it
        pass
    return 1


def colour_profile(data: bytes) -> bytes | None:
    """The ICC profile of an encoded image; None if it has none, or one that is not for RGB."""
    with opened(data) as image:
        return _profile(image, data)


def _profile(image: Image.Image, data: bytes) -> bytes | None:
    if image.mode not in {"RGB", "RGBA", "P"}:
        return None
    profile = png.colour_profile(data) if image.format == "PNG" else image.info.get("icc_profile")
    return profile if isinstance(profile, bytes) else None  # a TIFF may have numbers in its place
