"""Detections drawn on a Pillow image: boxes and labels that read well from a thumbnail to 8K.

Lines and letters grow with the image. A class keeps its colour from picture to picture. Labels stay inside the picture
and out of each other's way while there is room.
"""

from __future__ import annotations

import colorsys
import io
import math
import struct
import unicodedata
from functools import lru_cache
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont, ImageOps

from detectctl.errors import UnsupportedImage, UsageError
from detectctl.wire import QUALITY

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from detectctl.wire import Detection, ModelInfo

Colour = tuple[int, int, int]
Rect = tuple[int, int, int, int]
"""`(left, top, right, bottom)` in pixels, right and bottom exclusive."""

MIN_FONT_PX = 11
LINE_PER_PX = 0.003
FONT_PER_PX = 0.024
"""Of the mean of width and height."""

MOST_COVERED = 0.1
"""Of the picture, by labels, before they get smaller."""

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
_WIDE_FONTS = ("NotoSansCJK-Regular.ttc", "DejaVuSans.ttf", "Arial Unicode.ttf")


def open_upright(data: bytes) -> Image.Image:
    """The first frame of an encoded image as RGB, turned as its EXIF orientation says, and without that tag.

    Transparent parts become white; 16-bit greys keep their upper 8 bits.

    Raises:
        UnsupportedImage: it cannot be decoded.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
        image.load()
        mode = image.mode
        upright = _rgb(_turned(image))
    # What Pillow raises for damaged files depends on the format's reader.
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise UnsupportedImage("the image cannot be decoded", why=str(error)) from error
    profile = image.info.get("icc_profile") if mode in {"RGB", "RGBA", "P"} else None
    upright.info = {"icc_profile": profile} if profile else {}
    return upright


def _turned(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(0x0112, 1)
    except Exception:  # noqa: BLE001 - damaged EXIF raises nearly anything, and the picture is good without it
        return image
    return ImageOps.exif_transpose(image) if orientation != 1 else image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        return image.convert("I").point(lambda value: value * (1 / 256)).convert("L").convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def encode(image: Image.Image, image_format: str, quality: int = QUALITY) -> bytes:
    """The image as the bytes of a `jpeg`, `png` or `webp` file, with its colour profile and no other metadata.

    Args:
        image: RGB.
        image_format: as in `image/…`.
        quality: 1 to 100; PNG is always lossless.

    Raises:
        UsageError: the format cannot hold an image of this size.
    """
    options = {
        # Thin coloured lines smear when colour is stored at half the resolution.
        "jpeg": {"quality": quality, "subsampling": 0},
        "png": {"compress_level": 3},
        "webp": {"quality": quality},
    }[image_format]
    profile = image.info.get("icc_profile")
    if profile:
        options["icc_profile"] = profile
    buffer = io.BytesIO()
    try:
        image.save(buffer, image_format, **options)
    except (OSError, ValueError) as error:
        width, height = image.size
        raise UsageError(
            f"{width}x{height} pixels cannot be written as {image_format}", why=str(error), hint="write a .png"
        ) from error
    return buffer.getvalue()


def caption_of(model: ModelInfo) -> str | None:
    """What a picture must say about the model that gave its boxes, if anything."""
    if model.fallback:
        return f"fallback: {model.name}" + (f" ({model.reason})" if model.reason else "")
    return None


def draw(
    image: Image.Image,
    detections: Sequence[Detection],
    *,
    labels: bool = True,
    line_width: int | None = None,
    caption: str | None = None,
) -> Image.Image:
    """A copy of `image` with a box for each detection.

    Args:
        image: RGB, upright.
        detections: in pixels of `image`; the more confident ones are drawn on top and choose their label's place first.
        labels: write class and confidence at each box.
        line_width: pixels; grows with the image if None.
        caption: words on a dark strip over the bottom of the picture, at most a third of it.
    """
    picture = image.copy()
    canvas = ImageDraw.Draw(picture)
    mean = sum(picture.size) / 2
    line = line_width or max(2, round(mean * LINE_PER_PX))
    size = max(MIN_FONT_PX, round(mean * FONT_PER_PX))
    strongest_first = sorted(detections, key=lambda detection: -detection.confidence)
    for detection in reversed(strongest_first):
        _box(canvas, detection, line, picture.size)
    bottom = picture.height
    if caption is not None:
        bottom = _strip(canvas, caption, size, picture.size)
    if labels:
        room = _Room(picture.width, bottom)
        size = _size_for_crowd(strongest_first, size, room)
        for detection, text, rect in [_place(detection, size, line, room) for detection in strongest_first][::-1]:
            fill = colour(detection.class_id)
            canvas.rectangle((rect[0], rect[1], rect[2] - 1, rect[3] - 1), fill=fill)
            text.write(canvas, rect, _ink(fill))
    return picture


@lru_cache(maxsize=1024)
def colour(class_id: int) -> Colour:
    """The colour of a class: neighbours in the list of classes are far apart on the colour wheel."""
    golden_ratio = 0.618034
    hue = (0.6 + class_id * golden_ratio) % 1
    lightness = (0.5, 0.42, 0.62)[class_id % 3]
    red, green, blue = colorsys.hls_to_rgb(hue, lightness, 0.85)
    return round(red * 255), round(green * 255), round(blue * 255)


def _ink(background: Colour) -> str:
    """Black or white, whichever contrasts more, by WCAG's relative luminance."""
    linear = [value / 255 / 12.92 if value <= 10 else ((value / 255 + 0.055) / 1.055) ** 2.4 for value in background]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "black" if (luminance + 0.05) ** 2 > 1.05 * 0.05 else "white"


def _box(canvas: ImageDraw.ImageDraw, detection: Detection, line: int, size: tuple[int, int]) -> None:
    x1, y1, x2, y2 = _pixels(detection, size)
    canvas.rectangle((x1, y1, x2 - 1, y2 - 1), outline=colour(detection.class_id), width=line)


def _pixels(detection: Detection, size: tuple[int, int]) -> Rect:
    """The box in whole pixels, inside the picture and at least one pixel large."""
    x1, y1, x2, y2 = detection.xyxy
    left = min(max(round(x1), 0), size[0] - 1)
    top = min(max(round(y1), 0), size[1] - 1)
    return left, top, max(min(round(x2), size[0]), left + 1), max(min(round(y2), size[1]), top + 1)


class _Text:
    """A line of text, made to fit a width."""

    def __init__(self, words: str, size: int, max_width: int, *, instead: str) -> None:
        self.pad = max(2, round(size * 0.2))
        self.words, self.font = _legible(words, size, instead)
        if self._width() > max_width and size > MIN_FONT_PX:
            self.words, self.font = _legible(words, max(MIN_FONT_PX, size * max_width // self._width()), instead)
        while self._width() > max_width and len(self.words) > 1:
            self.words = self.words[:-2] + "…"
        ascent, descent = self.font.getmetrics()
        self.ascent = ascent
        self.width = self._width()
        self.height = ascent + descent + self.pad

    def _width(self) -> int:
        return round(self.font.getlength(self.words)) + 2 * self.pad

    def write(self, canvas: ImageDraw.ImageDraw, rect: Rect, ink: str) -> None:
        canvas.text(
            (rect[0] + self.pad, rect[1] + self.pad // 2 + self.ascent), self.words, ink, self.font, anchor="ls"
        )


class _Room:
    """The part of the picture where labels may go, and those that are there already."""

    def __init__(self, width: int, height: int) -> None:
        self.width = width
        self.height = height
        self.taken: list[Rect] = []

    def best(self, text: _Text, corners: Iterable[tuple[int, int]]) -> Rect:
        """The first of the places (left, top) that is free, else the one that covers least of other labels."""
        best, least = None, 0
        for corner_left, corner_top in corners:
            left = max(0, min(corner_left, self.width - text.width))
            top = max(0, min(corner_top, self.height - text.height))
            rect = (left, top, min(left + text.width, self.width), min(top + text.height, self.height))
            covered = 0
            for other in self.taken:
                covered += _overlap(rect, other)
                if best is not None and covered >= least:
                    break
            else:
                best, least = rect, covered
                if not covered:
                    break
        assert best is not None  # noqa: S101 - narrows the type: there is always a corner
        self.taken.append(best)
        return best


def _overlap(one: Rect, other: Rect) -> int:
    # Most pairs are apart, and there are many pairs.
    if one[0] >= other[2] or other[0] >= one[2] or one[1] >= other[3] or other[1] >= one[3]:
        return 0
    return (min(one[2], other[2]) - max(one[0], other[0])) * (min(one[3], other[3]) - max(one[1], other[1]))


def _label(detection: Detection, size: int, room: _Room) -> _Text:
    name, number = " ".join(detection.class_name.split()), f"#{detection.class_id}"
    confidence = f"{detection.confidence:.2f}"
    return _Text(f"{name or number} {confidence}", size, room.width, instead=f"{number} {confidence}")


def _size_for_crowd(detections: Sequence[Detection], size: int, room: _Room) -> int:
    """A smaller font, down to half, where labels would cover much of the picture."""
    labels = [_label(detection, size, room) for detection in detections]
    covered = sum(label.width * label.height for label in labels) / (room.width * room.height)
    shrunk = size if covered <= MOST_COVERED else round(size * max(0.5, math.sqrt(MOST_COVERED / covered)))
    return max(MIN_FONT_PX, shrunk)


def _place(detection: Detection, size: int, line: int, room: _Room) -> tuple[Detection, _Text, Rect]:
    text = _label(detection, size, room)
    left, top, right, bottom = _pixels(detection, (room.width, room.height))
    above, inside, below = top - text.height, top, bottom
    places = [(left, inside), (left, below), (right - text.width, inside), (left, bottom - text.height)]
    if above >= 0:
        places = [(left, above), (right - text.width, above), *places]
    # In a crowd, stepping down along the box's left edge still shows whose label it is.
    steps = range(top + text.height, bottom - text.height, max(text.height, line))
    places += [(left, step) for step in list(steps)[:8]]
    return detection, text, room.best(text, places)


def _strip(canvas: ImageDraw.ImageDraw, caption: str, size: int, picture: tuple[int, int]) -> int:
    """Write the caption, and return where the strip begins."""
    width, height = picture
    instead = caption.encode("ascii", "replace").decode()
    for fitted in (size, MIN_FONT_PX):
        pad = max(2, round(fitted * 0.2))
        words, font = _legible(caption, fitted, instead)
        lines = wrapped(words, font, width - 2 * pad)
        ascent, descent = font.getmetrics()
        most = max(1, (height // 3 - pad) // (ascent + descent))
        if len(lines) <= most:
            break
    if len(lines) > most:
        last = lines[most - 1]
        while last and font.getlength(f"{last}…") > width - 2 * pad:
            last = last[:-1]
        lines = [*lines[: most - 1], f"{last}…"]
    top = max(0, height - len(lines) * (ascent + descent) - pad)
    canvas.rectangle((0, top, width, height), fill=(24, 24, 24))
    for number, line in enumerate(lines):
        canvas.text((pad, top + pad // 2 + number * (ascent + descent) + ascent), line, "white", font, anchor="ls")
    return max(top, 1)


def wrapped(words: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Lines that hold all the words; one that is too wide for a line, such as an address, goes over to the next."""
    lines = [""]
    for word in words.split():
        joined = f"{lines[-1]} {word}".lstrip()
        if font.getlength(joined) <= width:
            lines[-1] = joined
            continue
        if lines[-1]:
            lines.append("")
        for letter in word:
            if lines[-1] and font.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return lines


@lru_cache(maxsize=256)
def _font(name: str | None, size: int) -> ImageFont.FreeTypeFont | None:
    if name is None:
        font = ImageFont.load_default(size)
        assert isinstance(font, ImageFont.FreeTypeFont)  # noqa: S101 - narrows the type: Pillow's wheels have FreeType
        return font
    try:
        return ImageFont.truetype(name, size)
    except OSError:
        return None


@lru_cache(maxsize=1024)
def _draws(name: str, letter: str) -> bool:
    """Whether a font has this letter: what it lacks looks like what no font has."""
    font = _font(name, 20)
    if font is None:
        return False
    nobodys = "\U0010ffff"
    return font.getmask(letter).getbbox() is None or bytes(font.getmask(letter)) != bytes(font.getmask(nobodys))


def _legible(words: str, size: int, instead: str) -> tuple[str, ImageFont.FreeTypeFont]:
    """The words with a font that has all their letters.

    Pillow's own font has ASCII only. Other letters come from a font of the system if one has them all, else they lose
    their accents, and if that does not help, `instead` is what is written.
    """
    strange = {letter for letter in words if not letter.isascii()}
    for name in _WIDE_FONTS if strange else ():
        font = _font(name, size)
        if font is not None and all(_draws(name, letter) for letter in strange):
            return words, font
    own = _font(None, size)
    assert own is not None  # noqa: S101 - narrows the type
    bare = "".join(letter for letter in unicodedata.normalize("NFKD", words) if not unicodedata.combining(letter))
    return (bare if bare.isascii() else instead), own
