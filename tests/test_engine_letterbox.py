"""The letterbox; that it is the one of Ultralytics, tests/test_engine_parity.py shows by the detections."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
from PIL import Image

from detectctl.engine.letterbox import Placement, fit, letterbox
from detectctl.engine.trained import Head, Trained

if TYPE_CHECKING:
    from numpy.typing import NDArray

CROPPED = """
import json, sys
from pathlib import Path
import numpy as np
import torchvision_operators
from PIL import Image
from torchvision.transforms import Compose
from ultralytics.data.augment import classify_transforms
folder = Path(sys.argv[1])
for number, (width, height, size) in enumerate(json.loads(sys.argv[2])):
    whole = Image.open(folder / f"{number}.png")
    resize, crop = classify_transforms(tuple(size)).transforms[:2]
    Compose([resize, crop])(whole).save(folder / f"{number}-cropped.png")
"""
"""What Ultralytics' predictor does to pictures before it makes tensors of them."""
SIZES = [
    (width, height, size)
    for size in ((64, 64), (96, 128), (128, 96))
    for width, height in ((300, 200), (200, 300), (201, 333), (64, 64), (65, 63), (40, 41), (1, 7), (400, 3))
]


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


def test_points_lead_back_to_the_picture_and_no_further() -> None:
    placement = Placement(200, 100, (0.5, 0.25), (10, 20))
    points = np.array([[[10, 20], [110, 45]], [[0, 0], [60, 100]]], np.float32)
    back = placement.in_source(points)
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, [[[0, 0], [200, 100]], [[-20, -80], [100, 320]]])
    np.testing.assert_allclose(placement.limited(back), [[[0, 0], [200, 100]], [[0, 0], [100, 100]]])


def test_points_of_a_letterbox_lead_back_to_where_they_came_from() -> None:
    """Marks of single pixels are found again, within the pixel that they were scaled to."""
    picture = np.zeros((150, 260, 3), np.uint8)
    marks = np.array([(5, 7), (200, 120), (255, 3)])
    for x, y in marks:
        picture[y - 1 : y + 2, x - 1 : x + 2] = 255
    box, placement = letterbox(picture, (128, 128), 32)
    bright = (box[0, ..., 0] > 150).astype(np.uint8)
    _, _, _, centres = cv2.connectedComponentsWithStats(bright)
    found = placement.in_source(centres[1:].astype(np.float32) + 0.5)
    assert np.abs(found[:, np.newaxis] - (marks + 0.5)).max(axis=2).min(axis=1).max() < 2


@pytest.mark.parametrize(("width", "height"), [(300_000, 2), (2, 300_000)])
def test_of_a_narrow_picture_to_classify_only_the_middle_is_scaled(
    width: int, height: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it would be 150,000 squares side by side, and fill the memory."""
    kind, made, resize = Trained({0: "cat"}, Head("image"), task="classify"), [], Image.Image.resize

    def watched(image: Image.Image, size: tuple[int, int], *rest: Any) -> Image.Image:
        assert max(size) < 100_000
        made.append(size)
        return resize(image, size, *rest)

    monkeypatch.setattr(Image.Image, "resize", watched)
    picture = np.zeros((height, width, 3), np.uint8)
    middle = picture[height // 2 :] if height > width else picture[:, width // 2 :]
    middle[:] = 255
    box, placement = fit(picture, kind, (64, 64))
    assert (placement.width, placement.height, len(made)) == (width, height, 1)
    half = box[0] if height > width else box[0].swapaxes(0, 1)
    assert half[0].max() == 0
    assert half[-1].min() == 255


@pytest.mark.slow
def test_a_picture_to_classify_is_scaled_and_cropped_as_torchvision_does_it(tmp_path: Path) -> None:
    """Wide, high, square, odd, smaller than the network's input, of one column; to a square, and stretched."""
    random = np.random.default_rng(2)
    pictures: list[NDArray[np.uint8]] = []
    for number, (width, height, _) in enumerate(SIZES):
        pictures.append(random.integers(0, 255, (height, width, 3), np.uint8))
        Image.fromarray(pictures[-1]).save(tmp_path / f"{number}.png")
    env = {**os.environ, "YOLO_OFFLINE": "1", "YOLO_CONFIG_DIR": str(tmp_path)}
    command = [sys.executable, "-c", CROPPED, str(tmp_path), json.dumps(SIZES)]
    subprocess.run(command, cwd=Path(__file__).parent, env=env, check=True, timeout=100, capture_output=True)
    kind = Trained({0: "cat"}, Head("image"), task="classify")
    for number, (picture, (_, _, size)) in enumerate(zip(pictures, SIZES, strict=True)):
        ours, placement = fit(picture, kind, size)
        theirs = np.asarray(Image.open(tmp_path / f"{number}-cropped.png"))
        np.testing.assert_array_equal(ours[0], theirs)
        assert (placement.width, placement.height) == picture.shape[1::-1]
