"""What Ultralytics' predictor and our engine on PyTorch find in drawn shapes, as JSON in the last line on stdout.

Run as `python predict_reference.py CHECKPOINT CONFIDENCE OPTIONS [PHOTO…]`, in a process of its own because torch is
heavy. `OPTIONS` is a list in JSON, of arguments for Ultralytics' predictor to answer once more with each; photographs
go in place of the drawn pictures. All answers have, for each of the pictures, the objects by the names of
`wire.Detection`, in pixels of the picture. Ultralytics' masks are in pixels of the network's input: `[height, width,
bits in base64]`.
"""

from __future__ import annotations

import base64
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from ultralytics import YOLO

import shapes
from detectctl.engine.detector import Detector
from detectctl.engine.detector_settings import DetectorSettings
from detectctl.files import sha256_of
from detectctl.wire import DetectOptions


def objects(result: Any) -> list[dict[str, Any]]:
    """Those of an Ultralytics `Results`."""
    if result.probs is not None:
        height, width = result.orig_shape
        best = zip(result.probs.top5, result.probs.top5conf.tolist(), strict=True)
        return [{"xyxy": [0, 0, width, height], "confidence": value, "class_id": index} for index, value in best]
    boxes = result.boxes if result.obb is None else result.obb
    found = [
        {"xyxy": xyxy, "confidence": confidence, "class_id": int(class_id)}
        for xyxy, confidence, class_id in zip(boxes.xyxy.tolist(), boxes.conf.tolist(), boxes.cls.tolist(), strict=True)
    ]
    for index, one in enumerate(found):
        if result.obb is not None:
            one |= {"corners": boxes.xyxyxyxy[index].tolist(), "angle": float(boxes.xywhr[index, 4])}
        if result.keypoints is not None:
            one["keypoints"] = result.keypoints.data[index].tolist()
        if result.masks is not None:
            mask = result.masks.data[index].numpy().astype(bool)
            one["mask"] = [*mask.shape, base64.b64encode(np.packbits(mask).tobytes()).decode()]
    return found


def main(checkpoint: str, confidence: float, options: list[dict[str, Any]], *photos: str) -> None:
    import torchvision_operators  # noqa: F401 - before the predictor looks for NMS among them

    yolo = YOLO(checkpoint)
    ours = Detector.load(DetectorSettings(checkpoint, sha256_of(Path(checkpoint)), engine="torch"))
    theirs, torch = [], []
    asked: list[list[Any]] = [[] for _ in options]
    pictures = map(cv2.imread, photos) if photos else (picture for picture, _ in shapes.pictures(yolo.task))
    for picture in pictures:
        (result,) = yolo.predict(picture, conf=confidence, verbose=False)
        theirs.append(objects(result))
        found = ours.detect_image(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), DetectOptions(confidence))
        torch.append([asdict(detection) for detection in found.detections])
        for answers, each in zip(asked, options, strict=True):
            answers.append(objects(yolo.predict(picture, verbose=False, **each)[0]))
    json.dump({"ultralytics": theirs, "torch": torch, "asked": asked}, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), json.loads(sys.argv[3]), *sys.argv[4:])
