"""What Ultralytics' predictor and our engine on PyTorch find in drawn shapes, as JSON in the last line on stdout.

Run as `python predict_reference.py CHECKPOINT CONFIDENCE`, in a process of its own because torch is heavy. Each answer
has, for each of the pictures, `[[x1, y1, x2, y2, confidence, class_id], …]` in pixels of the picture.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
from ultralytics import YOLO

import shapes
from detectctl.engine.detector import Detector
from detectctl.engine.detector_settings import DetectorSettings
from detectctl.files import sha256_of


def main(checkpoint: str, confidence: float) -> None:
    import torchvision_operators  # noqa: F401 - before the predictor looks for NMS among them

    yolo = YOLO(checkpoint)
    ours = Detector.load(DetectorSettings(checkpoint, sha256_of(Path(checkpoint)), engine="torch"))
    theirs, torch = [], []
    for picture, _ in shapes.pictures("detect"):
        (result,) = yolo.predict(picture, conf=confidence, verbose=False)
        theirs.append(result.boxes.data.tolist())
        found = ours.detect_image(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), confidence=confidence)
        torch.append([[*detection.xyxy, detection.confidence, detection.class_id] for detection in found])
    json.dump({"ultralytics": theirs, "torch": torch}, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
