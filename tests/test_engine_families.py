"""Models of every family that a checkpoint is committed of answer as Ultralytics' predictor does, by either engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

import shapes
from comparison import Found, apart, pairs
from detectctl.engine.convert import compile_checkpoint
from detectctl.engine.detector import Detector
from detectctl.engine.detector_settings import DetectorSettings
from detectctl.files import sha256_of
from train_checkpoints import RECIPES

if TYPE_CHECKING:
    from detectctl.engine.compiled import CompiledModel

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).with_name("checkpoints")
ONE_TO_ONE = "-one-to-one"
FAMILIES = ("v8", "26-one-to-one", "v8-seg", "26-seg-one-to-one", "v8-pose", "26-pose", "v8-obb", "v8-cls")
CONFIDENCE = 0.25
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
        self.name = name.removesuffix(ONE_TO_ONE)
        self.checkpoint = FOLDER / f"{name}.pt"
        env = {**os.environ, "YOLO_OFFLINE": "1", "YOLO_CONFIG_DIR": str(folder)}
        if name.endswith(ONE_TO_ONE):
            self.checkpoint = folder / f"{name}.pt"
            _run(env, "-c", WITHOUT_NMS, str(FOLDER / f"{self.name}.pt"), str(self.checkpoint))
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


LIMITS = {
    "xyxy": 0.5, "corners": 0.5, "keypoints": 0.5,
    "confidence": 0.002, "visibility": 0.002, "angle": 0.002, "mask": 0.01,
}
"""Of the differences that `comparison.apart` gives."""


def assert_same(family: Family, found: list[Found], expected: list[Found]) -> None:
    """The same objects in the same order, but for two whose confidence is the same."""
    trained = family.compiled.trained
    for ours, theirs, (picture, _) in zip(found, expected, shapes.pictures(trained.task), strict=True):
        together = list(pairs(ours, theirs))
        assert len(together) == len(ours) == len(theirs)
        for one, other in together:
            differences = apart(one, other, picture, trained)
            assert all(difference <= LIMITS[key] for key, difference in differences.items()), differences


def openvino(family: Family) -> list[Found]:
    detector = family.detector()
    return [
        [
            asdict(detection)
            for detection in detector.detect_image(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), confidence=CONFIDENCE)
        ]
        for picture, _ in shapes.pictures(detector.task)
    ]


def clipped(family: Family) -> list[Found]:
    """What Ultralytics found, boxes clipped to the picture, as it clips all but those of RT-DETR and rotated ones."""
    pictures = [picture for picture, _ in shapes.pictures(family.compiled.trained.task)]
    return [
        [one | {"xyxy": np.clip(one["xyxy"], 0, picture.shape[1::-1] * 2).tolist()} for one in objects]
        for picture, objects in zip(pictures, family.ultralytics, strict=True)
    ]


def test_both_engines_find_what_ultralytics_finds(family: Family) -> None:
    """In fifty pictures of other sizes than the network's, a hundred objects at least."""
    expected = clipped(family)
    assert sum(map(len, expected)) >= 100
    assert_same(family, openvino(family), expected)
    assert_same(family, family.torch, expected)


def test_a_model_runs_at_the_size_that_it_was_trained_at(family: Family) -> None:
    detector = family.detector()
    side = RECIPES[family.name].imgsz
    assert detector.imgsz == detector.trained_imgsz == (side, side)
    assert family.detector(imgsz=224).imgsz == (224, 224)


def test_whether_nms_is_needed_is_known(family: Family) -> None:
    """YOLO26 has a branch for either; while both are there, Ultralytics takes the one that needs it."""
    assert family.compiled.trained.head.one_to_one == family.checkpoint.stem.endswith(ONE_TO_ONE)
