"""From the candidates that are reported to objects in the source image, for each task.

After `process_mask`, `masks2segments`, `scale_boxes`, `scale_coords` and `xywhr2xyxyxyxy` of ultralytics 8.4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from detectctl.engine.nms import corners
from detectctl.wire import Detection

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from detectctl.engine.letterbox import Placement
    from detectctl.engine.nms import Selection
    from detectctl.engine.trained import Trained
    from detectctl.engine.yolo_head import Candidates
    from detectctl.wire import Points

_BEST = 5


def classified(confidences: NDArray[np.float32], trained: Trained, placement: Placement) -> tuple[Detection, ...]:
    """The five most confident classes of an image, of (classes,)."""
    whole = (0.0, 0.0, float(placement.width), float(placement.height))
    best = np.argsort(-confidences, kind="stable")[:_BEST].tolist()
    return tuple(Detection(trained.labels[one], whole, float(confidences[one]), one) for one in best)


def located(
    candidates: Candidates, selection: Selection, trained: Trained, placement: Placement, shape: Sequence[int]
) -> tuple[Detection, ...]:
    """The selected candidates as objects; of a model that segments, those whose mask is not empty.

    `shape` is height and width of the network's input in pixels.
    """
    boxes, extras = candidates.boxes[:, selection.index], candidates.extras[:, selection.index]
    count = len(selection.index)
    masks: Sequence[tuple[Points, ...] | None] = [None] * count
    keypoints: Sequence[tuple[Points, ...] | None] = [None] * count
    turned: Sequence[tuple[Points, ...] | None] = [None] * count
    angles: Sequence[float | None] = [None] * count
    if trained.task == "obb":
        points = _rotated_corners(boxes, extras[0], placement)
        turned, angles = _tuples(points), extras[0].tolist()
        edges = placement.limited(np.stack((points.min(axis=1), points.max(axis=1)), axis=1))
    else:
        edges = placement.limited(placement.in_source(corners(boxes).reshape(-1, 2, 2)))
    if candidates.prototypes is not None:
        outlines = [
            _outlines(box, coefficients, candidates.prototypes, shape)
            for box, coefficients in zip(corners(boxes), extras.T, strict=True)
        ]
        masks = [tuple(_flat(placement.limited(placement.in_source(part))) for part in parts) for parts in outlines]
    elif trained.task == "pose":
        keypoints = _tuples(_keypoints(extras, trained.keypoints, placement))
    values = zip(
        edges.reshape(-1, 4).tolist(), selection.confidences.tolist(), selection.class_ids.tolist(), strict=True
    )
    return tuple(
        Detection(trained.labels[class_id], (x1, y1, x2, y2), confidence, class_id, mask, points, rectangle, angle)
        for ((x1, y1, x2, y2), confidence, class_id), mask, points, rectangle, angle in zip(
            values, masks, keypoints, turned, angles, strict=True
        )
        if mask != ()
    )


def _flat(points: NDArray[np.float32]) -> Points:
    return tuple(points.ravel().tolist())


def _tuples(points: NDArray[np.float32]) -> list[tuple[Points, ...]]:
    return [tuple(map(tuple, each)) for each in points.tolist()]


def _keypoints(extras: NDArray[np.float32], shape: tuple[int, int], placement: Placement) -> NDArray[np.float32]:
    """(n, keypoints, 2 or 3), in the source image."""
    points = extras.T.reshape(-1, *shape)
    return np.concatenate((placement.limited(placement.in_source(points[..., :2])), points[..., 2:]), axis=2)


def _rotated_corners(
    boxes: NDArray[np.float32], angles: NDArray[np.float32], placement: Placement
) -> NDArray[np.float32]:
    """(n, 4, 2) corners of boxes (4, n), in the source image.

    Ultralytics scales the sides as if they were not turned, and so do we: where both gains are nearly the same.
    """
    centre = placement.in_source(boxes[:2].T)
    across, along = (
        boxes[2:].T[..., np.newaxis].swapaxes(0, 1) / np.array(placement.gain, np.float32).reshape(2, 1, 1) / 2
    )
    direction = np.stack((np.cos(angles), np.sin(angles)), axis=1)
    width, height = across * direction, along * direction[:, ::-1] * np.array((-1, 1), np.float32)
    corners_in_turn = (
        centre + width + height,
        centre + width - height,
        centre - width - height,
        centre - width + height,
    )
    return np.stack(corners_in_turn, axis=1)


def _outlines(
    box: NDArray[np.float32],
    coefficients: NDArray[np.float32],
    prototypes: NDArray[np.float32],
    shape: Sequence[int],
) -> list[NDArray[np.float32]]:
    """The outer edges of the parts of one mask, (points, 2) each, in the letterbox.

    A pixel belongs to it where the prototypes' sum, scaled up from a quarter of the size, is above 0 inside the box.
    """
    height, width = shape
    rows, columns = prototypes.shape[1:]
    # The whole pixels inside the box, and the prototypes' pixels that they are interpolated from.
    left, top = np.maximum(np.ceil(box[:2]), 0).astype(int).tolist()
    right, bottom = np.minimum(np.ceil(box[2:]), (width, height)).astype(int).tolist()
    if left >= right or top >= bottom:
        return []
    scale_x, scale_y = width // columns, height // rows
    first_column, last_column = max(left // scale_x - 1, 0), min(-(-right // scale_x) + 1, columns)
    first_row, last_row = max(top // scale_y - 1, 0), min(-(-bottom // scale_y) + 1, rows)
    part = prototypes[:, first_row:last_row, first_column:last_column]
    # Not by `@`: BLAS would share it out among threads that all requests compete for.
    sums = np.einsum("c,cyx->yx", coefficients, part)
    scaled = cv2.resize(sums, None, fx=scale_x, fy=scale_y, interpolation=cv2.INTER_LINEAR)
    x, y = first_column * scale_x, first_row * scale_y
    mask = (scaled[top - y : bottom - y, left - x : right - x] > 0).astype(np.uint8)
    found, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE, offset=(left, top))
    # A part of one or two pixels has as many points; a polygon has three.
    return [np.resize(outline, (max(len(outline), 3), 2)).astype(np.float32) for outline in found]
