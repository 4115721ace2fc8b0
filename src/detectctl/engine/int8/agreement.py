"""How far the detections of an int8 network are from those of the fp32 network it was made of."""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING

from detectctl.wire import Agreement

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from detectctl.wire import Detection

_SAME_IOU = 0.5


def compare(fp32: Iterable[Sequence[Detection]], int8: Iterable[Sequence[Detection]], *, skipped: int) -> Agreement:
    """The agreement of two networks.

    Args:
        fp32: the detections in each image, by descending confidence.
        int8: the other network's, of the same images.
        skipped: files that are no images.
    """
    images = fp32_boxes = int8_boxes = 0
    both: list[tuple[float, float]] = []
    for expected, found in zip(fp32, int8, strict=True):
        images += 1
        fp32_boxes += len(expected)
        int8_boxes += len(found)
        both += _pairs(expected, found)
    return Agreement(
        images=images,
        skipped=skipped,
        fp32_boxes=fp32_boxes,
        int8_boxes=int8_boxes,
        recall=len(both) / fp32_boxes if fp32_boxes else 1.0,
        precision=len(both) / int8_boxes if int8_boxes else 1.0,
        mean_iou=fmean(iou for iou, _ in both) if both else 0.0,
        confidence_gap=max((gap for _, gap in both), default=0.0),
    )


def _pairs(expected: Sequence[Detection], found: Sequence[Detection]) -> list[tuple[float, float]]:
    """IoU and difference of confidence of each pair; the most confident box chooses first, each is taken once."""
    left = list(found)
    pairs = []
    for box in expected:
        near = [(_iou(box.xyxy, other.xyxy), other) for other in left if other.class_id == box.class_id]
        iou, other = max(near, key=lambda pair: pair[0], default=(0.0, box))
        if iou >= _SAME_IOU:
            left.remove(other)
            pairs.append((iou, abs(box.confidence - other.confidence)))
    return pairs


def _iou(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)
