"""Ultralytics' own reading of images, as JSON in the last line on stdout: for each path its `thumbnail`, or null.

Run as `python corpora_reference.py FOLDER`, in a process of its own because Ultralytics changes Pillow and OpenCV.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIDE = 24


def thumbnail(image: NDArray[Any]) -> dict[str, Any]:
    """Height, width and a small picture of an image (height, width, RGB); Ultralytics leaves some with 32 bits."""
    scale = 1.0 if image.dtype == np.uint8 else 255 / max(1.0, float(image.max()))
    small = cv2.resize((image * scale).astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return {"size": list(image.shape[:2]), "pixels": small.tolist()}


def read(path: Path) -> dict[str, Any] | None:
    from ultralytics.utils.patches import imread

    try:
        image = imread(str(path))
    except cv2.error:
        return None
    if image is None:
        return None
    three = image[:, :, 2::-1] if image.shape[2] >= 3 else np.repeat(image[:, :, :1], 3, axis=2)
    return thumbnail(np.ascontiguousarray(three))


if __name__ == "__main__":
    found = {str(path): read(path) for path in sorted(Path(sys.argv[1]).rglob("*")) if path.is_file()}
    json.dump(found, sys.stdout)
