"""Masks, keypoints and rotated boxes; that they are those of Ultralytics, tests/test_engine_families.py shows."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from detectctl.engine.letterbox import Placement
from detectctl.engine.nms import Selection
from detectctl.engine.objects import classified, located
from detectctl.engine.trained import Head, Trained
from detectctl.engine.yolo_head import Candidates

if TYPE_CHECKING:
    from detectctl.wire import Detection, Task

SHAPE = (64, 96)
"""Height and width of the network's input."""
AS_IT_IS = Placement(96, 64, (1, 1), (0, 0))
HEAD = Head(strides=(8, 16, 32))


def trained(task: Task, keypoints: tuple[int, int] = (0, 0)) -> Trained:
    return Trained({0: "disc"}, HEAD, task=task, keypoints=keypoints)


def masks(boxes: list[list[float]], *prototypes: np.ndarray, placement: Placement = AS_IT_IS) -> tuple[Detection, ...]:
    """Of boxes by centre and size, each with a prototype (16, 24) of its own."""
    count = len(boxes)
    candidates = Candidates(
        np.array(boxes, np.float32).T,
        np.full((1, count), 0.9, np.float32),
        np.eye(count, dtype=np.float32),
        np.stack(prototypes).astype(np.float32),
    )
    return located(candidates, everything(count), trained("segment"), placement, SHAPE)


def everything(count: int) -> Selection:
    return Selection(np.arange(count), np.full(count, 0.9, np.float32), np.zeros(count, np.intp))


def prototype(rows: slice, columns: slice) -> np.ndarray:
    """Above 0 in a part of its quarter of the size."""
    values = np.full((16, 24), -1.0)
    values[rows, columns] = 1
    return values


def area(outline: tuple[float, ...]) -> float:
    return float(cv2.contourArea(np.array(outline, np.float32).reshape(-1, 1, 2)))


def test_a_mask_is_what_is_above_zero_inside_the_box() -> None:
    """Outlines run through the middle of the outermost pixels, so the right and lower edges are one pixel in."""
    (found,) = masks([[20, 30, 20, 24]], prototype(slice(None), slice(None)))
    assert found.xyxy == (10, 18, 30, 42)
    assert found.mask is not None
    (outline,) = found.mask
    assert sorted(zip(outline[::2], outline[1::2], strict=True)) == [(10, 18), (10, 41), (29, 18), (29, 41)]


def test_a_mask_is_cut_at_the_edge_of_the_picture() -> None:
    """The box reaches beyond it on all sides but one."""
    (found,) = masks([[40, 30, 200, 100]], prototype(slice(None), slice(0, 12)))
    assert found.xyxy == (0, 0, 96, 64)
    assert found.mask is not None
    (outline,) = found.mask
    assert min(outline) == 0
    assert max(outline[1::2]) == 63
    assert 45 <= max(outline[::2]) <= 50


def test_a_mask_of_the_padding_is_drawn_at_the_edge() -> None:
    """What the letterbox adds is not of the picture."""
    narrow = Placement(96, 32, (1, 1), (0, 16))
    (found,) = masks([[48, 32, 96, 64]], prototype(slice(None), slice(None)), placement=narrow)
    assert found.xyxy == (0, 0, 96, 32)
    assert found.mask is not None
    assert max(found.mask[0][1::2]) <= 32
    assert min(found.mask[0]) >= 0


def test_the_parts_of_a_mask_are_polygons_of_their_own() -> None:
    both = np.maximum(prototype(slice(2, 6), slice(2, 6)), prototype(slice(10, 14), slice(14, 20)))
    (found,) = masks([[48, 32, 96, 64]], both)
    assert found.mask is not None
    assert len(found.mask) == 2
    small, large = sorted(found.mask, key=area)
    assert area(small) < area(large)
    assert max(small[::2]) < min(large[::2])


def test_a_mask_of_one_pixel_is_still_a_polygon() -> None:
    """Which has three points at least, or readers of COCO's format refuse it."""
    (found,) = masks([[20.5, 20.5, 1, 1]], prototype(slice(None), slice(None)))
    assert found.mask == ((20, 20, 20, 20, 20, 20),)


def test_an_object_whose_mask_is_empty_in_its_box_is_none() -> None:
    """As Ultralytics drops it; the others keep their masks."""
    found = masks(
        [[20, 20, 20, 20], [70, 40, 20, 20]],
        prototype(slice(12, 16), slice(20, 24)),
        prototype(slice(None), slice(None)),
    )
    assert [one.xyxy for one in found] == [(60, 30, 80, 50)]
    assert found[0].mask is not None
    assert min(found[0].mask[0][::2]) == 60


@pytest.mark.parametrize("box", [[-30, 20, 20, 20], [130, 20, 20, 20], [20, -30, 10, 10], [20, 20, 0, 0]])
def test_a_box_without_a_pixel_of_the_picture_has_no_mask(box: list[float]) -> None:
    assert masks([box], prototype(slice(None), slice(None))) == ()


def test_without_candidates_there_is_nothing() -> None:
    for task in ("detect", "segment", "pose", "obb"):
        numbers = {"segment": 2, "pose": 6, "obb": 1}.get(task, 0)
        none = Candidates(
            np.empty((4, 0), np.float32),
            np.empty((1, 0), np.float32),
            np.empty((numbers, 0), np.float32),
            np.zeros((2, 16, 24), np.float32) if task == "segment" else None,
        )
        assert located(none, everything(0), trained(task, (2, 3)), AS_IT_IS, SHAPE) == ()


@pytest.mark.parametrize("values", [2, 3])
def test_keypoints_are_moved_into_the_picture_and_keep_their_confidence(values: int) -> None:
    """The first is in the middle, the second to the right of the picture, the third above it."""
    placement = Placement(100, 50, (0.5, 0.5), (10, 20))
    points = np.array([[35, 32.5, 0.9], [95, 32.5, 0.5], [35, 5, 0.0]], np.float32)[:, :values]
    candidates = Candidates(
        np.array([[35, 32.5, 50, 25]], np.float32).T, np.full((1, 1), 0.9, np.float32), points.reshape(-1, 1)
    )
    (found,) = located(candidates, everything(1), trained("pose", (3, values)), placement, SHAPE)
    assert found.xyxy == (0, 0, 100, 50)
    expected = [(50, 25, 0.9), (100, 25, 0.5), (50, 0, 0.0)]
    assert found.keypoints is not None
    for point, wanted in zip(found.keypoints, expected, strict=True):
        assert point == pytest.approx(wanted[:values])


@pytest.mark.parametrize("degrees", [0, 30, 45, 90, 120, -60])
def test_corners_of_a_rotated_box_are_those_of_opencv(degrees: float) -> None:
    """In turn, and not cut at the edge of the picture, as the upright box around them is."""
    candidates = Candidates(
        np.array([[40, 30, 60, 20]], np.float32).T,
        np.full((1, 1), 0.9, np.float32),
        np.array([[math.radians(degrees)]], np.float32),
    )
    (found,) = located(candidates, everything(1), trained("obb"), AS_IT_IS, SHAPE)
    assert found.angle == pytest.approx(math.radians(degrees))
    assert found.corners is not None
    corners = np.array(found.corners)
    expected = cv2.boxPoints(((40, 30), (60, 20), degrees))
    assert np.abs(corners[:, np.newaxis] - expected).max(axis=2).min(axis=1).max() < 0.01
    assert cv2.isContourConvex(corners.astype(np.float32).reshape(-1, 1, 2))
    assert cv2.contourArea(corners.astype(np.float32)) == pytest.approx(60 * 20, rel=1e-4)
    around = np.concatenate((corners.min(axis=0), corners.max(axis=0)))
    assert found.xyxy == pytest.approx(np.clip(around, 0, (96, 64, 96, 64)))


def test_a_picture_is_of_its_five_best_classes() -> None:
    confidences = np.array([0.1, 0.3, 0.05, 0.3, 0.15, 0.1], np.float32)
    kinds = Trained({index: f"class {index % 2}" for index in range(6)}, Head("image"), task="classify")
    found = classified(confidences, kinds, Placement(20, 10, (1, 1), (0, 0)))
    assert [one.class_id for one in found] == [1, 3, 4, 0, 5]
    assert {one.xyxy for one in found} == {(0, 0, 20, 10)}


def test_a_picture_of_one_class_or_two_has_no_five() -> None:
    kinds = Trained({0: "only", 1: "other"}, Head("image"), task="classify")
    assert len(classified(np.array([0.7, 0.3], np.float32), kinds, AS_IT_IS)) == 2
