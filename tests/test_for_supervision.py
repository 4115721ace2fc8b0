"""A result in the types of the real package `supervision`."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from detectctl import DetectctlError, Detection, DetectionResult, ModelInfo

if TYPE_CHECKING:
    from detectctl.wire import Task

needs_supervision = pytest.mark.skipif(find_spec("supervision") is None, reason="without the extra supervision")
BUS = Detection("bus", (10.5, 5.0, 90.0, 45.0), 0.87, 5)
MAN = Detection("man", (0.0, 0.0, 20.0, 50.0), 0.5, 0)


@pytest.fixture(scope="module")
def sv() -> Any:
    """The package."""
    import supervision

    return supervision


def result(*found: Detection, task: Task = "detect") -> DetectionResult:
    return DetectionResult(found, 100, 50, ModelInfo("yolo", "v3", "sha256:00", task=task))


@needs_supervision
def test_boxes_are_detections(sv: Any) -> None:
    given = result(BUS, MAN).to_supervision()
    assert isinstance(given, sv.Detections)
    assert given.xyxy.tolist() == [[10.5, 5, 90, 45], [0, 0, 20, 50]]
    assert given.confidence.tolist() == pytest.approx([0.87, 0.5])
    assert given.class_id.tolist() == [5, 0]
    assert given["class_name"].tolist() == ["bus", "man"]
    assert given.mask is None
    assert len(given[given.class_id == 5]) == 1
    labelled = sv.LabelAnnotator().annotate(np.zeros((50, 100, 3), np.uint8), given)
    assert labelled.any()


@needs_supervision
@pytest.mark.parametrize("task", ["detect", "segment", "obb", "pose"])
def test_nothing_found_is_empty_and_merges_with_what_was_found(sv: Any, task: Task) -> None:
    given = result(task=task).to_supervision()
    assert len(given) == 0
    if task != "pose":
        assert given.xyxy.shape == (0, 4)
        assert given.data["class_name"].dtype.kind == "U"
        filled = result(replace(BUS, corners=((0, 0), (9, 0), (9, 9), (0, 9))), task=task).to_supervision()
        if task != "segment":
            assert len(sv.Detections.merge([filled, given, filled])) == 2


@needs_supervision
def test_masks_are_boolean_arrays_of_the_size_of_the_image(sv: Any) -> None:
    """A rectangle with its edge pixels, two parts, and one that leaves the picture; each is as large as it says."""
    whole = replace(BUS, mask=((10.0, 5.0, 89.0, 5.0, 89.0, 44.0, 10.0, 44.0),))
    parts = replace(
        MAN, mask=((0.0, 0.0, 4.0, 0.0, 4.0, 9.0, 0.0, 9.0), (90.0, 40.0, 120.0, 40.0, 120.0, 60.0, 90.0, 60.0))
    )
    given = result(whole, parts, replace(MAN, mask=()), task="segment").to_supervision()
    assert given.mask.dtype == bool
    assert given.mask.shape == (3, 50, 100)
    rows, columns = np.nonzero(given.mask[0])
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (5, 44, 10, 89)
    assert given.mask.sum(axis=(1, 2)).tolist() == [80 * 40, 5 * 10 + 10 * 10, 0]
    assert sv.MaskAnnotator().annotate(np.zeros((50, 100, 3), np.uint8), given).any()


@needs_supervision
def test_corners_of_rotated_boxes_are_where_supervision_looks_for_them(sv: Any) -> None:
    corners = ((10.0, 5.0), (90.0, 10.0), (85.0, 45.0), (15.0, 40.0))
    given = result(replace(BUS, corners=corners, angle=0.1), task="obb").to_supervision()
    assert given.data[sv.config.ORIENTED_BOX_COORDINATES].tolist() == [[list(corner) for corner in corners]]
    assert sv.OrientedBoxAnnotator().annotate(np.zeros((50, 100, 3), np.uint8), given).any()


@needs_supervision
@pytest.mark.parametrize("sure", [(), (0.75,)])
def test_poses_are_key_points(sv: Any, sure: tuple[float, ...]) -> None:
    points = tuple((float(number + 1), 2.0, *sure) for number in range(17))
    given = result(replace(MAN, keypoints=points), replace(BUS, keypoints=points), task="pose").to_supervision()
    assert isinstance(given, sv.KeyPoints)
    assert given.xy.shape == (2, 17, 2)
    assert given.xy[0, 16].tolist() == [17, 2]
    if sure:
        assert given.keypoint_confidence.tolist() == [[0.75] * 17] * 2
    else:
        assert given.keypoint_confidence is None
    assert given.detection_confidence.tolist() == pytest.approx([0.5, 0.87])
    assert given.data["class_name"].tolist() == ["man", "bus"]
    assert given.data["xyxy"].tolist() == [list(MAN.xyxy), list(BUS.xyxy)]
    assert sv.VertexAnnotator().annotate(np.zeros((50, 100, 3), np.uint8), given).any()


@needs_supervision
def test_classes_of_a_whole_picture_are_classifications(sv: Any) -> None:
    given = result(BUS, MAN, task="classify").to_supervision()
    assert isinstance(given, sv.Classifications)
    assert given.get_top_k(1)[0].tolist() == [5]


def test_without_the_package_the_error_is_ours_and_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ImportError) as caught:
        result(BUS).to_supervision()
    assert isinstance(caught.value, DetectctlError)
    assert caught.value.hint == "install it: `pip install 'detectctl[supervision]'`"


def test_the_package_is_loaded_only_when_it_is_asked_for() -> None:
    code = "import sys, detectctl.wire, detectctl.client.service_client; print('supervision' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
