"""Exports committed checkpoints, and says what Ultralytics' predictor finds with them, as JSON in stdout's last line.

Run as `python export_reference.py FOLDER CONFIDENCE [[NAME, OPTIONS], …]`, in a process of its own because torch is
heavy. Each export is in a folder of FOLDER that its number names; OPTIONS are those of Ultralytics' `export`.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import openvino
from ultralytics import YOLO

import shapes
import torchvision_operators  # noqa: F401 - before the predictor looks for NMS among them
from predict_reference import objects

_compile_model = openvino.Core.compile_model


def _in_fp32(core: Any, model: Any, device_name: str, config: dict[str, Any]) -> Any:
    """OpenVINO would compute in bf16 where the processor has it."""
    return _compile_model(core, model, device_name, config | {"INFERENCE_PRECISION_HINT": "f32"})


def main(folder: Path, confidence: float, exports: list[tuple[str, dict[str, Any]]]) -> None:
    openvino.Core.compile_model = _in_fp32
    answers = []
    for number, (name, options) in enumerate(exports):
        (folder / str(number)).mkdir()
        checkpoint = shutil.copy(Path(__file__).with_name("checkpoints") / f"{name}.pt", folder / str(number))
        yolo = YOLO(checkpoint)
        exported = YOLO(yolo.export(format="openvino", verbose=False, **options), task=yolo.task)
        found = []
        for picture, _ in shapes.pictures(yolo.task):
            # A dynamic one would be given 640 pixels, whatever it was trained at.
            (result,) = exported.predict(picture, conf=confidence, imgsz=yolo.overrides["imgsz"], verbose=False)
            found.append(objects(result))
        answers.append(found)
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), json.loads(sys.argv[3]))
