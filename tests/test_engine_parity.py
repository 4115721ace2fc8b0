"""Detections equal Ultralytics' own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from detectctl.engine.detector import Detector
from detectctl.engine.detector_settings import DetectorSettings
from detectctl.wire import DetectOptions
from processor import has_bf16

if TYPE_CHECKING:
    from detectctl.engine.compiled import CompiledModel
    from detectctl.wire import Detection, Precision

pytestmark = pytest.mark.slow

IOU = 0.7
# Smallest IoU of a pair of boxes, greatest difference of their confidences.
BOUNDS = {"fp32": (0.999, 0.001), "bf16": (0.98, 0.02)}

Box = tuple[float, float, float, float, float, int]


class Reference:
    """Ultralytics' answers for one checkpoint, computed in one child process."""

    def __init__(self, checkpoint: Path, jobs: list[str], tmp: Path) -> None:
        script = Path(__file__).with_name("ultralytics_reference.py")
        env = {**os.environ, "YOLO_OFFLINE": "1", "YOLO_CONFIG_DIR": str(tmp), "ULTRALYTICS_SAFE_LOAD": "1"}
        command = [sys.executable, str(script), str(checkpoint), *jobs]
        answer = subprocess.run(command, capture_output=True, env=env, timeout=200, check=True)
        self._found: dict[str, list[Box]] = json.loads(answer.stdout.splitlines()[-1])

    def __call__(self, photo: Path, *, imgsz: int = 640, iou: float = IOU) -> list[Box]:
        return self._found[job(photo, imgsz, iou)]


def job(photo: Path, imgsz: int = 640, iou: float = IOU) -> str:
    # 0.05 is below every threshold asked for: NMS at a lower one keeps all that it keeps at a higher one.
    return f"{imgsz}:0.05:{iou}:{photo}"


@pytest.fixture(scope="module")
def yolov8n_reference(
    yolov8n_pt: Path, eight_photos: list[Path], near_tie_photo: Path, tmp_path_factory: pytest.TempPathFactory
) -> Reference:
    jobs = [job(photo) for photo in eight_photos]
    jobs += [job(photo, imgsz) for photo in eight_photos[:2] for imgsz in (320, 960)]
    jobs += [job(near_tie_photo, iou=1.0)]
    return Reference(yolov8n_pt, jobs, tmp_path_factory.mktemp("ultralytics"))


@pytest.fixture(scope="module")
def fall_reference(fall_pt: Path, eight_photos: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return Reference(fall_pt, [job(photo) for photo in eight_photos], tmp_path_factory.mktemp("ultralytics"))


def overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    both = width * height
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def assert_equal(
    found: tuple[Detection, ...], expected: list[Box], confidence: float, bounds: tuple[float, float]
) -> int:
    """The same boxes; only where the allowed difference reaches over the threshold may one side lack one."""
    least_iou, tolerance = bounds
    left = [box for box in expected if box[4] > confidence - tolerance]
    for detection in found:
        pairs = [(overlap(detection.xyxy, box), box) for box in left if box[5] == detection.class_id]
        assert pairs, f"{detection} is not in {left}"
        iou, nearest = max(pairs)
        assert iou >= least_iou, f"{detection} against {nearest}: IoU {iou}"
        assert detection.confidence == pytest.approx(nearest[4], abs=tolerance)
        left.remove(nearest)
    missing = [box for box in left if box[4] > confidence + tolerance]
    assert not missing
    return len(found)


def detector(model: CompiledModel, precision: Precision, imgsz: int = 640) -> Detector:
    settings = DetectorSettings(
        str(model.directory), model.checkpoint_sha256, precision=precision, imgsz=imgsz, iou=IOU
    )
    return Detector.load(settings)


@pytest.mark.parametrize(("precision", "confidence"), [("fp32", 0.25), ("fp32", 0.06), ("bf16", 0.25)])
@pytest.mark.parametrize("model", ["yolov8n", pytest.param("fall", marks=pytest.mark.long)])  # three times as large
def test_eight_photographs_give_the_detections_of_ultralytics(
    request: pytest.FixtureRequest,
    eight_photos: list[Path],
    model: str,
    precision: Precision,
    confidence: float,
) -> None:
    """Same classes and boxes as its LetterBox, model and NMS in fp32, within the bounds of the precision."""
    if precision == "bf16" and not has_bf16():
        pytest.skip("this processor has no bf16")
    compiled: CompiledModel = request.getfixturevalue(f"{model}_compiled")
    expected: Reference = request.getfixturevalue(f"{model}_reference")
    ours = detector(compiled, precision)
    compared = 0
    for photo in eight_photos:
        found = ours.detect(photo.read_bytes(), DetectOptions(confidence))[1].detections
        confidences = [detection.confidence for detection in found]
        assert confidences == sorted(confidences, reverse=True)
        compared += assert_equal(found, expected(photo), confidence, BOUNDS[precision])
    assert compared >= 8


@pytest.mark.parametrize("imgsz", [320, 960])
def test_another_input_size_gives_the_detections_of_ultralytics(
    yolov8n_compiled: CompiledModel, yolov8n_reference: Reference, eight_photos: list[Path], imgsz: int
) -> None:
    """`imgsz` means what it means there."""
    ours = detector(yolov8n_compiled, "fp32", imgsz)
    for photo in eight_photos[:2]:
        found = ours.detect(photo.read_bytes())[1].detections
        assert assert_equal(found, yolov8n_reference(photo, imgsz=imgsz), 0.25, BOUNDS["fp32"])


def test_a_near_tie_in_bf16_is_one_of_the_boxes_that_ultralytics_weighed(
    yolov8n_compiled: CompiledModel, yolov8n_reference: Reference, near_tie_photo: Path
) -> None:
    """Which of two equally confident boxes NMS keeps, no lower precision can promise; only that it is one."""
    if not has_bf16():
        pytest.skip("this processor has no bf16")
    best, second = yolov8n_reference(near_tie_photo, iou=1.0)[:2]
    assert best[4] - second[4] < 0.001
    (found,) = detector(yolov8n_compiled, "bf16").detect(near_tie_photo.read_bytes())[1].detections
    assert any(
        overlap(found.xyxy, box) >= BOUNDS["bf16"][0]
        and found.confidence == pytest.approx(box[4], abs=BOUNDS["bf16"][1])
        and found.class_id == box[5]
        for box in (best, second)
    )
