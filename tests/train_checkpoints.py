"""Trains the tiny checkpoints of tests/checkpoints on drawn shapes: `python tests/train_checkpoints.py [NAME…]`.

Random weights find nothing and prove nothing; these find what tests/shapes.py draws. Each is of one of Ultralytics' own
architectures, with fewer channels. The same versions on the same kind of processor give the same weights.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

import shapes

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = Path(__file__).parent / "checkpoints"
SEED = 12
EPOCHS = 40
TRAIN, HELD_OUT = 256, 64
_ONE_DATE = "2026-01-01T00:00:00+00:00"
_CHOICES = {
    "batch": 16,
    "nbs": 16,
    "optimizer": "AdamW",
    "warmup_bias_lr": 0.0,
    "cos_lr": True,
    "mosaic": 0.0,
    "scale": 0.3,
    "erasing": 0.0,
    "auto_augment": None,
    "device": "cpu",
    "workers": 0,
    "cache": "ram",
    "amp": False,
    "val": False,
    "plots": False,
    "verbose": False,
}
_HEADER = """# Checkpoints

Written by `tests/train_checkpoints.py`, which trains them on the pictures of `tests/shapes.py`; do not edit. The metric
is of {held_out} pictures that were held out: mAP50-95 (of the masks for segment, of the keypoints for pose), or the
share of classes that are right. "Found" counts the objects at confidence 0.25 in the 50 pictures of
`shapes.pictures(task)`; for classify, the pictures whose class is right.

The models are of Ultralytics' own architectures with fewer channels. After training, their weights are rounded to
a few significant bits, and the archives are compressed, to keep them small; the figures are of what is here.

| name | family | task | imgsz | bytes | sha256 | seed | epochs | Ultralytics | metric | found |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""


@dataclass(frozen=True)
class Recipe:
    """How one checkpoint is made."""

    config: str
    """Below Ultralytics' cfg/models, without its ending."""
    task: str = "detect"
    imgsz: int = 128
    epochs: int = EPOCHS
    width: float = 0.125
    max_channels: int = 128
    channels: int = 3
    """Of a picture."""
    names: tuple[str, ...] = ()
    """Instead of the task's; one name is for every shape."""
    lr0: float = 0.01
    keypoint_values: int = 3
    bits: int = 4
    """That are left of each weight's significand."""


RECIPES = {
    "v3": Recipe("v3/yolov3"),
    "v5": Recipe("v5/yolov5"),
    "v6": Recipe("v6/yolov6"),
    "v8": Recipe("v8/yolov8"),
    "v8-p2": Recipe("v8/yolov8-p2"),
    "v8-p6": Recipe("v8/yolov8-p6", imgsz=192),
    "v8-ghost": Recipe("v8/yolov8-ghost"),
    "v8-grey": Recipe("v8/yolov8", channels=1),
    "v8-single": Recipe("v8/yolov8", names=("shape",)),
    "v8-seg": Recipe("v8/yolov8-seg", "segment"),
    "v8-pose": Recipe("v8/yolov8-pose", "pose"),
    "v8-obb": Recipe("v8/yolov8-obb", "obb"),
    "v8-cls": Recipe("v8/yolov8-cls", "classify"),
    "v9": Recipe("v9/yolov9t", bits=3),
    "v10": Recipe("v10/yolov10n", max_channels=64, bits=3),
    "11": Recipe("11/yolo11", imgsz=160),
    "11-seg": Recipe("11/yolo11-seg", "segment", imgsz=160),
    "11-pose": Recipe("11/yolo11-pose", "pose", keypoint_values=2),
    "11-obb": Recipe("11/yolo11-obb", "obb"),
    "11-cls": Recipe("11/yolo11-cls", "classify", imgsz=96, epochs=100),
    "12": Recipe("12/yolo12", bits=3),
    "26": Recipe("26/yolo26"),
    "26-p2": Recipe("26/yolo26-p2"),
    "26-p6": Recipe("26/yolo26-p6", imgsz=192),
    "26-seg": Recipe("26/yolo26-seg", "segment"),
    "26-pose": Recipe("26/yolo26-pose", "pose"),
    "26-obb": Recipe("26/yolo26-obb", "obb"),
    "26-cls": Recipe("26/yolo26-cls", "classify"),
    "rtdetr": Recipe("rt-detr/rtdetr-l", epochs=80, lr0=0.001),
}


def _config(name: str, recipe: Recipe) -> Path:
    """Ultralytics' own description of the architecture, with fewer channels, as a file in the current folder."""
    from ultralytics.utils import ROOT, YAML

    config = YAML.load(ROOT / "cfg" / "models" / f"{recipe.config}.yaml")
    config |= {"nc": len(_names(recipe)), "scales": {"n": [0.1, recipe.width, recipe.max_channels]}}
    if "kpt_shape" in config:
        config["kpt_shape"] = [3, recipe.keypoint_values]
    for row in config["backbone"] + config["head"]:
        row[3] = _narrowed(row[2], row[3])
    path = Path(f"{Path(recipe.config).name.replace('yolo', 'tiny-yolo', 1)}.yaml")
    YAML.save(path, config)
    return path


def _narrowed(module: str, arguments: list[Any]) -> list[Any]:
    """A module's arguments, smaller where they do not follow the width."""
    match module, arguments:
        case "ELAN1", [out, inner, part]:
            arguments = [out, inner // 2, part // 2]
        case "RepNCSPELAN4", [out, inner, part, _]:
            arguments = [out, inner // 4, part // 4, 1]
        case "SPPELAN", [out, inner]:
            arguments = [out, inner // 4]
        case "A2C2f", [out, attends, area]:
            arguments = [out, attends, area, False, 2.0, 2.0]  # twice the channels inside, since a head has 32
        case "HGStem", _:
            arguments = [8, 16]
        case "HGBlock", [inner, out, *rest]:
            arguments = [inner // 12, out // 16, *rest]
        case "AIFI", _:
            arguments = [64, 4]
        case "RTDETRDecoder", [classes]:
            arguments = [classes, 32, 50, 4, 4, 2, 64]
    return arguments


def _names(recipe: Recipe) -> tuple[str, ...]:
    return recipe.names or shapes.NAMES[recipe.task]


def _data(recipe: Recipe) -> str:
    """The data set, in the current folder; what Ultralytics calls it."""
    for split, count, seed in (("train", TRAIN, 0), ("val", HELD_OUT, 10_000)):
        for number, (image, drawn) in enumerate(shapes.pictures(recipe.task, count, seed)):
            pixels = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) if recipe.channels == 1 else image
            folder = Path("shapes", split, drawn[0].name) if recipe.task == "classify" else Path("shapes/images", split)
            folder.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / f"{number:03}.png"), pixels)
            if recipe.task != "classify":
                labels = Path("shapes/labels", split)
                labels.mkdir(parents=True, exist_ok=True)
                lines = [_label(recipe, shape, image.shape[1], image.shape[0]) for shape in drawn]
                (labels / f"{number:03}.txt").write_text("\n".join(lines))
    if recipe.task == "classify":
        return str(Path("shapes").resolve())
    data: dict[str, Any] = {"path": str(Path("shapes").resolve()), "train": "images/train", "val": "images/val"}
    data |= {"names": dict(enumerate(_names(recipe))), "channels": recipe.channels}
    if recipe.task == "pose":
        data |= {"kpt_shape": [3, recipe.keypoint_values], "flip_idx": [0, 2, 1]}
    Path("shapes.yaml").write_text(json.dumps(data))  # which is YAML
    return "shapes.yaml"


def _label(recipe: Recipe, shape: shapes.Shape, width: int, height: int) -> str:
    """A line as Ultralytics reads it: the class id, then coordinates as shares of the picture's size."""
    scale = np.array([width, height])
    if recipe.task in {"segment", "obb"}:
        values = ((shape.outline if recipe.task == "segment" else shape.corners) / scale).ravel()
    else:
        values = np.concatenate([(shape.box[:2] + shape.box[2:]) / 2 / scale, (shape.box[2:] - shape.box[:2]) / scale])
    if recipe.task == "pose":
        visible = np.full((3, 1), 2)
        values = np.append(values, np.hstack([shape.keypoints / scale, visible])[:, : recipe.keypoint_values])
    class_id = 0 if len(_names(recipe)) == 1 else _names(recipe).index(shape.name)
    return " ".join([str(class_id), *(f"{value:.6f}" for value in values)])


def _train(name: str, recipe: Recipe) -> Path:
    import torch
    from ultralytics import YOLO

    torch.set_num_threads(2)  # the order of its sums depends on it
    model = YOLO(str(_config(name, recipe)), task=recipe.task, verbose=False)
    choices = {"imgsz": recipe.imgsz, "epochs": recipe.epochs, "lr0": recipe.lr0, "seed": SEED, "name": name}
    model.train(data=_data(recipe), project=str(Path.cwd() / "runs"), **choices, **_CHOICES)
    return Path(model.trainer.last)


def _publish(trained: Path, name: str, recipe: Recipe) -> Path:
    """Saves the stripped checkpoint with nothing in it of the machine and the day, small; returns the file."""
    import torch

    checkpoint = torch.load(trained, weights_only=False)
    plain = {"data": "shapes.yaml", "project": None, "save_dir": f"runs/{name}", "name": name, "model": f"{name}.yaml"}
    model = checkpoint["model"]
    for arguments in (checkpoint["train_args"], getattr(model, "args", {})):
        arguments.update({key: value for key, value in plain.items() if key in arguments})
    checkpoint |= {"date": _ONE_DATE, "git": None, "train_results": {}}
    for value in model.state_dict().values():
        if value.ndim > 1 and value.dtype == torch.float16:
            bits = value.view(torch.int16)
            dropped = 11 - recipe.bits  # of the eleven bits of a half's significand
            bits.add_(1 << (dropped - 1)).bitwise_and_(-(1 << dropped))
    stored = io.BytesIO()
    torch.save(checkpoint, stored)
    file = FOLDER / f"{name}.pt"
    with zipfile.ZipFile(stored) as source, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as packed:
        for info in source.infolist():
            packed.writestr(zipfile.ZipInfo(info.filename), source.read(info), zipfile.ZIP_DEFLATED)
    return file


def _figures(file: Path, recipe: Recipe) -> tuple[float, int]:
    """The metric on what was held out, and the objects found in the test pictures."""
    from ultralytics import YOLO

    data = str(Path("shapes").resolve()) if recipe.task == "classify" else "shapes.yaml"
    metrics = YOLO(file).val(data=data, imgsz=recipe.imgsz, workers=0, plots=False, device="cpu", verbose=False)
    metric = {"segment": "seg", "pose": "pose"}.get(recipe.task, "box")
    figure = metrics.top1 if recipe.task == "classify" else getattr(metrics, metric).map
    found, model = 0, YOLO(file)
    for image, drawn in shapes.pictures(recipe.task):
        pixels = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)[..., None] if recipe.channels == 1 else image
        (result,) = model.predict(pixels, conf=0.25, verbose=False, device="cpu")
        if recipe.task == "classify":
            found += result.names[result.probs.top1] == drawn[0].name
        else:
            found += len(result)
    return float(figure), found


def _record(name: str, recipe: Recipe, file: Path, figure: float, found: int) -> None:
    """Writes the checkpoint's row into the table, which keeps the others."""
    from ultralytics import __version__

    readme = FOLDER / "README.md"
    rows = (
        {row.split("`")[1]: row for row in readme.read_text().splitlines() if row.startswith("| `")}
        if readme.exists()
        else {}
    )
    content = file.read_bytes()
    cells = [recipe.config, recipe.task, recipe.imgsz, len(content), hashlib.sha256(content).hexdigest()]
    cells += [SEED, recipe.epochs, __version__, f"{figure:.3f}", found]
    rows[name] = f"| `{name}` | " + " | ".join(map(str, cells)) + " |"
    header = _HEADER.format(held_out=HELD_OUT)
    readme.write_text(header + "".join(f"{rows[key]}\n" for key in RECIPES if key in rows))
    print(rows[name], flush=True)


@contextlib.contextmanager
def _workshop() -> Iterator[None]:
    """A temporary current folder, in which Ultralytics keeps its settings too; offline."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        os.environ |= {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false", "YOLO_CONFIG_DIR": folder}
        import torchvision_operators  # noqa: F401

        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="all by default", default=list(RECIPES))
    FOLDER.mkdir(exist_ok=True)
    for name in parser.parse_args().names:
        recipe = RECIPES[name]
        with _workshop():
            file = _publish(_train(name, recipe), name, recipe)
            _record(name, recipe, file, *_figures(file, recipe))


if __name__ == "__main__":
    main()
