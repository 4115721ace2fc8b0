"""An export on this machine becomes one file in the store; one of another format is refused by its name."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING

import pytest

from detectctl.errors import CheckpointRefused
from detectctl.registry.resolve import resolve

if TYPE_CHECKING:
    from pathlib import Path

    from detectctl.registry.model_version import ModelVersion


def resolved(path: Path, tmp_path: Path) -> ModelVersion:
    return resolve(str(path), cache=tmp_path / "cache", environ={}, timeout_s=0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "best_openvino_model"
    folder.mkdir()
    for name in ("best.xml", "best.bin", "metadata.yaml", "notes.txt"):
        (folder / name).write_text(f"content of {name}")
    return folder


def test_a_folder_is_stored_as_one_file_of_its_three(folder: Path, tmp_path: Path) -> None:
    """Whether the folder is given or the network in it."""
    model = resolved(folder, tmp_path)
    assert (model.name, model.source) == ("best", "file")
    with zipfile.ZipFile(model.checkpoint) as archive:
        assert archive.namelist() == ["metadata.yaml", "model.bin", "model.xml"]
        assert archive.read("model.bin") == b"content of best.bin"
    assert resolved(folder / "best.xml", tmp_path).sha256 == model.sha256
    (folder / "best.bin").write_text("another")
    assert resolved(folder, tmp_path).sha256 != model.sha256


def test_a_folder_without_its_metadata_is_incomplete(folder: Path, tmp_path: Path) -> None:
    (folder / "metadata.yaml").unlink()
    with pytest.raises(CheckpointRefused, match=r"the export of best\.xml is incomplete") as caught:
        resolved(folder, tmp_path)
    assert caught.value.why == "metadata.yaml is not beside it"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("best.engine", "a TensorRT"),
        ("best.torchscript", "a TorchScript"),
        ("best.mlpackage/", "a CoreML"),
        ("best_float32.tflite", "a TensorFlow Lite"),
        ("best_saved_model/", "a TensorFlow SavedModel"),
        ("best_ncnn_model/", "an NCNN"),
        ("best_imx_model/", "an IMX"),
        ("best_executorch_model/", "an ExecuTorch"),
        ("best.mnn", "an MNN"),
    ],
)
def test_other_formats_are_refused_by_their_name(tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / name
    path.mkdir() if name.endswith("/") else path.touch()
    with pytest.raises(CheckpointRefused, match=f"{path.name} is {kind} export") as caught:
        resolved(path, tmp_path)
    assert caught.value.hint == "give the .pt that it was made from"
