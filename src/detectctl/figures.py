"""What is drawn of objects themselves: masks, boxes, rotated boxes, keypoints with their skeleton."""

from __future__ import annotations

import colorsys
import math
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

from detectctl import coco_pose

if TYPE_CHECKING:
    from collections.abc import Sequence

    from detectctl.wire import Detection, Points

Colour = tuple[int, int, int]
Rect = tuple[int, int, int, int]
"""`(left, top, right, bottom)` in pixels, right and bottom exclusive."""

_TINT = 110
"""Of 255: how much of a mask's colour lies over the picture."""
_BAND_PX = 4 * 2**20
"""Pixels of the picture that masks are laid over at once: their memory does not grow with the picture."""
_LEFT, _RIGHT, _MIDDLE = (255, 128, 0), (0, 190, 255), (90, 230, 60)
"""Of a person's limbs."""


def colour(class_id: int) -> Colour:
    """The colour of a class: neighbours in the list of classes are far apart on the colour wheel."""
    golden_ratio = 0.618034
    hue = (0.6 + class_id * golden_ratio) % 1
    lightness = (0.5, 0.42, 0.62)[class_id % 3]
    red, green, blue = colorsys.hls_to_rgb(hue, lightness, 0.85)
    return round(red * 255), round(green * 255), round(blue * 255)


def box(detection: Detection, size: tuple[int, int]) -> Rect:
    """The upright box in whole pixels, inside a picture of this size and at least one pixel large."""
    x1, y1, x2, y2 = detection.xyxy
    left = min(max(round(x1), 0), size[0] - 1)
    top = min(max(round(y1), 0), size[1] - 1)
    return left, top, max(min(round(x2), size[0]), left + 1), max(min(round(y2), size[1]), top + 1)


def paint(picture: Image.Image, detections: Sequence[Detection], line_width: int) -> None:
    """Draw all objects on an RGB picture, later ones over earlier ones; lines are `line_width` pixels wide.

    Masks lie under all lines. Where some overlap, the picture takes the colour of the smallest, which is likely
    in front.
    """
    _lay_masks(picture, detections)
    canvas = ImageDraw.Draw(picture)
    for detection in detections:
        hue = colour(detection.class_id)
        for outline in detection.mask or ():
            canvas.line((*outline, *outline[:4]), hue, max(1, line_width // 2))
        if detection.corners is None:
            left, top, right, bottom = box(detection, picture.size)
            canvas.rectangle((left, top, right - 1, bottom - 1), outline=hue, width=line_width)
        else:
            _frame(canvas, detection.corners, hue, line_width)
    for detection in detections:
        _pose(canvas, detection, picture.size, line_width)


def _lay_masks(picture: Image.Image, detections: Sequence[Detection]) -> None:
    masked = sorted((detection for detection in detections if detection.mask), key=lambda one: one.area, reverse=True)
    # Each pixel gets the number of a class, 0 for none: much faster than its colour. 255 classes have one of their own.
    classes = list(dict.fromkeys(detection.class_id for detection in reversed(masked)))
    numbers = {class_id: 1 + place % 255 for place, class_id in enumerate(classes)}
    palette = bytes((0, 0, 0, *(part for class_id in classes[:255] for part in colour(class_id))))
    outlines = [
        (numbers[detection.class_id], outline, min(outline[1::2]), max(outline[1::2]))
        for detection in masked
        for outline in detection.mask or ()
    ]
    width, height = picture.size
    rows = max(1, _BAND_PX // width)
    for top in range(0, height if masked else 0, rows):
        tint = Image.new("L", (width, min(rows, height - top)))
        canvas = ImageDraw.Draw(tint)
        for number, outline, first, last in outlines:
            if last >= top and first < top + rows:
                canvas.polygon([value - top * (place % 2) for place, value in enumerate(outline)], number)
        strength = tint.point([0] + 255 * [_TINT])
        tint.putpalette(palette)
        picture.paste(tint.convert("RGB"), (0, top), strength)


def _frame(canvas: ImageDraw.ImageDraw, corners: Sequence[Points], hue: Colour, line_width: int) -> None:
    """A rectangle at any angle, its line inside, as that of an upright one."""
    inset = min(line_width, *(math.dist(corner, corners[place - 1]) / 2 for place, corner in enumerate(corners)))
    inner = []
    for place, corner in enumerate(corners):
        before, after = corners[place - 1], corners[(place + 1) % len(corners)]
        steps = [_step(corner, towards, inset) for towards in (before, after)]
        inner.append(tuple(sum(parts) for parts in zip(corner, *steps, strict=True)))
    for place, corner in enumerate(corners):
        canvas.polygon([*corner, *corners[place - 1], *inner[place - 1], *inner[place]], hue)


def _step(start: Points, end: Points, length: float) -> tuple[float, float]:
    way = math.dist(start, end) or 1
    return (end[0] - start[0]) / way * length, (end[1] - start[1]) / way * length


def _pose(canvas: ImageDraw.ImageDraw, detection: Detection, size: tuple[int, int], line_width: int) -> None:
    """Keypoints as dots, and COCO's skeleton of those that have it."""
    points = detection.keypoints or ()
    width, height = size
    # Ultralytics, too, takes a point on the edge as one that was not found.
    seen = [
        0 < x < width and 0 < y < height and (not confidence or confidence[0] >= coco_pose.SEEN)
        for x, y, *confidence in points
    ]
    is_person = len(points) == len(coco_pose.NAMES)
    for one, other in coco_pose.LIMBS if is_person else ():
        if seen[one] and seen[other]:
            canvas.line((*points[one][:2], *points[other][:2]), limb_colour(one, other), line_width)
    for number, (x, y, *_) in enumerate(points):
        if seen[number]:
            hue = limb_colour(number, number) if is_person else colour(detection.class_id)
            canvas.circle((x, y), line_width * 1.5, hue, "white", max(1, line_width // 2))


def limb_colour(one: int, other: int) -> Colour:
    """Of what joins two of a person's keypoints: one colour for each side, another between them."""
    sides = {coco_pose.NAMES[number].partition("_")[0] for number in (one, other)} - {"nose"}
    return {"left": _LEFT, "right": _RIGHT}[sides.pop()] if len(sides) == 1 else _MIDDLE
