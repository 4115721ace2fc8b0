"""Models of every family and task answer as Ultralytics' predictor does, by either engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from comparison import Found, apart, pairs
from detectctl.wire import DetectOptions
from family import ONE_TO_ONE, OPTIONS, Family
from train_checkpoints import RECIPES

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

# One of each way through the engine; the others are in `make test-all`, and all in `make agreement`.
SHORT = ("26-one-to-one", "v8-seg", "26-pose", "v8-obb", "v8-cls")
NAMES = (
    *RECIPES,
    *(f"{name}{ONE_TO_ONE}" for name in ("26", "26-seg", "26-pose", "26-obb")),
)
LIMITS = {
    "xyxy": 0.5,
    "corners": 0.5,
    "keypoints": 0.5,
    "confidence": 0.002,
    "visibility": 0.002,
    "angle": 0.002,
    "mask": 0.01,
}
"""Of the differences that `comparison.apart` gives."""


@pytest.fixture(
    scope="module", params=[name if name in SHORT else pytest.param(name, marks=pytest.mark.long) for name in NAMES]
)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    return Family(request.param, tmp_path_factory.mktemp(request.param))


def assert_same(family: Family, found: list[Found], expected: list[Found]) -> None:
    """The same objects in the same order, but for two whose confidence is the same."""
    for ours, theirs, picture in zip(found, expected, family.pictures, strict=True):
        together = list(pairs(ours, theirs))
        assert len(together) == len(ours) == len(theirs)
        for one, other in together:
            differences = apart(one, other, picture, family.compiled.trained)
            assert all(difference <= LIMITS[key] for key, difference in differences.items()), differences


def test_both_engines_find_what_ultralytics_finds(family: Family) -> None:
    """In fifty pictures of other sizes than the network's, a hundred objects at least."""
    assert sum(map(len, family.ultralytics)) >= 100
    assert_same(family, family.found(family.detector()), family.ultralytics)
    assert_same(family, family.torch, family.ultralytics)


def test_openvino_finds_the_same_when_asked_for_few_of_any_class_or_of_one(family: Family) -> None:
    """And it says where it left some out. Classes of a whole picture are not what any of this is about."""
    labels, detector = family.compiled.trained.labels, family.detector()
    for given, expected in zip(OPTIONS, family.asked, strict=True):
        classes = tuple(labels[class_id] for class_id in given["classes"] or () if class_id in labels)
        if given["classes"] and not classes:
            continue  # a model of one class has no other to ask for
        options = DetectOptions(
            given["conf"], given["iou"], classes, max_det=given["max_det"], agnostic_nms=given["agnostic_nms"]
        )
        found, cut = zip(*family.answers(detector, options), strict=True)
        # Of objects as unlikely as these, masks reach into the padding, where ours end with the picture.
        assert_same(family, list(found), [[one | {"mask": None} for one in objects] for objects in expected])
        assert any(cut) == (detector.task != "classify")
        assert all(len(objects) == given["max_det"] for objects, more in zip(found, cut, strict=True) if more)


@pytest.mark.long  # a model of the same kind is among those above, with drawn pictures
def test_people_in_photographs_have_the_keypoints_of_ultralytics(
    yolo11n_pose_pt: Path, eight_photos: list[Path], tmp_path: Path
) -> None:
    """By Ultralytics' own YOLO11n-pose, at its 640 pixels."""
    family = Family("yolo11n-pose", tmp_path, yolo11n_pose_pt, eight_photos)
    assert sum(map(len, family.ultralytics)) >= 8
    assert_same(family, family.found(family.detector()), family.ultralytics)
    assert_same(family, family.torch, family.ultralytics)


def test_a_model_runs_at_the_size_that_it_was_trained_at(family: Family) -> None:
    detector = family.detector()
    side = RECIPES[family.name].imgsz
    assert detector.imgsz == detector.trained_imgsz == (side, side)
    assert family.detector(imgsz=256).imgsz == (256, 256)


def test_whether_nms_is_needed_is_known(family: Family) -> None:
    """YOLO26 has a branch for either; while both are there, Ultralytics takes the one that needs it."""
    needs_none = family.checkpoint.stem.endswith(ONE_TO_ONE) or family.name == "rtdetr"
    assert family.compiled.trained.head.one_to_one == needs_none
