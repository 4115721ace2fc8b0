"""Which candidates are reported."""

from __future__ import annotations

import time

import numpy as np
import pytest

from detectctl.defaults import MAX_DET
from detectctl.engine.nms import corners, select, suppress, suppress_rotated
from detectctl.engine.yolo_head import Candidates


def candidates(*boxes: tuple[float, float, float, float, int, float], angle: float = 0) -> Candidates:
    """Of boxes given as centre x, y, width, height, class id, confidence."""
    sides = np.array([box[:4] for box in boxes], np.float32).reshape(-1, 4).T
    scores = np.zeros((3, len(boxes)), np.float32)
    for column, (*_, class_id, confidence) in enumerate(boxes):
        scores[class_id, column] = confidence
    return Candidates(sides, scores, np.full((1, len(boxes)), angle, np.float32))


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
    low = rng.uniform(0, 100, (120, 2))
    boxes = np.concatenate((low, low + rng.uniform(0, 60, (120, 2))), axis=1).astype(np.float32)
    keep, more = suppress(boxes, iou)
    assert keep.tolist() == slow_nms(boxes, iou)
    assert not more


def test_of_overlapping_boxes_the_most_confident_stays_and_order_descends() -> None:
    three = candidates((50, 50, 20, 20, 0, 0.6), (51, 50, 20, 20, 0, 0.9), (200, 50, 20, 20, 0, 0.7))
    found = select(three, iou=0.5)
    assert found.confidences.tolist() == pytest.approx([0.9, 0.7])
    assert found.index.tolist() == [1, 2]
    assert corners(three.boxes)[1].tolist() == [41, 40, 61, 60]
    assert found.class_ids.tolist() == [0, 0]
    assert not found.truncated


def test_boxes_of_different_classes_do_not_suppress_each_other() -> None:
    """Unless they are asked to."""
    two = candidates((50, 50, 20, 20, 2, 0.9), (50, 50, 20, 20, 1, 0.8))
    assert select(two, iou=0.1).class_ids.tolist() == [2, 1]
    assert select(two, iou=0.1, agnostic=True).class_ids.tolist() == [2]


def test_each_class_may_have_a_threshold_of_its_own() -> None:
    three = candidates((50, 50, 9, 9, 0, 0.5), (90, 50, 9, 9, 1, 0.5), (50, 90, 9, 9, 2, 0.5))
    thresholds = np.array([0.4, 0.6, 0.5], np.float32)
    assert select(three, iou=0.7, confidence=thresholds).class_ids.tolist() == [0]
    assert select(three, iou=None, confidence=thresholds).class_ids.tolist() == [0]


@pytest.mark.parametrize("iou", [0.7, None])
@pytest.mark.parametrize("rotated", [False, True])
def test_what_is_cut_at_the_most_says_so(iou: float | None, rotated: bool) -> None:
    three = candidates((50, 50, 9, 9, 0, 0.5), (90, 50, 9, 9, 0, 0.7), (50, 90, 9, 9, 0, 0.6))
    cut = select(three, iou=iou, rotated=rotated, limit=2)
    assert (cut.index.tolist(), cut.truncated) == ([1, 2], True)
    whole = select(three, iou=iou, rotated=rotated, limit=3)
    assert (whole.index.tolist(), whole.truncated) == ([1, 2, 0], False)


def test_a_one_to_one_head_is_asked_for_more_than_the_most_before_thresholds_and_classes() -> None:
    """As in Ultralytics' predictor: for 300, so that the few that are wanted may be any of these."""
    many = candidates(*((50, 50, 9, 9, 0, 0.5) for _ in range(300)), (50, 50, 9, 9, 1, 0.4), (50, 50, 9, 9, 2, 0.6))
    found = select(many, iou=None, classes={1, 2}, limit=5)
    assert (found.class_ids.tolist(), found.truncated) == ([2], True)
    found = select(many, iou=None, classes={1, 2}, limit=302)
    assert (found.class_ids.tolist(), found.truncated) == ([2, 1], False)
    found = select(many, iou=None, classes={2}, confidence=0.55, limit=1, agnostic=True)
    assert (found.class_ids.tolist(), found.truncated) == ([2], False)


def test_only_wanted_classes_remain() -> None:
    columns = candidates((50, 50, 20, 20, 2, 0.9), (50, 50, 20, 20, 1, 0.8))
    assert select(columns, iou=0.5, classes={1}).class_ids.tolist() == [1]
    assert select(columns, iou=0.5, classes=set()).class_ids.tolist() == []


def test_rotated_boxes_suppress_what_is_like_them_and_not_what_crosses_them() -> None:
    """Two long boxes with the same centre: their upright boxes are the same when one is turned by a right angle."""
    turns = np.array([0, 0.05, np.pi / 2], np.float32)
    boxes = np.concatenate((np.tile([[50], [50], [80], [10]], 3), turns[np.newaxis])).astype(np.float32)
    keep, _ = suppress_rotated(boxes, 0.5)
    assert keep.tolist() == [0, 2]


def test_a_suppressed_rotated_box_suppresses_too() -> None:
    """So it is in Ultralytics: each box is compared with all better ones, kept or not."""
    boxes = np.array([[50, 58, 66], [50, 50, 50], [40, 40, 40], [40, 40, 40], [0, 0, 0]], np.float32)
    assert suppress_rotated(boxes, 0.6)[0].tolist() == [0]
    assert suppress_rotated(boxes[:, [0, 2]], 0.6)[0].tolist() == [0, 1]


def test_rotated_boxes_like_a_kept_one_are_compared_with_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request for everything would otherwise compare each of 20,000 places with every better one, for seconds."""
    compared, exp = [], np.exp

    def watched(values: np.ndarray) -> np.ndarray:
        compared.append(values.size)
        found: np.ndarray = exp(values)
        return found

    monkeypatch.setattr(np, "exp", watched)
    boxes = np.random.default_rng(0).normal([[50], [50], [40], [30], [0]], 0.1, (5, 1000)).astype(np.float32)
    assert suppress_rotated(boxes, 0.5)[0].tolist() == [0]
    assert sum(compared) == len(boxes[0]) - 1


def test_nothing_gives_nothing() -> None:
    for rotated in (False, True):
        found = select(candidates(), iou=0.5, rotated=rotated)
        assert found.index.shape == found.confidences.shape == found.class_ids.shape == (0,)


def test_empty_boxes_do_no_harm() -> None:
    for rotated in (False, True):
        found = select(candidates((50, 50, 0, 0, 0, 0.9), (50, 50, 0, 0, 0, 0.8)), iou=0.5, rotated=rotated)
        assert found.index[0] == 0


def test_a_crowd_is_cut_at_the_limit_in_bounded_time() -> None:
    """30,000 separate candidates, more than any picture gives, take well under a second of CPU."""
    rng = np.random.default_rng(0)
    many = np.concatenate(
        (rng.uniform(0, 640, (2, 30000)), rng.uniform(1, 4, (2, 30000)), rng.uniform(0, 1, (3, 30000)))
    ).astype(np.float32)
    start = time.process_time()
    found = select(Candidates(many[:4], many[4:], many[:0]), iou=0.7)
    assert time.process_time() - start < 0.5
    assert len(found.index) == MAX_DET
    assert found.truncated


def test_a_one_to_one_head_needs_no_nms_and_may_see_two_things_in_one_place() -> None:
    """The most confident classes are taken over all places, each above the threshold, then those asked for."""
    columns = candidates((50, 50, 20, 20, 1, 0.9), (50, 50, 20, 20, 1, 0.8))
    columns.scores[0, 0] = 0.6
    columns.scores[2, 1] = 0.2
    found = select(columns, iou=None, confidence=0.25)
    assert found.confidences.tolist() == pytest.approx([0.9, 0.8, 0.6])
    assert found.class_ids.tolist() == [1, 1, 0]
    assert select(columns, iou=None, confidence=0.25, classes={0}).class_ids.tolist() == [0]
    assert select(columns, iou=None, confidence=0.25, agnostic=True).class_ids.tolist() == [1, 1]
