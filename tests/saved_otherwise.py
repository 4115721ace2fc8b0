"""Saves a tiny model in ways that people and programs save models, and says what becomes of each file.

Run as `python saved_otherwise.py FOLDER`, in a process of its own because torch is heavy, and with the variables of
`compiled.make_once`. Writes `FOLDER/KIND.pt`, and
the folder of a compiled model, `FOLDER/KIND`, for each that is served. Prints, as JSON in the last line, by kind and by
engine: what is found in some pictures, or why it is refused.
"""

from __future__ import annotations

import copy
import json
import sys
import types
import zipfile
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from safetensors.torch import save_file

import shapes
from detectctl.engine.convert_child import convert
from detectctl.engine.detector import Detector
from detectctl.engine.detector_settings import DetectorSettings
from detectctl.errors import CheckpointRefused
from detectctl.files import sha256_of
from detectctl.progress import silent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SOURCE = Path(__file__).with_name("checkpoints") / "v8.pt"
PICTURES = 5
TRUSTED = ("compiled", "old-format", "script")
"""What is also loaded with trust."""
UNCONVERTED = ("fused", "names-by-text", "names-of-a-list")
"""What is not converted as well, which takes its time."""
LENT: list[tuple[str, str]] = []
"""Modules and their classes that are to be gone when the files are loaded."""


def lend(module: str, name: str) -> Any:
    """An instance of a class of some other package, which is there while it is saved."""
    parts = module.split(".")
    packages = [".".join(parts[: length + 1]) for length in range(len(parts))]
    for package in packages:
        sys.modules.setdefault(package, types.ModuleType(package))
    for parent, package in pairwise(packages):
        setattr(sys.modules[parent], package.rpartition(".")[2], sys.modules[package])
    kind = type(name, (torch.nn.Module,), {"__module__": module})
    setattr(sys.modules[module], name, kind)
    LENT.append((module, name))
    return kind()


def as_in_training(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """What `Trainer.save_model` of ultralytics 8.4 writes after an epoch, here with `compile=True`."""
    from ultralytics.utils.torch_utils import ModelEMA, convert_optimizer_state_dict_to_fp16

    model = checkpoint["model"].float()
    ema = ModelEMA(torch.compile(model))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
    for parameter in model.parameters():
        parameter.requires_grad_(True).grad = torch.zeros_like(parameter)
    optimizer.step()
    return checkpoint | {
        "epoch": 3,
        "model": None,
        "ema": copy.deepcopy(ema.ema).half(),
        "updates": 40,
        "optimizer": convert_optimizer_state_dict_to_fp16(optimizer.state_dict()),
        "scaler": {"scale": 65536.0, "growth_interval": 2000},
    }


def with_layer(checkpoint: dict[str, Any], layer: Any) -> dict[str, Any]:
    checkpoint["model"].model[3] = layer
    return checkpoint


def with_model(checkpoint: dict[str, Any], **attributes: Any) -> dict[str, Any]:
    for name, value in attributes.items():
        setattr(checkpoint["model"], name, value)
    return checkpoint


def with_classes(checkpoint: dict[str, Any], count: int) -> dict[str, Any]:
    """The first of its classes, or all and more that are never found."""
    model = checkpoint["model"]
    head = model.model[-1]
    for branch in head.cv3:
        layer = branch[-1]
        weight, bias = (
            layer.weight.data.new_zeros(count, *layer.weight.shape[1:]),
            layer.bias.data.new_full((count,), -20),
        )
        kept = min(count, layer.out_channels)
        weight[:kept], bias[:kept] = layer.weight.data[:kept], layer.bias.data[:kept]
        layer.weight, layer.bias = (torch.nn.Parameter(each, requires_grad=False) for each in (weight, bias))
        layer.out_channels = count
    head.nc, head.no = count, count + 4 * head.reg_max
    model.names = {class_id: model.names.get(class_id, "none") for class_id in range(count)}
    return checkpoint


def with_channels(checkpoint: dict[str, Any], count: int) -> dict[str, Any]:
    model = checkpoint["model"]
    first = model.model[0].conv
    first.weight = torch.nn.Parameter(first.weight.data[:, :1].repeat(1, count, 1, 1), requires_grad=False)
    first.in_channels = model.yaml["channels"] = count
    return checkpoint


def variants(original: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """What `torch.save` is given, by the name of its kind."""

    def fresh() -> dict[str, Any]:
        return copy.deepcopy(original)

    yield "full-precision", fresh() | {"model": fresh()["model"].float()}
    yield "ema-only", fresh() | {"model": None, "ema": fresh()["model"]}
    yield "in-training", as_in_training(fresh())
    yield "fused", fresh() | {"model": fresh()["model"].float().fuse(verbose=False)}
    yield "not-square", fresh() | {"train_args": fresh()["train_args"] | {"imgsz": [96, 160]}}
    yield "names-of-a-list", with_model(fresh(), names=["диск", "قضيب", "三角形🔺"])
    yield "names-by-text", with_model(fresh(), names={"0": "disc", "1": "disc", "2": ""})
    yield "names-missing", with_model(fresh(), names={0: "disc", 2: "triangle"})
    yield "one-class", with_classes(fresh(), 1)
    yield "thousand-classes", with_classes(fresh(), 1000)
    yield "four-channels", with_channels(fresh(), 4)
    yield "compiled", fresh() | {"model": torch.compile(fresh()["model"].float())}
    yield "parallel", fresh() | {"model": torch.nn.DataParallel(fresh()["model"])}
    yield "yolov5", {"model": lend("models.yolo", "DetectionModel")}
    yield "script", {"model": lend("__main__", "MyModel")}
    yield "fork", with_layer(fresh(), lend("my_fork.nn", "BiFPN"))
    yield "super-gradients", lend("super_gradients.training.models", "YoloNAS_S")
    yield "newer-class", with_layer(fresh(), lend("ultralytics.nn.modules.block", "C9k9"))
    yield "newer-module", with_layer(fresh(), lend("ultralytics.nn.modules.later", "Later"))
    weights = fresh()["model"].state_dict()
    yield "weights", dict(weights)
    yield "weights-in-order", weights
    yield "weights-as-model", {"epoch": 3, "model": weights}
    yield "weights-as-ema", {"model": None, "ema": dict(weights)}
    yield "layers", {"model": torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3))}
    yield "nothing", {"model": None, "ema": None}


def files(folder: Path) -> None:
    """What is no checkpoint at all, or one of another program."""
    save_file({"model.0.conv.weight": torch.zeros(4, 3, 3, 3)}, folder / "safetensors.pt")
    (folder / "hdf5.pt").write_bytes(b"\x89HDF\r\n\x1a\n\0\0\0\0\0\x08\x08\0\x04\0\x10\0" + bytes(600))
    (folder / "page.pt").write_text("<!DOCTYPE html><html><body>404</body></html>")
    (folder / "pointer.pt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 6549796\n")
    with zipfile.ZipFile(folder / "zipped.pt", "w") as archive:
        archive.write(SOURCE, "run/weights/best.pt")
    with (folder / "array.pt").open("wb") as file:
        np.save(file, np.zeros(3))


def found(detector: Detector) -> list[list[dict[str, Any]]]:
    pictures = [picture for picture, _ in shapes.pictures("detect")][:PICTURES]
    answers = [detector.detect_image(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)) for picture in pictures]
    return [[asdict(one) for one in answer.detections] for answer in answers]


def by_torch(file: Path) -> list[list[dict[str, Any]]]:
    return found(Detector.load(DetectorSettings(str(file), sha256_of(file), engine="torch")))


def trusted_by_torch(file: Path) -> list[list[dict[str, Any]]]:
    return found(Detector.load(DetectorSettings(str(file), sha256_of(file), engine="torch", trust_checkpoint=True)))


def by_openvino(file: Path) -> list[list[dict[str, Any]]]:
    output, sha256 = file.with_suffix(""), sha256_of(file)
    output.mkdir()
    request = {
        "checkpoint": str(file),
        "checkpoint_sha256": sha256,
        "name": file.name,
        "output": str(output),
        "trust": False,
    }
    convert(request, silent)
    return found(Detector.load(DetectorSettings(str(output), sha256, precision="fp32")))


def outcome(work: Callable[[Path], Any], file: Path) -> Any:
    try:
        return work(file)
    except CheckpointRefused as error:
        return {"what": error.what, "why": error.why, "hint": error.hint}


def main(folder: Path) -> None:
    original = torch.load(SOURCE, map_location="cpu", weights_only=False)
    torch.save(original, folder / "original.pt")
    torch.save(original, folder / "old-format.pt", _use_new_zipfile_serialization=False)
    for kind, content in variants(original):
        torch.save(content, folder / f"{kind}.pt")
    for module, kind in LENT:
        delattr(sys.modules[module], kind)
        if sys.modules[module].__spec__ is None and module != "__main__":
            del sys.modules[module]
    files(folder)
    kinds = sorted(file.stem for file in folder.glob("*.pt"))
    outcomes = {kind: {"torch": outcome(by_torch, folder / f"{kind}.pt")} for kind in kinds}
    for kind in TRUSTED:
        outcomes[kind]["trusted"] = outcome(trusted_by_torch, folder / f"{kind}.pt")
    # Last, because from the first of these on, nothing can be reached.
    for kind in set(kinds).difference(UNCONVERTED):
        outcomes[kind]["openvino"] = outcome(by_openvino, folder / f"{kind}.pt")
    json.dump(outcomes, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
