"""Raw logits to boxes; that they are the boxes of Ultralytics, tests/test_engine_parity.py shows."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest

from detectctl.engine.nms import select
from detectctl.engine.trained import Head, Trained
from detectctl.engine.yolo_head import Candidates, Raw, decode, least, whole

SHAPE, STRIDES, BINS = (64, 96), (8, 16, 32), 16
HEAD = Head(strides=STRIDES)
ANCHORS = 8 * 12 + 4 * 6 + 2 * 3


def boxes(
    head: Head, sides: np.ndarray, classes: np.ndarray, places: np.ndarray, *, confidence: float, shape: tuple[int, int]
) -> Candidates:
    raw = Raw(places, sides, classes, sides[:0])
    return decode(Trained({}, head), raw, confidence=confidence, shape=shape)


def certain(*distances: int) -> np.ndarray:
    """Logits that put all weight on these distances left, up, right and down, in strides."""
    logits = np.full((4, BINS), -50, np.float32)
    logits[np.arange(4), distances] = 50
    return logits.reshape(-1, 1)


@pytest.mark.parametrize(
    ("anchor", "centre", "stride"),
    [(0, (4, 4), 8), (13, (12, 12), 8), (96, (8, 8), 16), (96 + 24, (16, 16), 32), (ANCHORS - 1, (80, 48), 32)],
)
def test_anchors_count_level_by_level_and_row_by_row(anchor: int, centre: tuple[int, int], stride: int) -> None:
    box = boxes(
        HEAD,
        certain(1, 2, 1, 2),
        np.array([[3.0]], np.float32),
        np.array([anchor]),
        confidence=0.5,
        shape=SHAPE,
    )
    assert box.boxes[:, 0].tolist() == pytest.approx([*centre, 2 * stride, 4 * stride])
    assert box.scores[0, 0] == pytest.approx(1 / (1 + math.exp(-3)))


def test_unequal_distances_move_the_centre() -> None:
    box = boxes(HEAD, certain(1, 0, 3, 4), np.zeros((1, 1), np.float32), np.array([0]), confidence=0.1, shape=SHAPE)
    assert box.boxes[:, 0].tolist() == pytest.approx([4 + 8, 4 + 16, 32, 32])


@pytest.mark.parametrize("confidence", [0.0, 0.001, 0.25, 0.5, 0.999, 1.0])
def test_the_threshold_is_strict_and_loses_nobody(confidence: float) -> None:
    """Choosing by logit, then by confidence, is choosing by confidence."""
    logits = np.linspace(-12, 12, ANCHORS, dtype=np.float32)[np.newaxis]
    confidences = 1 / (1 + np.exp(-logits[0]))
    chosen = np.flatnonzero(logits[0] > least(HEAD, confidence))
    found = boxes(
        HEAD,
        np.zeros((4 * BINS, len(chosen)), np.float32),
        logits[:, chosen],
        chosen,
        confidence=confidence,
        shape=SHAPE,
    )
    np.testing.assert_array_equal(found.scores[0], confidences[confidences > np.float32(confidence)])


@pytest.mark.parametrize("kind", ["anchors", "decoded", "queries"])
def test_no_place_gives_no_candidate(kind: Literal["anchors", "decoded", "queries"]) -> None:
    """Not one of its numbers is computed, and each array has the rows that those after it count on."""
    nothing = np.empty(0, np.intp)
    found = boxes(
        replace(HEAD, kind=kind),
        np.empty((4 * BINS, 0), np.float32),
        np.empty((3, 0), np.float32),
        nothing,
        confidence=0.5,
        shape=SHAPE,
    )
    assert (found.boxes.shape, found.scores.shape) == ((4, 0), (3, 0))
    assert select(found, iou=0.7).index.size == 0


def test_logits_far_out_overflow_nowhere() -> None:
    """Under filterwarnings = error, a warning of numpy would fail this."""
    found = boxes(
        HEAD,
        np.full((4 * BINS, 1), 1000, np.float32),
        np.array([[1000], [-1000]], np.float32),
        np.array([0]),
        confidence=0.5,
        shape=SHAPE,
    )
    assert found.scores[:, 0].tolist() == pytest.approx([1, 0])


def test_a_head_without_bins_gives_its_distances_as_they_are() -> None:
    sides = np.array([[1.5], [0.5], [2.5], [0.25]], np.float32)
    box = boxes(HEAD, sides, np.zeros((1, 1), np.float32), np.array([0]), confidence=0.1, shape=SHAPE)
    assert box.boxes[:, 0].tolist() == pytest.approx([4 + 4, 4 - 1, 32, 6])


def test_queries_give_shares_of_the_picture_and_confidences() -> None:
    sides = np.array([[0.5, 0.1], [0.5, 0.1], [0.25, 0.1], [0.5, 0.1]], np.float32)
    classes = np.array([[0.1, 0.25], [0.7, 0.2]], np.float32)
    found = boxes(Head("queries"), sides, classes, np.arange(2), confidence=0.25, shape=(64, 128))
    assert found.boxes[:, 0].tolist() == pytest.approx([64, 32, 32, 32])
    assert found.scores[:, 0].tolist() == pytest.approx([0.1, 0.7])
    assert found.boxes.shape == (4, 1)


def test_keypoints_are_counted_from_the_anchor_and_their_confidence_is_a_logit() -> None:
    """Anchor 97 is the second of the level of 16 pixels, with its centre at (24, 8)."""
    points = np.array([[[0.0, 0.0, 0.0], [1.5, -0.25, 100.0]]], np.float32).reshape(1, -1).T
    trained = Trained({0: "arrow"}, HEAD, task="pose", keypoints=(2, 3))
    raw = Raw(np.array([97]), certain(1, 1, 1, 1), np.array([[3.0]], np.float32), points)
    found = decode(trained, raw, confidence=0.5, shape=SHAPE)
    assert found.extras[:, 0].tolist() == pytest.approx([24, 8, 0.5, 48, 4, 1])
    assert raw.extras[3, 0] == 1.5  # of the engine, which may use it again


def test_keypoints_without_a_confidence_have_two_numbers() -> None:
    trained = Trained({0: "arrow"}, HEAD, task="pose", keypoints=(2, 2))
    points = np.array([[0.5], [0.5], [-0.5], [1.0]], np.float32)
    raw = Raw(np.array([0]), certain(1, 1, 1, 1), np.array([[3.0]], np.float32), points)
    found = decode(trained, raw, confidence=0.5, shape=SHAPE)
    assert found.extras[:, 0].tolist() == pytest.approx([8, 8, 0, 12])


@pytest.mark.parametrize("degrees", [0, 30, 90, 135])
def test_the_distances_of_a_rotated_box_are_along_its_own_sides(degrees: float) -> None:
    """More to the right than to the left, and more below than above: in its own frame, which is turned."""
    angle = math.radians(degrees)
    trained = Trained({0: "bar"}, HEAD, task="obb")
    raw = Raw(np.array([0]), certain(1, 2, 3, 6), np.array([[3.0]], np.float32), np.array([[angle]], np.float32))
    found = decode(trained, raw, confidence=0.5, shape=SHAPE)
    ahead, below = 1 * 8, 2 * 8
    centre = (
        4 + ahead * math.cos(angle) - below * math.sin(angle),
        4 + ahead * math.sin(angle) + below * math.cos(angle),
    )
    assert found.boxes[:, 0].tolist() == pytest.approx([*centre, 4 * 8, 8 * 8], abs=1e-4)
    assert found.extras[0, 0] == pytest.approx(angle)


def test_what_is_below_the_threshold_takes_its_extras_along() -> None:
    trained = Trained({0: "bar"}, HEAD, task="obb")
    sides = np.concatenate([certain(1, 1, 1, 1)] * 3, axis=1)
    classes, angles = np.array([[3.0, -3.0, 2.0]], np.float32), np.array([[0.1, 0.2, 0.3]], np.float32)
    found = decode(trained, Raw(np.arange(3), sides, classes, angles), confidence=0.5, shape=SHAPE)
    assert found.extras[0].tolist() == pytest.approx([0.1, 0.3])


def test_a_whole_picture_is_one_candidate() -> None:
    found = whole(np.array([0.25, 0.75], np.float32), (64, 96))
    assert found.boxes[:, 0].tolist() == [48, 32, 96, 64]
    assert found.scores[:, 0].tolist() == [0.25, 0.75]
