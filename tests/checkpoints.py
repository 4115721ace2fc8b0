"""Makes checkpoints of every kind that Ultralytics knows, with random weights: `python checkpoints.py DIR`.

Prints, as JSON in the last line, why each kind is refused, null for those that are not.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from ultralytics import YOLO

from detectctl.engine.families import describe
from detectctl.errors import CheckpointRefused

KINDS = {
    "semantic": "yolo26n-sem.yaml",
    "depth": "yolo26n-depth.yaml",
    "world": "yolov8n-worldv2.yaml",
    "yoloe": "yoloe-11n-seg.yaml",
    "v10": "yolov10n.yaml",
    "v26": "yolo26n.yaml",
    "v5": "yolov5n.yaml",
    "v11": "yolo11n.yaml",
}


def main(folder: Path) -> None:
    verdicts: dict[str, str | None] = {}
    for kind, config in KINDS.items():
        yolo = YOLO(config)
        yolo.save(folder / f"{kind}.pt")
        try:
            describe(yolo.model, {})
            verdicts[kind] = None
        except CheckpointRefused as error:
            verdicts[kind] = error.why
    json.dump(verdicts, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
