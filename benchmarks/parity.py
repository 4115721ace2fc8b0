"""Whether two ways of computing find the same objects, as tests/test_engine_parity.py asks of the engines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from detectctl.engine.nms import area, overlap

if TYPE_CHECKING:
    from collections.abc import Sequence

    from detectctl.wire import Detection

LEAST_IOU = 0.98
GREATEST_GAP = 0.02


@dataclass(frozen=True)
class Parity:
    """How far the objects of one way are from those of another.

    Attributes:
        compared: objects that both found.
        least_iou: of two boxes of one object.
        greatest_gap: of two confidences of one object.
        alone: objects that one way found only, and by more than the bound above the threshold.
    """

    compared: int
    least_iou: float
    greatest_gap: float
    alone: int

    @property
    def kept(self) -> bool:
        """Whether it is within the bounds, which are those of half precision."""
        return self.least_iou >= LEAST_IOU and self.greatest_gap <= GREATEST_GAP and not self.alone


def compare(expected: Sequence[Sequence[Detection]], found: Sequence[Sequence[Detection]], threshold: float) -> Parity:
    """The objects of each image; `threshold` is the confidence above which they were asked for."""
    ious, gaps, alone = [1.0], [0.0], []
    for ours, theirs in zip(expected, found, strict=True):
        left = list(theirs)
        for one in ours:
            near = [(_iou(one, other), other) for other in left if other.class_id == one.class_id]
            iou, nearest = max(near, key=lambda pair: pair[0], default=(0.0, None))
            if nearest is None or iou < 0.5:
                alone.append(one)
                continue
            left.remove(nearest)
            ious.append(iou)
            gaps.append(abs(one.confidence - nearest.confidence))
        alone += left
    lost = sum(one.confidence > threshold + GREATEST_GAP for one in alone)
    return Parity(len(ious) - 1, min(ious), max(gaps), lost)


def _iou(one: Detection, other: Detection) -> float:
    box, boxes = np.array(one.xyxy), np.array([other.xyxy]).T
    shared = overlap(box, boxes)
    return float((shared / np.maximum(area(box) + area(boxes) - shared, 1e-9))[0])
