"""How closely the detections of an int8 network agree with those of the fp32 network it was made from."""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np

from detectctl.engine.nms import area, overlap
from detectctl.wire import Agreement

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from detectctl.wire import Detection

_SAME_IOU = 0.5


def compare(fp32: Iterable[Sequence[Detection]], int8: Iterable[Sequence[Detection]], *, skipped: int) -> Agreement:
    """The agreement of two networks.

    Args:
        fp32: the detections in each image, by descending confidence.
        int8: those of the other network in the same images.
        skipped: how many files are not images.
    """
    images = list(zip(fp32, int8, strict=True))
    fp32_boxes, int8_boxes = sum(len(expected) for expected, _ in images), sum(len(found) for _, found in images)
    both = [pair for expected, found in images for pair in _pairs(expected, found)]
    return Agreement(
        images=len(images),
        skipped=skipped,
        fp32_boxes=fp32_boxes,
        int8_boxes=int8_boxes,
        recall=len(both) / fp32_boxes if fp32_boxes else 1.0,
        precision=len(both) / int8_boxes if int8_boxes else 1.0,
        mean_iou=fmean(iou for iou, _ in both) if both else 0.0,
        confidence_gap=max((gap for _, gap in both), default=0.0),
    )


def _pairs(expected: Sequence[Detection], found: Sequence[Detection]) -> list[tuple[float, float]]:
    """IoU and difference in confidence of each pair; the most confident box chooses first, and none is taken twice."""
    left = list(found)
    pairs = []
    for box in expected:
        near = [other for other in left if other.class_id == box.class_id]
        if not near:
            continue
        one, others = np.array(box.xyxy), np.array([other.xyxy for other in near]).T
        shared = overlap(one, others)
        ious = shared / np.maximum(area(one) + area(others) - shared, 1e-9)  # an empty box has no union with itself
        best = int(ious.argmax())
        if ious[best] >= _SAME_IOU:
            left.remove(near[best])
            pairs.append((float(ious[best]), abs(box.confidence - near[best].confidence)))
    return pairs
