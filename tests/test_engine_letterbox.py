"""The letterbox; that it is the one of Ultralytics, tests/test_engine_parity.py shows by the detections."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from detectctl.engine.letterbox import fit, letterbox
from detectctl.engine.trained import Head, Trained


@pytest.mark.parametrize(
    ("width", "height", "shape"),
    [
        (810, 1080, (640, 480)),
        (1280, 720, (384, 640)),
        (640, 640, (640, 640)),
        (100, 50, (320, 640)),
        (641, 639, (640, 640)),
        (1, 4000, (640, 32)),
        (4000, 1, (32, 640)),
    ],
)
def test_the_box_is_the_smallest_whose_sides_are_multiples_of_the_stride(
    width: int, height: int, shape: tuple[int, int]
) -> None:
    box, _ = letterbox(np.zeros((height, width, 3), np.uint8), (640, 640), 32)
    assert box.shape == (1, *shape, 3)
    assert box.dtype == np.uint8
    assert box.flags.c_contiguous


@pytest.mark.parametrize(("width", "height"), [(810, 1080), (1280, 720), (333, 500), (97, 1301)])
def test_the_placement_leads_back_to_the_image(width: int, height: int) -> None:
    """The grey border begins where the placement says, to the pixel."""
    box, placement = letterbox(np.full((height, width, 3), 255, np.uint8), (640, 640), 32)
    rows, columns = np.nonzero((box[0] == 255).all(axis=2))
    assert (columns.min(), rows.min()) == placement.offset
    assert columns.max() + 1 - columns.min() == pytest.approx(width * placement.gain[0])
    assert rows.max() + 1 - rows.min() == pytest.approx(height * placement.gain[1])
    assert (np.delete(box[0], np.unique(rows), axis=0) == 114).all()
    assert (np.delete(box[0], np.unique(columns), axis=1) == 114).all()


def test_the_image_of_the_caller_is_left_alone() -> None:
    """It is drawn on later; the box may share its memory but nothing writes there."""
    image = np.random.default_rng(0).integers(0, 255, (640, 600, 3), np.uint8)
    before = image.copy()
    letterbox(image, (640, 640), 32)
    np.testing.assert_array_equal(image, before)


def test_a_size_that_is_not_square_bounds_each_side() -> None:
    """The height of 300 is what 320 limits; the width is then padded to the stride only."""
    box, placement = letterbox(np.zeros((300, 500, 3), np.uint8), (320, 640), 32)
    assert box.shape == (1, 320, 544, 3)
    assert placement.offset == (5, 0)


def test_a_model_of_grey_pictures_is_given_one_channel() -> None:
    picture = np.random.default_rng(1).integers(0, 255, (64, 96, 3), np.uint8)
    box, _ = fit(picture, Trained({0: "disc"}, Head(strides=(8, 16, 32)), channels=1), (96, 96))
    np.testing.assert_array_equal(box[0, ..., 0], cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY))
    assert box.shape == (1, 64, 96, 1)


def test_queries_see_a_picture_stretched_to_their_size() -> None:
    trained = Trained({0: "disc"}, Head("queries", one_to_one=True))
    box, placement = fit(np.zeros((100, 200, 3), np.uint8), trained, (64, 96))
    assert box.shape == (1, 64, 96, 3)
    assert (placement.gain, placement.offset) == ((96 / 200, 64 / 100), (0, 0))
