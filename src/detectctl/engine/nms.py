"""From a network's candidates to boxes in the source image: NMS, scaling back, clipping.

The semantics of `non_max_suppression` and `scale_boxes` of ultralytics 8.4 for detection: one class per anchor, boxes
of different classes never suppress each other, confidence strictly above the threshold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Collection

    from numpy.typing import NDArray

    from detectctl.engine.letterbox import Placement

MAX_DETECTIONS = 300
_MAX_CANDIDATES = 30000
_CLASS_OFFSET = 7680  # pixels; further apart than any two boxes of one image


def select(
    candidates: NDArray[np.float32], placement: Placement, *, iou: float, classes: Collection[int] | None = None
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.intp]]:
    """The boxes that remain, by descending confidence.

    Args:
        candidates: (4 + classes, candidates): centre x, y, width, height in letterbox pixels, then confidences; only
            anchors whose greatest confidence is above the threshold.
        placement: where the source image lies in the letterbox.
        iou: of two boxes of one class that overlap more than this, the less confident one goes.
        classes: ids of the classes to keep; None for all.

    Returns:
        Boxes (n, 4) as x1, y1, x2, y2 in pixels of the source image, clipped to it; confidences (n,); class ids (n,).
    """
    class_ids = candidates[4:].argmax(axis=0)
    confidences = candidates[4:].max(axis=0, initial=0)
    if classes is not None:
        wanted = np.isin(class_ids, list(classes))
        candidates, class_ids, confidences = candidates[:, wanted], class_ids[wanted], confidences[wanted]
    order = np.argsort(-confidences, kind="stable")[:_MAX_CANDIDATES]
    class_ids, confidences = class_ids[order], confidences[order]
    centre, half = candidates[:2, order].T, candidates[2:4, order].T / 2
    boxes = np.concatenate((centre - half, centre + half), axis=1)
    # In float32 like theirs: at this offset its rounding can decide which side of the threshold an overlap falls.
    keep = suppress(boxes + (class_ids * np.float32(_CLASS_OFFSET)).astype(np.float32)[:, np.newaxis], iou)
    boxes, confidences, class_ids = boxes[keep], confidences[keep], class_ids[keep]

    boxes = (boxes - np.array(placement.offset * 2, np.float32)) / np.array(placement.gain * 2, np.float32)
    limits = np.array((placement.width, placement.height) * 2, np.float32)
    return np.clip(boxes, 0, limits), confidences, class_ids


def suppress(boxes: NDArray[np.float32], iou: float, limit: int = MAX_DETECTIONS) -> list[int]:
    """Indices of the boxes that no better kept box overlaps more than `iou`; boxes (n, 4) by descending confidence."""
    x1, y1, x2, y2 = boxes.T
    areas = (x2 - x1) * (y2 - y1)
    alive = np.arange(len(boxes))
    keep: list[int] = []
    while alive.size and len(keep) < limit:
        best, alive = alive[0], alive[1:]
        keep.append(int(best))
        width = np.minimum(x2[best], x2[alive]) - np.maximum(x1[best], x1[alive])
        height = np.minimum(y2[best], y2[alive]) - np.maximum(y1[best], y1[alive])
        overlap = np.maximum(width, 0) * np.maximum(height, 0)
        # As a product, since two empty boxes have no quotient.
        alive = alive[overlap <= iou * (areas[best] + areas[alive] - overlap)]
    return keep
