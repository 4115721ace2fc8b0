"""From a network's candidates to boxes in the source image: NMS where it is needed, scaling back, clipping.

The semantics of `non_max_suppression` and `scale_boxes` of ultralytics 8.4 for detection: one class per anchor, boxes
of different classes never suppress each other, confidence strictly above the threshold. Those of its heads that need no
NMS: `Detect.postprocess` and `RTDETRDecoder.postprocess`.
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
    candidates: NDArray[np.float32],
    placement: Placement,
    *,
    iou: float | None,
    confidence: float = 0.0,
    classes: Collection[int] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.intp]]:
    """The boxes to report, by descending confidence: those that NMS keeps.

    Args:
        candidates: (4 + classes, candidates): centre x, y, width, height in the network's pixels, then confidences;
            only places whose greatest confidence is above the threshold.
        placement: where the source image is in the network's.
        iou: of two boxes of one class that overlap by more than this, the less confident is dropped; None for a
            one-to-one head, whose candidates are taken as they are, with each of their classes.
        confidence: the threshold for each class of such a place.
        classes: ids of the classes to keep; None for all.

    Returns:
        Boxes (n, 4) as x1, y1, x2, y2 in pixels of the source image, clipped to it; confidences (n,); class ids (n,).
    """
    if iou is None:
        boxes, confidences, class_ids = _most_confident(candidates, confidence)
        if classes is not None:
            wanted = np.isin(class_ids, list(classes))
            boxes, confidences, class_ids = boxes[wanted], confidences[wanted], class_ids[wanted]
    else:
        boxes, confidences, class_ids = _without_overlaps(candidates, iou, classes)
    offset, gain = np.array(placement.offset * 2, np.float32), np.array(placement.gain * 2, np.float32)
    limits = np.array((placement.width, placement.height) * 2, np.float32)
    return np.clip((boxes - offset) / gain, 0, limits), confidences, class_ids


Boxes = tuple["NDArray[np.float32]", "NDArray[np.float32]", "NDArray[np.intp]"]


def _most_confident(candidates: NDArray[np.float32], confidence: float) -> Boxes:
    """First the most confident places, then of all of their classes the most confident."""
    scores = candidates[4:]
    places = np.argsort(-scores.max(axis=0, initial=0), kind="stable")[:MAX_DETECTIONS]
    flat = scores[:, places].T.ravel()
    order = np.argsort(-flat, kind="stable")[:MAX_DETECTIONS]
    order = order[flat[order] > np.float32(confidence)]
    index, class_ids = np.divmod(order, len(scores))
    return _corners(candidates[:, places[index]]), flat[order], class_ids


def _corners(candidates: NDArray[np.float32]) -> NDArray[np.float32]:
    centre, half = candidates[:2].T, candidates[2:4].T / 2
    return np.concatenate((centre - half, centre + half), axis=1)


def _without_overlaps(candidates: NDArray[np.float32], iou: float, classes: Collection[int] | None) -> Boxes:
    class_ids = candidates[4:].argmax(axis=0)
    confidences = candidates[4:].max(axis=0, initial=0)
    if classes is not None:
        wanted = np.isin(class_ids, list(classes))
        candidates, class_ids, confidences = candidates[:, wanted], class_ids[wanted], confidences[wanted]
    order = np.argsort(-confidences, kind="stable")[:_MAX_CANDIDATES]
    class_ids, confidences = class_ids[order], confidences[order]
    boxes = _corners(candidates[:, order])
    # In float32, as there: at this offset, rounding can decide on which side of the threshold an overlap falls.
    keep = suppress(boxes + (class_ids * np.float32(_CLASS_OFFSET)).astype(np.float32)[:, np.newaxis], iou)
    return boxes[keep], confidences[keep], class_ids[keep]


def suppress(boxes: NDArray[np.float32], iou: float, limit: int = MAX_DETECTIONS) -> list[int]:
    """Indices of the boxes to keep: none overlaps a better one by more than `iou`; boxes (n, 4), the best first."""
    corners = np.ascontiguousarray(boxes.T)
    areas = area(corners)
    alive = np.arange(len(boxes))
    keep: list[int] = []
    while alive.size and len(keep) < limit:
        best, alive = alive[0], alive[1:]
        keep.append(int(best))
        shared = overlap(corners[:, best], corners.take(alive, axis=1))
        # Not as a quotient: two empty boxes have none.
        alive = alive[shared <= iou * (areas[best] + areas[alive] - shared)]
    return keep


def area(corners: NDArray[np.floating]) -> NDArray[np.floating]:
    """Areas of boxes (4, n), each x1, y1, x2, y2."""
    width, height = corners[2:] - corners[:2]
    areas: NDArray[np.floating] = width * height
    return areas


def overlap(box: NDArray[np.floating], others: NDArray[np.floating]) -> NDArray[np.floating]:
    """The area that a box (4,) shares with each of `others` (4, n), all x1, y1, x2, y2."""
    low, high = np.maximum(box[:2, np.newaxis], others[:2]), np.minimum(box[2:, np.newaxis], others[2:])
    width, height = np.maximum(high - low, 0)
    shared: NDArray[np.floating] = width * height
    return shared
