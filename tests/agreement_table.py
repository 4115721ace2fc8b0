"""Writes docs/agreement.md, how closely each engine and precision agrees: `python tests/agreement_table.py [NAME…]`.

Every committed checkpoint answers fifty drawn pictures: by Ultralytics' predictor at fp32, by OpenVINO at each
precision that this processor computes in, and by PyTorch.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import cv2

import shapes
from comparison import Found, apart, pairs
from detectctl.engine.int8.calibration import choose
from detectctl.engine.int8.quantise import quantise
from detectctl.errors import DetectctlError, UsageError
from family import CONFIDENCE, ONE_TO_ONE, Family
from train_checkpoints import RECIPES

if TYPE_CHECKING:
    from collections.abc import Callable

    from detectctl.wire import Precision

PAGE = Path(__file__).parents[1] / "docs" / "agreement.md"
CALIBRATED_ON = 128
HEADER = """# Agreement with Ultralytics

Written by `make agreement`; do not edit. Tiny models of each family and task, trained on drawn shapes
([how](https://github.com/detectctl/detectctl/blob/main/tests/checkpoints/README.md)), answer 50 pictures that they have
not seen, at confidence {confidence}. Each cell compares with `YOLO(checkpoint).predict` of Ultralytics {version} at
fp32: the share of objects that both find, then how far these differ: coordinates (px of the picture), confidence, and
for masks the IoU. At fp32 the figures are the worst of all objects, at lower precision the medians. Models this small
lose more by lower precision than real ones.

| model | task | objects | OpenVINO fp32 | PyTorch fp32 | OpenVINO bf16 | OpenVINO fp16 | OpenVINO int8 |
| --- | --- | --- | --- | --- | --- | --- | --- |
"""


def main() -> None:
    """Measures the models named, or all, and rewrites their rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME")
    known = list(RECIPES)
    known += [f"{name}{ONE_TO_ONE}" for name in known if name.startswith("26") and RECIPES[name].task != "classify"]
    rows = (
        {row.split("`")[1]: row for row in PAGE.read_text().splitlines() if row.startswith("| `")}
        if PAGE.exists()
        else {}
    )
    for name in parser.parse_args().names or known:
        rows[name] = _row(name)
        print(rows[name], flush=True)
        header = HEADER.format(confidence=CONFIDENCE, version=version("ultralytics-opencv-headless"))
        PAGE.write_text(header + "".join(f"{rows[key]}\n" for key in known if key in rows))


def _row(name: str) -> str:
    with tempfile.TemporaryDirectory() as scratch:
        family = Family(name, Path(scratch))
        cells = [
            _cell(family, family.found(family.detector()), max),
            _cell(family, family.torch, max),
            *(_precision_cell(family, precision) for precision in ("bf16", "fp16")),
            _int8_cell(family, Path(scratch)),
        ]
    objects = sum(map(len, family.ultralytics))
    return f"| `{name}` | {family.compiled.trained.task} | {objects} | " + " | ".join(cells) + " |"


def _precision_cell(family: Family, precision: Precision) -> str:
    try:
        return _cell(family, family.found(family.detector(precision)), median)
    except UsageError:
        return "not on this processor"


def _int8_cell(family: Family, folder: Path) -> str:
    images = folder / "images"
    images.mkdir()
    for number, (picture, _) in enumerate(shapes.pictures(family.compiled.trained.task, CALIBRATED_ON, 0)):
        cv2.imwrite(str(images / f"{number:03}.png"), picture)
    choice = {"imgsz": None, "most_loss": 1.0, "cache": folder, "timeout_s": 600, "environ": os.environ, "name": "int8"}
    try:
        int8 = quantise(family.compiled, choose(images), **choice)  # type: ignore[arg-type]
    except DetectctlError as error:
        return f"{error.what}: {error.why}"
    return _cell(family, family.found(family.detector("int8", compiled=int8)), median)


def _cell(family: Family, ours: list[Found], summary: Callable[[list[float]], float]) -> str:
    """The share found by both, and a summary of each difference."""
    differences: dict[str, list[float]] = {}
    for found, expected, picture in zip(ours, family.ultralytics, family.pictures, strict=True):
        for one, other in pairs(found, expected):
            for key, value in apart(one, other, picture, family.compiled.trained).items():
                differences.setdefault(key, []).append(value)
    both = len(differences.get("confidence", ()))
    share = 2 * both / max(1, sum(map(len, ours)) + sum(map(len, family.ultralytics)))
    words = {"xyxy": "px", "corners": "px of corners", "keypoints": "px of keypoints", "angle": "rad"}
    figures = [f"{summary(differences[key]):.3f} {unit}" for key, unit in words.items() if key in differences]
    if "confidence" in differences:
        figures.append(f"conf {summary(differences['confidence']):.4f}")
    if "mask" in differences:
        figures.append(f"IoU {1 - summary(differences['mask']):.3f}")
    return ", ".join([f"{share:.1%}", *figures])


if __name__ == "__main__":
    main()
