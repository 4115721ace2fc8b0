"""NMS and the way back to the source image."""

from __future__ import annotations

import time

import numpy as np
import pytest

from detectctl.engine.letterbox import Placement
from detectctl.engine.nms import MAX_DETECTIONS, select, suppress

WHOLE = Placement(1000, 1000, (1.0, 1.0), (0, 0))


def candidates(*boxes: tuple[float, float, float, float, int, float], classes: int = 3) -> np.ndarray:
    """Columns for boxes given as centre x, y, width, height, class id, confidence."""
    columns = np.zeros((4 + classes, len(boxes)), np.float32)
    for column, (x, y, width, height, class_id, confidence) in enumerate(boxes):
        columns[:4, column] = x, y, width, height
        columns[4 + class_id, column] = confidence
    return columns


def slow_nms(boxes: np.ndarray, iou: float) -> list[int]:
    """The definition, one pair at a time."""
    keep: list[int] = []
    for number, (x1, y1, x2, y2) in enumerate(boxes.astype(float)):
        for other in keep:
            a1, b1, a2, b2 = boxes[other].astype(float)
            both = max(0, min(x2, a2) - max(x1, a1)) * max(0, min(y2, b2) - max(y1, b1))
            if both > iou * ((x2 - x1) * (y2 - y1) + (a2 - a1) * (b2 - b1) - both):
                break
        else:
            keep.append(number)
    return keep


@pytest.mark.parametrize("iou", [0.0, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_suppression_follows_its_definition(seed: int, iou: float) -> None:
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 100, (120, 2))
    boxes = np.concatenate((corners, corners + rng.uniform(0, 60, (120, 2))), axis=1).astype(np.float32)
    assert suppress(boxes, iou) == slow_nms(boxes, iou)


def test_of_overlapping_boxes_the_most_confident_stays_and_order_descends() -> None:
    boxes, confidences, ids = select(
        candidates((50, 50, 20, 20, 0, 0.6), (51, 50, 20, 20, 0, 0.9), (200, 50, 20, 20, 0, 0.7)), WHOLE, iou=0.5
    )
    assert confidences.tolist() == pytest.approx([0.9, 0.7])
    assert boxes[0].tolist() == [41, 40, 61, 60]
    assert ids.tolist() == [0, 0]


def test_boxes_of_different_classes_do_not_suppress_each_other() -> None:
    _, _, ids = select(candidates((50, 50, 20, 20, 2, 0.9), (50, 50, 20, 20, 1, 0.8)), WHOLE, iou=0.1)
    assert ids.tolist() == [2, 1]


def test_only_wanted_classes_remain() -> None:
    columns = candidates((50, 50, 20, 20, 2, 0.9), (50, 50, 20, 20, 1, 0.8))
    assert select(columns, WHOLE, iou=0.5, classes={1})[2].tolist() == [1]
    assert select(columns, WHOLE, iou=0.5, classes=set())[2].tolist() == []


def test_boxes_return_to_the_source_image_and_stay_within_it() -> None:
    """A letterbox of half size, 10 to the right and 20 down."""
    placement = Placement(200, 100, (0.5, 0.5), (10, 20))
    boxes, _, _ = select(candidates((60, 45, 40, 20, 0, 0.9), (110, 70, 40, 40, 1, 0.8)), placement, iou=0.5)
    assert boxes.tolist() == [[60, 30, 140, 70], [160, 60, 200, 100]]


def test_nothing_gives_nothing() -> None:
    boxes, confidences, ids = select(np.zeros((7, 0), np.float32), WHOLE, iou=0.5)
    assert boxes.shape == (0, 4)
    assert confidences.shape == ids.shape == (0,)


def test_empty_boxes_do_no_harm() -> None:
    boxes, _, _ = select(candidates((50, 50, 0, 0, 0, 0.9), (50, 50, 0, 0, 0, 0.8)), WHOLE, iou=0.5)
    assert np.isfinite(boxes).all()


def test_a_crowd_is_cut_at_the_limit_in_bounded_time() -> None:
    """30,000 separate candidates, more than any picture gives, take well under a second of CPU."""
    rng = np.random.default_rng(0)
    many = np.concatenate(
        (rng.uniform(0, 640, (2, 30000)), rng.uniform(1, 4, (2, 30000)), rng.uniform(0, 1, (3, 30000)))
    )
    start = time.process_time()
    boxes, _, _ = select(many.astype(np.float32), WHOLE, iou=0.7)
    assert time.process_time() - start < 0.5
    assert len(boxes) == MAX_DETECTIONS


def test_a_one_to_one_head_needs_no_nms_and_may_see_two_things_in_one_place() -> None:
    """The most confident classes are taken over all places, each above the threshold, then those asked for."""
    columns = candidates((50, 50, 20, 20, 1, 0.9), (50, 50, 20, 20, 1, 0.8))
    columns[4, 0] = 0.6
    columns[6, 1] = 0.2
    _, confidences, ids = select(columns, WHOLE, iou=None, confidence=0.25)
    assert confidences.tolist() == pytest.approx([0.9, 0.8, 0.6])
    assert ids.tolist() == [1, 1, 0]
    assert select(columns, WHOLE, iou=None, confidence=0.25, classes={0})[2].tolist() == [0]
