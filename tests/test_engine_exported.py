"""Models that Ultralytics exported answer as its predictor does with them; all else is refused as what it is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

import shapes
from comparison import Found, apart, pairs
from detectctl.engine.convert import compile_checkpoint
from detectctl.engine.detector import Detector
from detectctl.engine.detector_settings import DetectorSettings
from detectctl.engine.exported import describe, is_export, metadata_of, read
from detectctl.engine.trained import MOST_NAME
from detectctl.errors import CheckpointRefused
from detectctl.exports import network_in, pack
from detectctl.files import sha256_of
from detectctl.registry import wandb_source
from detectctl.registry.reference import Artifact, parse
from detectctl.registry.store import Store
from detectctl.wire import DetectOptions
from family import CONFIDENCE
from test_engine_families import LIMITS
from train_checkpoints import FOLDER
from wandb_server import WandbServer

if TYPE_CHECKING:
    from detectctl.engine.compiled import CompiledModel
    from detectctl.registry.model_version import ModelVersion

ONNX = Path(__file__).with_name("exports") / "26.onnx"
"""Of `26.pt`, for pictures of any shape; `export_onnx.py` made it."""
EXPORTS: dict[str, tuple[tuple[str, dict[str, Any]], ...]] = {
    "short": (("v8-seg", {"dynamic": True}), ("26", {"nms": False})),
    "long": (
        ("v8", {"dynamic": True}),
        ("v8-seg", {}),
        ("v8-pose", {}),
        ("v8-obb", {"dynamic": True}),
        ("v8-cls", {}),
        ("26-seg", {"nms": False}),
        ("26-pose", {"nms": False}),
        ("26-obb", {"nms": False}),
    ),
}
"""Checkpoints, and options of Ultralytics' `export`: of those without NMS, and of those that are not dynamic, too."""
METADATA = {"task": "detect", "names": {0: "a", 1: "b"}, "imgsz": [64, 64], "stride": 32}


def compiled(file: Path, cache: Path) -> CompiledModel:
    return compile_checkpoint(
        file, sha256_of(file), cache=cache, trust_checkpoint=False, timeout_s=100, environ=os.environ
    )


def answers(model: CompiledModel) -> list[Found]:
    detector = Detector.load(DetectorSettings(str(model.directory), model.checkpoint_sha256, precision="fp32"))
    return [
        [
            asdict(found)
            for found in detector.detect_image(
                cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), DetectOptions(CONFIDENCE)
            ).detections
        ]
        for picture, _ in shapes.pictures(detector.task)
    ]


class Export:
    """What Ultralytics exported to `folder`, and what its predictor finds with it."""

    def __init__(self, folder: Path, options: dict[str, Any], found: list[Found]) -> None:
        self.folder, self.options, self.found = folder, options, found

    def packed(self, target: Path) -> Path:
        network = network_in(self.folder)
        assert network is not None
        return pack(network, target)


def exported(tier: str, folder: Path) -> list[Export]:
    script = str(Path(__file__).with_name("export_reference.py"))
    command = [sys.executable, script, str(folder), str(CONFIDENCE), json.dumps(EXPORTS[tier])]
    env = {**os.environ, "YOLO_OFFLINE": "1", "YOLO_AUTOINSTALL": "false", "YOLO_CONFIG_DIR": str(folder)}
    output = subprocess.run(command, env=env, capture_output=True, timeout=400, check=True).stdout
    return [
        Export(folder / str(number) / f"{name}_openvino_model", options, found)
        for number, ((name, options), found) in enumerate(
            zip(EXPORTS[tier], json.loads(output.splitlines()[-1]), strict=True)
        )
    ]


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> list[Export]:
    return exported("short", tmp_path_factory.mktemp("short"))


def assert_same(model: CompiledModel, expected: list[Found]) -> None:
    """It finds the same objects, in fifty pictures a hundred at least."""
    assert sum(map(len, expected)) >= 100
    drawn = (picture for picture, _ in shapes.pictures(model.trained.task))
    for ours, theirs, picture in zip(answers(model), expected, drawn, strict=True):
        clipped = [one | {"xyxy": np.clip(one["xyxy"], 0, picture.shape[1::-1] * 2).tolist()} for one in theirs]
        together = list(pairs(ours, clipped))
        assert len(together) == len(ours) == len(theirs)
        for one, other in together:
            differences = apart(one, other, picture, model.trained)
            assert all(difference <= LIMITS[key] for key, difference in differences.items()), differences


def assert_all_same(exports: list[Export], tmp_path: Path) -> None:
    for number, export in enumerate(exports):
        model = compiled(export.packed(tmp_path / str(number)), tmp_path)
        assert model.trained.exported == ("dynamic" if export.options.get("dynamic") else "static")
        assert_same(model, export.found)


@pytest.mark.slow
def test_an_export_finds_what_ultralytics_finds_with_it(short: list[Export], tmp_path: Path) -> None:
    """One of one shape is given pictures with all the padding that makes them square."""
    assert_all_same(short, tmp_path)


@pytest.mark.long
def test_an_export_for_any_task_finds_what_ultralytics_finds_with_it(tmp_path: Path) -> None:
    folder = tmp_path / "exports"
    folder.mkdir()
    assert_all_same(exported("long", folder), tmp_path)


@pytest.mark.slow
def test_an_export_is_the_same_wherever_it_lies_and_however_it_is_zipped(short: list[Export], tmp_path: Path) -> None:
    """The digest covers every file; a zipped folder has that of its own bytes, and the same network."""
    folder = short[0].folder
    renamed = shutil.copytree(folder, tmp_path / "renamed")
    for file in renamed.glob("v8-seg.*"):
        file.rename(renamed / f"best{file.suffix}")
    first = sha256_of(pack(folder / "v8-seg.xml", tmp_path / "first"))
    assert sha256_of(pack(renamed / "best.xml", tmp_path / "second")) == first
    with (renamed / "metadata.yaml").open("a") as metadata:
        metadata.write("# touched\n")
    assert sha256_of(pack(renamed / "best.xml", tmp_path / "second")) != first
    zipped = Path(shutil.make_archive(str(tmp_path / "zipped"), "zip", tmp_path, "renamed"))
    assert read(zipped).network == (folder / "v8-seg.xml").read_bytes()


@pytest.mark.slow
def test_onnx_finds_what_its_checkpoint_finds(tmp_path: Path) -> None:
    assert_same(compiled(ONNX, tmp_path), answers(compiled(FOLDER / "26.pt", tmp_path)))


@pytest.mark.slow
def test_an_export_in_wandb_is_what_it_is_on_this_machine(short: list[Export], tmp_path: Path) -> None:
    """A folder and ONNX: resolved to a version and pinned to its bytes, wherever the alias goes."""
    folder = short[0].folder
    with WandbServer() as wandb:
        environ = wandb.env(tmp_path / "home", base=os.environ)

        def fetched(reference: str) -> ModelVersion:
            found = parse(reference)
            assert isinstance(found, Artifact)
            return wandb_source.fetch(found, Store(tmp_path / "store"), environ=environ, timeout_s=100)

        wandb.log("acme/p/folder", {f"weights/{folder.name}/{file.name}": file for file in folder.iterdir()})
        wandb.log("acme/p/onnx", {"best.onnx": ONNX})
        export, onnx = fetched("acme/p/folder:latest"), fetched("acme/p/onnx:latest")
        wandb.log("acme/p/folder", {"best.onnx": ONNX})
        assert fetched("acme/p/folder:v0") == replace(export, reference="acme/p/folder:v0")
        moved = fetched("acme/p/folder:latest")
    assert (export.version, moved.version) == ("v0", "v1")
    assert export.sha256 == sha256_of(short[0].packed(tmp_path / "packed"))
    assert moved.sha256 == onnx.sha256 == sha256_of(ONNX)
    assert_same(compiled(export.checkpoint, tmp_path), short[0].found)
    assert is_export(onnx.checkpoint)


def test_metadata_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointRefused, match="lacks metadata") as caught:
        describe({"task": "pose", "imgsz": [64, 64]}, (1, 3, 64, 64), [(1, 15, 84)])
    assert caught.value.why == "it has no names, stride, kpt_shape"


@pytest.mark.slow
def test_onnx_of_another_program_is_refused_for_its_lack_of_metadata(tmp_path: Path) -> None:
    """As is one whose metadata was cut off."""
    content = ONNX.read_bytes()
    file = tmp_path / "other.onnx"
    file.write_bytes(content.replace(b"stride\x12", b"strive\x12").replace(b"imgsz\x12", b"imgsy\x12"))
    with pytest.raises(CheckpointRefused, match=r"other\.onnx was refused: the export lacks metadata") as caught:
        compiled(file, tmp_path)
    assert caught.value.why == "it has no imgsz, stride"


@pytest.mark.parametrize(
    ("metadata", "given", "why"),
    [
        (METADATA | {"task": "depth"}, [(1, 1, 64, 64)], "it is for the task 'depth'"),
        (METADATA | {"args": {"nms": True}}, [(1, 300, 6)], "its thresholds are those of the export"),
        (METADATA | {"names": {0: "a"}}, [(1, 6, 84)], "for the task detect with 1 classes"),
        (METADATA | {"names": {0: "a", 7: "b"}}, [(1, 6, 84)], "1"),
        (METADATA | {"names": {0: ["a"], 1: "b"}}, [(1, 6, 84)], "names of classes"),
        (METADATA | {"names": "__import__('os')"}, [(1, 6, 84)], "malformed node"),
        (METADATA | {"channels": 1}, [(1, 6, 84)], "pictures of 3 channels"),
        (METADATA | {"task": "segment"}, [(1, 6, 84)], "for the task segment"),
        (METADATA | {"task": "classify"}, [(1, 3)], "for the task classify"),
        (METADATA | {"names": 2}, [(1, 6, 84)], "no attribute 'items'"),
        (METADATA | {"args": ["nms"]}, [(1, 6, 84)], "no attribute 'get'"),
        (METADATA | {"imgsz": [float("inf"), 64]}, [(1, 6, 84)], "infinity"),
        (METADATA | {"stride": 100_000}, [(1, 6, 84)], "stride 100000"),
        (METADATA | {"stride": 0}, [(1, 6, 84)], "stride 0"),
        (METADATA | {"task": ["detect"]}, [(1, 6, 84)], "task is no text"),
    ],
)
def test_metadata_that_does_not_go_with_the_network_is_refused(
    metadata: dict[str, Any], given: list[tuple[int | None, ...]], why: str
) -> None:
    with pytest.raises(CheckpointRefused) as caught:
        describe(metadata, (1, 3, 64, 64), given)
    assert why in str(caught.value.why)


def test_metadata_that_grows_with_each_line_is_refused_before_it_does() -> None:
    """By merged mappings as they are read, by aliases as they are shown: each line has ten times what the last has."""
    names = [f"a{number}" for number in range(40)]
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"{one}: &{one} {{<<: [{', '.join(['*' + last] * 10)}]}}" for last, one in pairwise(names)]
    with pytest.raises(CheckpointRefused) as caught:
        metadata_of("\n".join(lines).encode())
    assert caught.value.why == "it merges mappings (<<)"
    lines = ["a0: &a0 [x]", *(line.replace("{<<: ", "").replace("}", "") for line in lines[1:]), "task: *a39"]
    grown = metadata_of("\n".join(lines).encode())
    with pytest.raises(CheckpointRefused, match="does not go with its network"):
        describe(METADATA | {"task": grown["task"]}, (1, 3, 64, 64), [(1, 6, 84)])


def test_a_class_keeps_a_name_as_long_as_that_of_a_checkpoint() -> None:
    """Open-vocabulary models are served as exports only, and name their classes by sentences."""
    sentence = "a person who " + "walks and " * 30
    trained, _ = describe(METADATA | {"names": [sentence, sentence * 9]}, (1, 3, 64, 64), [(1, 6, 84)])
    assert trained.labels == {0: sentence, 1: (sentence * 9)[:MOST_NAME]}


def test_what_takes_several_pictures_at_once_is_refused() -> None:
    with pytest.raises(CheckpointRefused, match="4 pictures at once"):
        describe(METADATA, (4, 3, 64, 64), [(4, 6, 84)])


@pytest.mark.parametrize(
    ("head", "given", "layout"),
    [
        ("RTDETRDecoder", (1, 300, 6), "final"),
        (None, (1, 300, 7), "columns"),
        ("Detect", (1, 7, 84), "rows"),
    ],
)
def test_rt_detr_is_told_by_what_it_gives(head: str | None, given: tuple[int, ...], layout: str) -> None:
    trained, found = describe(METADATA | {"head": head, "names": ["a", "b", "c"]}, (1, 3, 64, 64), [given])
    assert (found, trained.stretched) == (layout, head != "Detect")


def zipped(file: Path, content: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return file


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ({"m/a.xml": b"", "m/a.bin": b""}, "the export of a.xml is incomplete"),
        ({"m/a.xml": b"", "a.bin": b"", "metadata.yaml": b""}, "the archive has 0 networks"),
        ({"a.xml": b"", "a.bin": b"", "b.xml": b"", "b.bin": b""}, "the archive has 2 networks"),
        ({"a.xml": b"", "a.bin": b"", "metadata.yaml": bytes(2 << 20)}, "metadata.yaml is too large"),
        ({"a.xml": bytes(65 << 20), "a.bin": b"", "metadata.yaml": b""}, "a.xml is too large"),
    ],
)
def test_an_archive_that_is_no_export_is_refused(tmp_path: Path, content: dict[str, bytes], what: str) -> None:
    """Without a byte unpacked to a file."""
    file = zipped(tmp_path / "best.zip", content)
    with pytest.raises(CheckpointRefused) as caught:
        read(file)
    assert caught.value.what == what
    assert list(tmp_path.iterdir()) == [file]


def field(number: int, data: bytes | int) -> bytes:
    """Of a protobuf; numbers and lengths are below 128."""
    return bytes((number << 3, data)) if isinstance(data, int) else bytes((number << 3 | 2, len(data))) + data


@pytest.mark.slow
def test_onnx_that_names_a_file_of_this_machine_gets_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does it learn what OpenVINO would have made of it: the file cannot be opened."""
    monkeypatch.chdir(tmp_path)
    Path("secret").write_bytes(bytes(4))
    location = field(1, b"location") + field(2, b"secret")
    tensor = field(1, 1) + field(2, 1) + field(8, b"w") + field(13, location) + field(14, 1)
    shape = field(1, field(1, field(1, 1) + field(2, field(1, field(1, 1)))))
    add = field(1, b"x") + field(1, b"w") + field(2, b"y") + field(4, b"Add")
    values = field(11, field(1, b"x") + field(2, shape[2:])) + field(12, field(1, b"y") + field(2, shape[2:]))
    graph = field(1, add) + field(2, b"g") + field(5, tensor) + values
    model = field(1, 8) + field(2, b"hand") + field(7, graph) + field(8, field(2, 17))
    Path("best.onnx").write_bytes(model)
    with pytest.raises(CheckpointRefused, match="damaged, or of a kind that OpenVINO does not read") as caught:
        compiled(Path("best.onnx"), tmp_path)
    assert "Can not open file" in str(caught.value.why)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["network", "weights", "metadata"])
def test_damage_is_told(short: list[Export], tmp_path: Path, part: str) -> None:
    whole = read(short[0].packed(tmp_path / "packed"))
    parts = {"a.xml": whole.network, "a.bin": whole.weights or b"", "metadata.yaml": whole.metadata or b""}
    name = {"network": "a.xml", "weights": "a.bin", "metadata": "metadata.yaml"}[part]
    parts[name] = parts[name][:100] + (b": - {" if part == "metadata" else b"")
    with pytest.raises(CheckpointRefused) as caught:
        compiled(zipped(tmp_path / "a.zip", parts), tmp_path)
    assert caught.value.what.startswith("a.zip was refused: ")
    assert caught.value.why


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"\x10\x00\x00\x00" + b'{"task": "detect"' + bytes(64), "TensorRT"),
        (b"\x1c\x00\x00\x00TFL3" + bytes(64), "TensorFlow Lite"),
        ({"best/data.pkl": b"", "best/constants.pkl": b"", "best/code/a.py": b""}, "TorchScript"),
        ({"best_saved_model/saved_model.pb": b""}, "TensorFlow SavedModel"),
    ],
)
def test_other_exports_are_told_by_their_content(tmp_path: Path, content: Any, kind: str) -> None:
    file = tmp_path / "best.pt"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        zipped(file, content)
    with pytest.raises(CheckpointRefused, match=f"a {kind} export") as caught:
        is_export(file)
    assert caught.value.hint == "give the .pt that it was made from"


def test_a_checkpoint_is_no_export() -> None:
    assert not any(is_export(file) for file in FOLDER.glob("*.pt"))
    assert is_export(ONNX)
