"""How closely the answers of an int8 network agree with those of the fp32 network it was made from, by its task."""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from detectctl.engine.nms import area, overlap
from detectctl.wire import Agreement

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from detectctl.wire import Detection, Points, Task

_SAME_IOU = 0.5
_RASTER = 256  # pixels of the longer side, on which two masks are compared


class _Pair(NamedTuple):
    expected: Detection
    found: Detection
    iou: float


def compare(
    fp32: Iterable[Sequence[Detection]], int8: Iterable[Sequence[Detection]], *, task: Task = "detect", skipped: int
) -> Agreement:
    """The agreement of two networks.

    Args:
        fp32: the detections in each image, by descending confidence.
        int8: those of the other network in the same images.
        task: of both; where they classify, only the most confident class counts.
        skipped: how many files are not images.
    """
    images = list(zip(fp32, int8, strict=True))
    if task == "classify":
        images = [(expected[:1], found[:1]) for expected, found in images]
    fp32_boxes, int8_boxes = sum(len(expected) for expected, _ in images), sum(len(found) for _, found in images)
    both = [pair for expected, found in images for pair in _pairs(expected, found)]
    return Agreement(
        images=len(images),
        skipped=skipped,
        fp32_boxes=fp32_boxes,
        int8_boxes=int8_boxes,
        recall=len(both) / fp32_boxes if fp32_boxes else 1.0,
        precision=len(both) / int8_boxes if int8_boxes else 1.0,
        mean_iou=fmean(pair.iou for pair in both) if both else 0.0,
        confidence_gap=max((abs(pair.expected.confidence - pair.found.confidence) for pair in both), default=0.0),
        keypoint_distance=fmean(map(_keypoint_distance, both)) if both and task == "pose" else None,
    )


def _pairs(expected: Sequence[Detection], found: Sequence[Detection]) -> list[_Pair]:
    """The most confident box chooses first, and none is taken twice."""
    left = list(found)
    pairs = []
    for box in expected:
        near = [other for other in left if other.class_id == box.class_id]
        if not near:
            continue
        ious = _ious(box, near)
        best = max(range(len(near)), key=ious.__getitem__)
        if ious[best] >= _SAME_IOU:
            left.remove(near[best])
            pairs.append(_Pair(box, near[best], ious[best]))
    return pairs


def _ious(box: Detection, others: Sequence[Detection]) -> list[float]:
    """Of the masks or the rotated boxes where there are any, else of the boxes."""
    one, many = np.array(box.xyxy), np.array([other.xyxy for other in others]).T
    shared = overlap(one, many)
    ious = shared / np.maximum(area(one) + area(many) - shared, 1e-9)  # an empty box has no union with itself
    if box.mask is None and box.corners is None:
        return [float(iou) for iou in ious]
    return [_shape_iou(box, other) if iou > 0 else 0.0 for iou, other in zip(ious, others, strict=True)]


def _shape_iou(one: Detection, other: Detection) -> float:
    """Of two masks or rotated boxes, drawn on a grid around both."""
    shapes = [[_points(part) for part in each.mask or (_flat(each.corners),)] for each in (one, other)]
    every = np.concatenate([part for parts in shapes for part in parts])
    origin = every.min(axis=0)
    scale = _RASTER / max(float((every.max(axis=0) - origin).max()), 1e-9)
    grids = []
    for parts in shapes:
        grid = np.zeros((_RASTER + 1, _RASTER + 1), np.uint8)
        for part in parts:
            cv2.fillPoly(grid, [((part - origin) * scale).round().astype(np.int32)], (1,))
        grids.append(grid.astype(bool))
    return float((grids[0] & grids[1]).sum() / (grids[0] | grids[1]).sum())


def _points(flat: Points) -> NDArray[np.float64]:
    return np.array(flat).reshape(-1, 2)


def _flat(corners: tuple[Points, ...] | None) -> Points:
    return tuple(value for corner in corners or () for value in corner)


def _keypoint_distance(pair: _Pair) -> float:
    """The mean, as a share of the box's diagonal."""
    points = [np.array(each.keypoints)[:, :2] for each in (pair.expected, pair.found)]
    x1, y1, x2, y2 = pair.expected.xyxy
    diagonal = max(float(np.hypot(x2 - x1, y2 - y1)), 1e-9)
    return float(np.linalg.norm(points[0] - points[1], axis=1).mean() / diagonal)
