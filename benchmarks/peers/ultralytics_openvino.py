"""What both peers serve: Ultralytics' own predictor on its own OpenVINO export, from image bytes to JSON boxes.

As a user would tune it who cares: exported with dynamic shapes, so that it pads to the next multiple of the stride
instead of a square; one torch thread, because torch does only the boxes; no logging.
"""

from __future__ import annotations

import os
import shutil
import sys
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ |= {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false", "YOLO_VERBOSE": "false"}

import cv2
import numpy as np
import torch


def _suppress(boxes: torch.Tensor, scores: torch.Tensor, iou: float) -> torch.Tensor:
    sizes = torch.cat((boxes[:, :2], boxes[:, 2:] - boxes[:, :2]), 1)
    return torch.as_tensor(cv2.dnn.NMSBoxes(sizes.numpy(), scores.numpy(), 0.0, iou), dtype=torch.long)


try:
    import torchvision  # noqa: F401 - Ultralytics takes its NMS from there
except (ImportError, RuntimeError):  # built for another torch than the one here: OpenCV's NMS is as fast
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    sys.modules["torchvision"] = types.ModuleType("torchvision")
    sys.modules["torchvision"].ops = types.SimpleNamespace(nms=_suppress)  # type: ignore[attr-defined]

from ultralytics import YOLO  # noqa: E402 - it looks for torchvision

if TYPE_CHECKING:
    from collections.abc import Callable


def export(checkpoint: Path, folder: Path) -> Path:
    """The OpenVINO model, made in `folder` unless it is there."""
    folder.mkdir(parents=True, exist_ok=True)
    model = folder / f"{checkpoint.stem}_openvino_model"
    if not (model / "metadata.yaml").exists():
        shutil.copy(checkpoint, folder)
        YOLO(folder / checkpoint.name).export(format="openvino", dynamic=True)
    return model


def load(model: str) -> Callable[[bytes], list[dict[str, Any]]]:
    """A function from image bytes to boxes; may be called from several threads, which Ultralytics lets in by turns."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    yolo, imgsz = YOLO(model, task="detect"), int(os.environ["IMGSZ"])

    def detect(data: bytes) -> list[dict[str, Any]]:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        return boxes(yolo, yolo.predict(image, conf=0.25, iou=0.7, imgsz=imgsz, verbose=False)[0])

    detect(cv2.imencode(".jpg", np.full((480, 640, 3), 114, np.uint8))[1].tobytes())
    return detect


def boxes(yolo: YOLO, result: Any) -> list[dict[str, Any]]:
    """As JSON."""
    found = result.boxes
    return [
        {"class": yolo.names[int(class_id)], "coordinates": xyxy, "confidence": confidence}
        for xyxy, confidence, class_id in zip(found.xyxy.tolist(), found.conf.tolist(), found.cls.tolist(), strict=True)
    ]


if __name__ == "__main__":
    print(export(Path(sys.argv[1]), Path(sys.argv[2])))
