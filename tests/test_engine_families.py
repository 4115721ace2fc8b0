"""Models of every family that a checkpoint is committed of answer as Ultralytics' predictor does, by either engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

import shapes
from detectctl.engine.convert import compile_checkpoint
from detectctl.engine.detector import Detector
from detectctl.engine.detector_settings import DetectorSettings
from detectctl.files import sha256_of

if TYPE_CHECKING:
    from detectctl.engine.compiled import CompiledModel

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).with_name("checkpoints")
FAMILIES = ("v8", "26", "26-one-to-one")
CONFIDENCE = 0.25
Found = list[list[float]]
WITHOUT_NMS = """
import sys
from ultralytics import YOLO
yolo = YOLO(sys.argv[1])
yolo.model.end2end = True
yolo.model.fuse()
yolo.save(sys.argv[2])
"""
"""Leaves of a model with two branches the one whose boxes need no NMS."""


def _run(env: dict[str, str], *arguments: str) -> bytes:
    result = subprocess.run([sys.executable, *arguments], env=env, capture_output=True, timeout=200, check=True)
    return result.stdout


class Family:
    """A committed checkpoint, converted, and what its references find in each picture."""

    def __init__(self, name: str, folder: Path) -> None:
        self.checkpoint = FOLDER / f"{name}.pt"
        env = {**os.environ, "YOLO_OFFLINE": "1", "YOLO_CONFIG_DIR": str(folder)}
        if name == "26-one-to-one":
            self.checkpoint = folder / f"{name}.pt"
            _run(env, "-c", WITHOUT_NMS, str(FOLDER / "26.pt"), str(self.checkpoint))
        script = str(Path(__file__).with_name("predict_reference.py"))
        answers = json.loads(_run(env, script, str(self.checkpoint), str(CONFIDENCE)).splitlines()[-1])
        self.ultralytics: list[Found] = answers["ultralytics"]
        self.torch: list[Found] = answers["torch"]
        self.compiled: CompiledModel = compile_checkpoint(
            self.checkpoint,
            sha256_of(self.checkpoint),
            cache=folder,
            trust_checkpoint=False,
            timeout_s=200,
            environ=os.environ,
        )

    def detector(self, imgsz: int | None = None) -> Detector:
        settings = DetectorSettings(
            str(self.compiled.directory), self.compiled.checkpoint_sha256, precision="fp32", imgsz=imgsz
        )
        return Detector.load(settings)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    return Family(request.param, tmp_path_factory.mktemp(request.param))


def assert_same(found: list[Found], expected: list[Found]) -> None:
    """The same objects in the same order, but for two whose confidence is the same."""
    for ours, theirs in zip(found, expected, strict=True):
        assert len(ours) == len(theirs)
        left = [np.array(one) for one in theirs]
        for one in ours:
            differences = [np.abs(other - one) for other in left]
            nearest = min(range(len(left)), key=lambda index: differences[index][:4].max())
            assert differences[nearest][:4].max() <= 0.5, "pixels"
            assert differences[nearest][4] <= 0.002, "confidence"
            assert differences[nearest][5] == 0, "class"
            del left[nearest]


def openvino(family: Family) -> list[Found]:
    detector = family.detector()
    return [
        [
            [*detection.xyxy, detection.confidence, detection.class_id]
            for detection in detector.detect_image(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), confidence=CONFIDENCE)
        ]
        for picture, _ in shapes.pictures("detect")
    ]


def clipped(found: list[Found]) -> list[Found]:
    """Ultralytics clips to the picture all boxes but those of RT-DETR."""
    pictures = [picture for picture, _ in shapes.pictures("detect")]
    return [
        [[*np.clip(one[:4], 0, picture.shape[1::-1] * 2), *one[4:]] for one in objects]
        for picture, objects in zip(pictures, found, strict=True)
    ]


def test_both_engines_find_what_ultralytics_finds(family: Family) -> None:
    """In fifty pictures of other sizes than the network's, a hundred objects at least."""
    expected = clipped(family.ultralytics)
    assert sum(map(len, expected)) >= 100
    assert_same(openvino(family), expected)
    assert_same(family.torch, expected)


def test_a_model_runs_at_the_size_that_it_was_trained_at(family: Family) -> None:
    detector = family.detector()
    assert detector.imgsz == detector.trained_imgsz == (128, 128)
    assert family.detector(imgsz=192).imgsz == (192, 192)


def test_whether_nms_is_needed_is_known(family: Family) -> None:
    """YOLO26 has a branch for either; while both are there, Ultralytics takes the one that needs it."""
    assert family.compiled.trained.head.one_to_one == (family.checkpoint.stem == "26-one-to-one")
