"""Makes `tests/exports/26.onnx` of `tests/checkpoints/26.pt`, where the package `onnx` is installed.

Made with ultralytics 8.4.190 and onnx 1.23.2; there is nothing random in it but its date.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from ultralytics import YOLO

import torchvision_operators  # noqa: F401 - before Ultralytics looks for it

HERE = Path(__file__).parent


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = shutil.copy(HERE / "checkpoints" / "26.pt", folder)
        exported = YOLO(checkpoint).export(format="onnx", dynamic=True, simplify=False, verbose=False)
        shutil.copy(exported, HERE / "exports" / "26.onnx")


if __name__ == "__main__":
    main()
