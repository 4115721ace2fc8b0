"""A committed checkpoint by name, converted, with what Ultralytics' predictor finds by it in drawn pictures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

import shapes
from detectctl.engine.convert import compile_checkpoint
from detectctl.engine.detector import Detector
from detectctl.engine.detector_settings import DetectorSettings
from detectctl.files import sha256_of
from detectctl.wire import DetectOptions
from train_checkpoints import FOLDER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from comparison import Found
    from detectctl.engine.compiled import CompiledModel
    from detectctl.wire import Precision

CONFIDENCE = 0.25
OPTIONS: list[dict[str, Any]] = [
    {"conf": 0.02, "iou": 0.3, "classes": None, "max_det": 5, "agnostic_nms": True},
    {"conf": 0.02, "iou": 0.7, "classes": [1], "max_det": 1, "agnostic_nms": False},
]
"""What else Ultralytics' predictor is asked for, in its words."""
ONE_TO_ONE = "-one-to-one"
"""What the name of such a checkpoint ends with."""
_FUSE = """
import sys
from ultralytics import YOLO
yolo = YOLO(sys.argv[1])
yolo.model.end2end = True
yolo.model.fuse()
yolo.save(sys.argv[2])
"""


class Family:
    """The model of that name, or of another checkpoint with photographs in place of the drawn pictures.

    With `ONE_TO_ONE`, one of YOLO26 whose other branch was removed, made in `folder`.

    Attributes:
        ultralytics: what Ultralytics' predictor finds in each of the pictures, with boxes clipped to it as ours are: it
            leaves those of RT-DETR and rotated ones as they are.
        torch: what our engine on PyTorch finds.
        asked: what Ultralytics' predictor finds with each of `OPTIONS`.
    """

    def __init__(self, name: str, folder: Path, checkpoint: Path | None = None, photos: Sequence[Path] = ()) -> None:
        self.name = name.removesuffix(ONE_TO_ONE)
        self.checkpoint = checkpoint or FOLDER / f"{self.name}.pt"
        self._env = {**os.environ, "YOLO_OFFLINE": "1", "YOLO_CONFIG_DIR": str(folder)}
        if name.endswith(ONE_TO_ONE):
            self.checkpoint = folder / f"{name}.pt"
            self._run("-c", _FUSE, str(FOLDER / f"{self.name}.pt"), str(self.checkpoint))
        script = str(Path(__file__).with_name("predict_reference.py"))
        options = json.dumps([] if photos else OPTIONS)
        answer = self._run(script, str(self.checkpoint), str(CONFIDENCE), options, *map(str, photos))
        found = json.loads(answer.splitlines()[-1])
        self.torch: list[Found] = found["torch"]
        self.compiled: CompiledModel = compile_checkpoint(
            self.checkpoint,
            sha256_of(self.checkpoint),
            cache=folder,
            trust_checkpoint=False,
            timeout_s=200,
            environ=os.environ,
        )
        drawn = (picture for picture, _ in shapes.pictures(self.compiled.trained.task))
        self.pictures: list[Any] = [cv2.imread(str(photo)) for photo in photos] or list(drawn)
        self.ultralytics = self._clipped(found["ultralytics"])
        self.asked = [self._clipped(each) for each in found["asked"]]

    def _run(self, *arguments: str) -> bytes:
        command = [sys.executable, *arguments]
        return subprocess.run(command, env=self._env, capture_output=True, timeout=300, check=True).stdout

    def _clipped(self, found: list[Found]) -> list[Found]:
        return [
            [one | {"xyxy": np.clip(one["xyxy"], 0, picture.shape[1::-1] * 2).tolist()} for one in objects]
            for objects, picture in zip(found, self.pictures, strict=True)
        ]

    def detector(
        self, precision: Precision = "fp32", *, imgsz: int | None = None, compiled: CompiledModel | None = None
    ) -> Detector:
        """One on OpenVINO; `compiled` is another form of the model."""
        model = compiled or self.compiled
        settings = DetectorSettings(str(model.directory), model.checkpoint_sha256, precision=precision, imgsz=imgsz)
        return Detector.load(settings)

    def found(self, detector: Detector) -> list[Found]:
        """What it finds in each of the pictures."""
        return [found for found, _ in self.answers(detector, DetectOptions(CONFIDENCE))]

    def answers(self, detector: Detector, options: DetectOptions) -> list[tuple[Found, bool]]:
        """What it finds in each of the pictures when asked for that, and whether it was cut."""
        images = [cv2.cvtColor(picture, cv2.COLOR_BGR2RGB) for picture in self.pictures]
        found = [detector.detect_image(image, options) for image in images]
        return [([asdict(one) for one in each.detections], each.truncated) for each in found]
