"""Detections drawn on a Pillow image: boxes and labels that read well from a thumbnail to 8K.

Lines and letters grow with the image. A class keeps its colour from picture to picture. Labels stay inside the picture
and out of each other's way while there is room.
"""

from __future__ import annotations

import colorsys
import io
import math
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

from detectctl import lettering
from detectctl.defaults import QUALITY
from detectctl.errors import UsageError
from detectctl.wire import DrawOptions

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from detectctl.wire import Detection, DetectionResult, ModelInfo

Colour = tuple[int, int, int]
Rect = tuple[int, int, int, int]
"""`(left, top, right, bottom)` in pixels, right and bottom exclusive."""

LINE_PER_PX = 0.003
FONT_PER_PX = 0.024
"""Of the mean of width and height."""

MOST_COVERED = 0.1
"""Of the picture, by labels, before they get smaller."""


def annotated(image: Image.Image, result: DetectionResult, image_format: str, options: DrawOptions) -> bytes:
    """The picture of a result as the bytes of a file, the same whether the service draws it or its caller.

    `image` is RGB, upright, and of the size that `result` has. The rest is as for `draw` and `encode`.
    """
    return encode(draw(image, result.detections, options, caption_of(result.model)), image_format, options.quality)


def encode(image: Image.Image, image_format: str, quality: int = QUALITY) -> bytes:
    """An RGB image as the bytes of a `jpeg`, `png` or `webp` file, with its colour profile and no other metadata.

    `quality` is 1 to 100; PNG is always lossless.

    Raises:
        UsageError: the format cannot hold an image of this size.
    """
    options = {
        # Thin coloured lines smear when colour is stored at half the resolution.
        "jpeg": {"quality": quality, "subsampling": 0},
        "png": {"compress_level": 3},
        "webp": {"quality": quality},
    }[image_format]
    if profile := image.info.get("icc_profile"):
        options["icc_profile"] = profile
    buffer = io.BytesIO()
    try:
        image.save(buffer, image_format, **options)
    except (OSError, ValueError) as error:
        width, height = image.size
        what = f"{width}x{height} pixels cannot be written as {image_format}"
        raise UsageError(what, why=str(error), hint="write a .png") from error
    return buffer.getvalue()


def caption_of(model: ModelInfo) -> str | None:
    """What a picture must say about the model that gave its boxes, if anything."""
    if model.fallback:
        return f"fallback: {model.name}" + (f" ({model.reason})" if model.reason else "")
    return None


def draw(
    image: Image.Image, detections: Sequence[Detection], options: DrawOptions | None = None, caption: str | None = None
) -> Image.Image:
    """A copy of `image` with a box for each detection.

    Args:
        image: RGB, upright.
        detections: in pixels of `image`; the more confident ones are drawn on top and choose their label's place first.
        options: how to draw.
        caption: words on a dark strip over the bottom of the picture, at most a third of it.
    """
    options = options or DrawOptions()
    picture = image.copy()
    canvas = ImageDraw.Draw(picture)
    mean = sum(picture.size) / 2
    line_width = options.line_width or max(2, round(mean * LINE_PER_PX))
    font_size = max(lettering.MIN_PX, round(mean * FONT_PER_PX))
    strongest_first = sorted(detections, key=lambda detection: -detection.confidence)
    for detection in reversed(strongest_first):
        left, top, right, bottom = _pixels(detection, picture.size)
        canvas.rectangle((left, top, right - 1, bottom - 1), outline=colour(detection.class_id), width=line_width)
    free_height = picture.height
    if caption is not None:
        strip = lettering.caption(caption, font_size, picture.width, picture.height // 3)
        top = max(0, picture.height - strip.height)
        canvas.rectangle((0, top, *picture.size), fill=(24, 24, 24))
        strip.write(canvas, 0, top, "white")
        free_height = max(1, top)
    if options.labels:
        room = _Room(picture.width, free_height)
        font_size = _size_for_crowd(strongest_first, font_size, room)
        placed = [(detection, *_place(detection, font_size, line_width, room)) for detection in strongest_first]
        for detection, label, (left, top, right, bottom) in reversed(placed):
            fill = colour(detection.class_id)
            canvas.rectangle((left, top, right - 1, bottom - 1), fill=fill)
            label.write(canvas, left, top, _ink(fill))
    return picture


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


def _pixels(detection: Detection, size: tuple[int, int]) -> Rect:
    """The box in whole pixels, inside the picture and at least one pixel large."""
    x1, y1, x2, y2 = detection.xyxy
    left = min(max(round(x1), 0), size[0] - 1)
    top = min(max(round(y1), 0), size[1] - 1)
    return left, top, max(min(round(x2), size[0]), left + 1), max(min(round(y2), size[1]), top + 1)


class _Room:
    """The part of the picture where labels may go, and the labels that are there already."""

    def __init__(self, width: int, height: int) -> None:
        self.width = width
        self.height = height
        self.taken: list[Rect] = []

    def best(self, label: lettering.Lines, corners: Iterable[tuple[int, int]]) -> Rect:
        """Takes the first of the places (left, top) that is free, else the one that covers least of other labels."""
        best, least = (0, 0, 0, 0), math.inf
        for corner_left, corner_top in corners:
            left = max(0, min(corner_left, self.width - label.width))
            top = max(0, min(corner_top, self.height - label.height))
            rect = (left, top, min(left + label.width, self.width), min(top + label.height, self.height))
            covered = 0
            for other in self.taken:
                covered += _overlap(rect, other)
                if covered >= least:
                    break
            else:
                best, least = rect, covered
                if not covered:
                    break
        self.taken.append(best)
        return best


def _overlap(one: Rect, other: Rect) -> int:
    # Most pairs are apart, and there are many pairs.
    if one[0] >= other[2] or other[0] >= one[2] or one[1] >= other[3] or other[1] >= one[3]:
        return 0
    return (min(one[2], other[2]) - max(one[0], other[0])) * (min(one[3], other[3]) - max(one[1], other[1]))


def _label(detection: Detection, size: int, room: _Room) -> lettering.Lines:
    name, number = " ".join(detection.class_name.split()), f"#{detection.class_id}"
    confidence = f"{detection.confidence:.2f}"
    return lettering.label(f"{name or number} {confidence}", size, room.width, instead=f"{number} {confidence}")


def _size_for_crowd(detections: Sequence[Detection], size: int, room: _Room) -> int:
    """A smaller font, down to half, where labels would cover much of the picture."""
    labels = [_label(detection, size, room) for detection in detections]
    covered = sum(label.width * label.height for label in labels) / (room.width * room.height)
    shrunk = size if covered <= MOST_COVERED else round(size * max(0.5, math.sqrt(MOST_COVERED / covered)))
    return max(lettering.MIN_PX, shrunk)


def _place(detection: Detection, size: int, line_width: int, room: _Room) -> tuple[lettering.Lines, Rect]:
    label = _label(detection, size, room)
    left, top, right, bottom = _pixels(detection, (room.width, room.height))
    above = top - label.height
    places = [(left, top), (left, bottom), (right - label.width, top), (left, bottom - label.height)]
    if above >= 0:
        places = [(left, above), (right - label.width, above), *places]
    # In a crowd, stepping down along the box's left edge still shows whose label it is.
    steps = range(top + label.height, bottom - label.height, max(label.height, line_width))
    return label, room.best(label, [*places, *((left, step) for step in steps[:8])])
