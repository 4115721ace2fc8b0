"""Which of a network's candidates are reported: NMS where it is needed, thresholds, the most at once.

The semantics of `non_max_suppression` of ultralytics 8.4: one class per anchor, boxes of different classes do not
suppress each other unless asked to, confidence strictly above the threshold. Those of its heads that need no NMS:
`Detect.postprocess` and `RTDETRDecoder.postprocess`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from detectctl.defaults import MAX_DET

if TYPE_CHECKING:
    from collections.abc import Collection

    from numpy.typing import NDArray

    from detectctl.engine.yolo_head import Candidates

_MAX_CANDIDATES = 30000
_CLASS_OFFSET = 7680  # pixels; further apart than any two boxes of one image
_EPSILON = np.float32(1e-7)


@dataclass(frozen=True, slots=True)
class Selection:
    """The candidates to report, by descending confidence.

    Attributes:
        index: (n,): which candidates.
        confidences: (n,).
        class_ids: (n,).
        truncated: whether there were more that `limit` has cut off.
    """

    index: NDArray[np.intp]
    confidences: NDArray[np.float32]
    class_ids: NDArray[np.intp]
    truncated: bool = False


def select(
    candidates: Candidates,
    *,
    iou: float | None,
    confidence: NDArray[np.float32] | float = 0.0,
    classes: Collection[int] | None = None,
    rotated: bool = False,
    agnostic: bool = False,
    limit: int = MAX_DET,
) -> Selection:
    """The candidates to report.

    Args:
        candidates: places whose greatest confidence is above the least threshold.
        iou: of two boxes of one class that overlap by more than this, the less confident is dropped; None for a
            one-to-one head, whose candidates are taken as they are, with each of their classes.
        confidence: the threshold, one for all classes or one for each.
        classes: ids of the classes to keep; None for all.
        rotated: whether the first of each candidate's extras is the angle of its box.
        agnostic: whether boxes of different classes suppress each other, too.
        limit: the most to report.
    """
    thresholds = np.broadcast_to(np.asarray(confidence, np.float32), len(candidates.scores))
    if iou is None:
        return _most_confident(candidates.scores, thresholds, classes, limit, agnostic=agnostic)
    class_ids = candidates.scores.argmax(axis=0)
    confidences = candidates.scores.max(axis=0, initial=0)
    wanted = confidences > thresholds[class_ids]
    if classes is not None:
        wanted &= np.isin(class_ids, list(classes))
    index = np.flatnonzero(wanted)
    index = index[np.argsort(-confidences[index], kind="stable")[:_MAX_CANDIDATES]]
    class_ids, confidences = class_ids[index], confidences[index]
    # In float32, as there: at this offset, rounding can decide on which side of the threshold an overlap falls.
    offset = (class_ids * np.float32(0 if agnostic else _CLASS_OFFSET)).astype(np.float32)
    boxes = candidates.boxes[:, index]
    if rotated:
        boxes = np.concatenate((boxes[:2] + offset, boxes[2:], candidates.extras[:1, index]))
        keep, truncated = suppress_rotated(boxes, iou, limit)
    else:
        keep, truncated = suppress(corners(boxes) + offset[:, np.newaxis], iou, limit)
    return Selection(index[keep], confidences[keep], class_ids[keep], truncated)


def _most_confident(
    scores: NDArray[np.float32],
    thresholds: NDArray[np.float32],
    classes: Collection[int] | None,
    limit: int,
    *,
    agnostic: bool,
) -> Selection:
    """First the most confident places, then of all of their classes the most confident."""

    def wanted(confidences: NDArray[np.float32], class_ids: NDArray[np.intp]) -> NDArray[np.bool_]:
        above: NDArray[np.bool_] = confidences > thresholds[class_ids]
        return above if classes is None else above & np.isin(class_ids, list(classes))

    first = max(limit, MAX_DET)  # Ultralytics cuts there before it looks at thresholds and classes
    best, greatest = scores.argmax(axis=0), scores.max(axis=0, initial=0)
    places = np.argsort(-greatest, kind="stable")[:first]
    if agnostic:
        confidences, index, class_ids = greatest[places], places, best[places]
        count = wanted(greatest, best).sum()
    else:
        flat = scores[:, places].T.ravel()
        order = np.argsort(-flat, kind="stable")[:first]
        chosen, class_ids = np.divmod(order, len(scores))
        confidences, index = flat[order], places[chosen]
        count = wanted(scores, np.arange(len(scores))[:, np.newaxis]).sum()
    keep = np.flatnonzero(wanted(confidences, class_ids))[:limit]
    return Selection(index[keep], confidences[keep], class_ids[keep], len(keep) < int(count))


def corners(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, 4) x1, y1, x2, y2 of boxes (4, n) by centre x, y, width, height."""
    centre, half = boxes[:2].T, boxes[2:].T / 2
    return np.concatenate((centre - half, centre + half), axis=1)


def suppress(boxes: NDArray[np.float32], iou: float, limit: int = MAX_DET) -> tuple[NDArray[np.intp], bool]:
    """Indices of the boxes to keep, none of which overlaps a better one by more than `iou`, and whether there are more.

    Boxes are (n, 4), the best first; at most `limit` are kept.
    """
    sides = np.ascontiguousarray(boxes.T)
    areas = area(sides)
    alive = np.arange(len(boxes))
    keep: list[int] = []
    while alive.size and len(keep) < limit:
        best, alive = alive[0], alive[1:]
        keep.append(int(best))
        shared = overlap(sides[:, best], sides.take(alive, axis=1))
        # Not as a quotient: two empty boxes have none.
        alive = alive[shared <= iou * (areas[best] + areas[alive] - shared)]
    return np.array(keep, np.intp), alive.size > 0


def suppress_rotated(boxes: NDArray[np.float32], iou: float, limit: int = MAX_DET) -> tuple[NDArray[np.intp], bool]:
    """As `suppress`, but none that is kept is like a better one, kept or not, by more than `iou`.

    Boxes are (5, n), the best first: centre x, y, width, height, angle. Two are as like as the normal distributions
    that they stand for: ProbIoU of https://arxiv.org/abs/2106.06072, as `batch_probiou` of ultralytics 8.4 has it.
    """
    x, y, width, height, angle = boxes
    cosine, sine = np.cos(angle), np.sin(angle)
    wide, high = width**2 / 12, height**2 / 12
    a, b, c = wide * cosine**2 + high * sine**2, wide * sine**2 + high * cosine**2, (wide - high) * cosine * sine
    own = np.maximum(a * b - c**2, 0)

    def suppressed(index: int, better: list[int] | slice) -> bool:
        sum_a, sum_b, sum_c = a[better] + a[index], b[better] + b[index], c[better] + c[index]
        right, down = x[better] - x[index], y[better] - y[index]
        determinant = sum_a * sum_b - sum_c**2
        divisor = determinant + _EPSILON
        distance = (sum_a * down**2 + sum_b * right**2) / divisor * np.float32(0.25)
        distance -= sum_c * right * down / divisor * np.float32(0.5)
        spread = determinant / (4 * np.sqrt(own[better] * own[index]) + _EPSILON) + _EPSILON
        with np.errstate(invalid="ignore", divide="ignore"):
            distance += np.log(spread) * np.float32(0.5)
        apart = np.sqrt(1 - np.exp(-np.clip(distance, _EPSILON, 100)) + _EPSILON)
        return bool((1 - apart > iou).any())

    keep: list[int] = []
    for index in range(len(x)):
        # Those that are kept first: they are few, and nearly all that is suppressed is like one of them.
        if not suppressed(index, keep) and not suppressed(index, slice(index)):
            if len(keep) == limit:
                return np.array(keep, np.intp), True
            keep.append(index)
    return np.array(keep, np.intp), False


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
