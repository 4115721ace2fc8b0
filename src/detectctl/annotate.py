"""A result drawn on a Pillow image, with labels that read well from a thumbnail to 8K.

Lines and letters grow with the image. A class keeps its colour from picture to picture. Labels stay inside the picture
and out of each other's way while there is room.
"""

from __future__ import annotations

import io
import math
from dataclasses import replace
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

from detectctl import figures, lettering
from detectctl.defaults import QUALITY
from detectctl.errors import UsageError
from detectctl.wire import Detection, DrawOptions

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from detectctl.figures import Colour, Rect
    from detectctl.wire import DetectionResult, ModelInfo, Points, Task

LINE_PER_PX = 0.003
FONT_PER_PX = 0.024
"""Of the mean of width and height."""

MOST_COVERED = 0.1
"""Of the picture, by labels, before they get smaller."""

STRIP = (24, 24, 24)


def annotated(image: Image.Image, result: DetectionResult, image_format: str, options: DrawOptions) -> bytes:
    """The picture of a result as the bytes of a file, the same whether the service draws it or its caller.

    `image` is RGB, upright, and of the size that `result` has. The rest is as for `draw` and `encode`.
    """
    # With the digits that an answer has, or what the caller draws could differ from it in a pixel.
    detections = [Detection.from_json(dict(found.to_json())) for found in result.detections]
    picture = draw(image, detections, options, caption_of(result.model), task=result.model.task)
    return encode(picture, image_format, options.quality)


def fitted(image: Image.Image, result: DetectionResult, size: tuple[int, int], options: DrawOptions) -> Image.Image:
    """The picture of a result, brought to the largest size within `size`, and only then drawn on: labels stay legible.

    The rest is as for `annotated`; the width of lines shrinks and grows with the picture.
    """
    factor = min(size[0] / image.width, size[1] / image.height)
    width, height = (max(1, round(side * factor)) for side in image.size)
    picture = image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3)
    scale = width / image.width, height / image.height
    if options.line_width is not None:
        options = replace(options, line_width=max(1, round(options.line_width * factor)))
    detections = [_scaled(found, scale) for found in result.detections]
    return draw(picture, detections, options, caption_of(result.model), task=result.model.task)


def _scaled(detection: Detection, scale: tuple[float, float]) -> Detection:
    def of(values: Points) -> Points:
        return tuple(value * scale[place % 2] for place, value in enumerate(values))

    def points(parts: tuple[Points, ...] | None) -> tuple[Points, ...] | None:
        return None if parts is None else tuple((*of(part[:2]), *part[2:]) for part in parts)

    x1, y1, x2, y2 = of(detection.xyxy)
    mask = None if detection.mask is None else tuple(map(of, detection.mask))
    keypoints, corners = points(detection.keypoints), points(detection.corners)
    return replace(detection, xyxy=(x1, y1, x2, y2), mask=mask, keypoints=keypoints, corners=corners)


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
    image: Image.Image,
    detections: Sequence[Detection],
    options: DrawOptions | None = None,
    caption: str | None = None,
    *,
    task: Task = "detect",
) -> Image.Image:
    """A copy of `image` with what is known of each detection: box, mask, keypoints, and a label beside it.

    Args:
        image: RGB, upright.
        detections: in pixels of `image`; the more confident ones are drawn on top and choose their label's place first.
        options: how to draw.
        caption: words on a dark strip over the bottom of the picture, at most a third of it.
        task: of the model; the classes of one that classifies are listed on a strip of their own.
    """
    options = options or DrawOptions()
    picture = image.copy()
    mean = sum(picture.size) / 2
    line_width = options.line_width or max(2, round(mean * LINE_PER_PX))
    font_size = max(lettering.MIN_PX, round(mean * FONT_PER_PX))
    strongest_first = sorted(detections, key=lambda detection: -detection.confidence)
    if task != "classify":
        figures.paint(picture, strongest_first[::-1], line_width)
    canvas = ImageDraw.Draw(picture)
    free_height = picture.height
    if caption is not None:
        strip = lettering.caption(caption, font_size, picture.width, picture.height // 3)
        top = max(0, picture.height - strip.height)
        canvas.rectangle((0, top, *picture.size), fill=STRIP)
        strip.write(canvas, 0, top, "white")
        free_height = max(1, top)
    if not options.labels:
        return picture
    room = _Room(picture.width, free_height)
    if task == "classify":
        _list_classes(canvas, strongest_first, font_size, room)
        return picture
    font_size = _size_for_crowd(strongest_first, font_size, room)
    placed = [(detection, *_place(detection, font_size, line_width, room)) for detection in strongest_first]
    for detection, label, place in reversed(placed):
        _write(canvas, detection, label, place)
    return picture


def _write(canvas: ImageDraw.ImageDraw, detection: Detection, label: lettering.Lines, place: Rect) -> None:
    left, top, right, bottom = place
    fill = figures.colour(detection.class_id)
    canvas.rectangle((left, top, right - 1, bottom - 1), fill=fill)
    label.write(canvas, left, top, _ink(fill))


def _ink(background: Colour) -> str:
    """Black or white, whichever contrasts more, by WCAG's relative luminance."""
    linear = [value / 255 / 12.92 if value <= 10 else ((value / 255 + 0.055) / 1.055) ** 2.4 for value in background]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "black" if (luminance + 0.05) ** 2 > 1.05 * 0.05 else "white"


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
    if detection.corners is not None:
        return label, room.best(label, _beside_corners(detection.corners, label))
    left, top, right, bottom = figures.box(detection, (room.width, room.height))
    above = top - label.height
    places = [(left, top), (left, bottom), (right - label.width, top), (left, bottom - label.height)]
    if above >= 0:
        places = [(left, above), (right - label.width, above), *places]
    # In a crowd, stepping down along the box's left edge still shows whose label it is.
    steps = range(top + label.height, bottom - label.height, max(label.height, line_width))
    return label, room.best(label, [*places, *((left, step) for step in steps[:8])])


def _beside_corners(corners: Sequence[Points], label: lettering.Lines) -> Iterator[tuple[int, int]]:
    """Places that touch a rotated box from outside, the upper ones first; the upright box has its corners far off."""
    centre = sum(x for x, _ in corners) / len(corners)
    for number, (x, y) in enumerate(sorted(corners, key=lambda corner: corner[1])):
        left = x - label.width * (0.5 if number in {0, 3} else x < centre)
        top = y - label.height * (1, 0.5, 0.5, 0)[number]
        yield round(left), round(top)


def _list_classes(canvas: ImageDraw.ImageDraw, detections: Sequence[Detection], size: int, room: _Room) -> None:
    """Classes of the whole picture on a strip at the bottom of the room: one, and as many as a third of it holds."""
    gap = max(2, size // 5)
    for fitted in (size, lettering.MIN_PX):
        labels, places = [_label(detection, fitted, room) for detection in detections], []
        left = top = gap
        for label in labels:
            if left > gap and left + label.width + gap > room.width:
                left, top = gap, top + label.height + gap
            places.append((left, top, left + label.width, top + label.height))
            left += label.width + gap
        if not places or places[-1][3] + gap <= room.height // 3:
            break
    shown = [place for place in places if place == places[0] or place[3] + gap <= room.height // 3]
    if shown:
        start = max(0, room.height - shown[-1][3] - gap)
        canvas.rectangle((0, start, room.width, room.height - 1), fill=STRIP)
    for detection, label, (left, top, right, bottom) in zip(detections, labels, shown, strict=False):
        _write(canvas, detection, label, (left, start + top, right, start + bottom))
