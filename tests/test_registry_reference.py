"""References: every form that the contract names, and errors that name the part that is wrong."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from detectctl.errors import UsageError
from detectctl.registry.base_names import BASE_NAMES
from detectctl.registry.reference import Artifact, BaseModel, LocalFile, parse

REGISTRY_PAGE = "https://wandb.example.com/orgs/Acme/registry/My%20Models"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("base", BaseModel("yolov8n")),
        ("yolov8x", BaseModel("yolov8x")),
        ("yolo11s-seg", BaseModel("yolo11s-seg")),
        ("rtdetr-l", BaseModel("rtdetr-l")),
        ("acme/traffic/yolo:latest", Artifact("acme", "traffic", "yolo", "latest")),
        ("acme/traffic/yolo", Artifact("acme", "traffic", "yolo", "latest")),
        ("acme/traffic/yolo:v12", Artifact("acme", "traffic", "yolo", "v12")),
        ("acme/model-registry/Fall Model:prod", Artifact("acme", "model-registry", "Fall Model", "prod")),
        ("acme/registry/yolo:latest", Artifact("acme", "registry", "yolo", "latest")),
        ("wandb-registry-model/yolo:prod", Artifact(None, "wandb-registry-model", "yolo", "prod")),
        ("wandb-registry-My Models/yolo", Artifact(None, "wandb-registry-My Models", "yolo", "latest")),
        ("Acme Inc/wandb-registry-My Models/a b:v1", Artifact("Acme Inc", "wandb-registry-My Models", "a b", "v1")),
        ("wandb://acme/traffic/yolo:v3", Artifact("acme", "traffic", "yolo", "v3")),
        ("acme/traffic/yolo:v3#weights/last.pt", Artifact("acme", "traffic", "yolo", "v3", "weights/last.pt")),
        ("  acme/traffic/yolo:v3\n", Artifact("acme", "traffic", "yolo", "v3")),
        (
            "https://wandb.example.com/acme/traffic/artifacts/model/yolo/v3",
            Artifact("acme", "traffic", "yolo", "v3"),
        ),
        (
            "http://10.0.0.7:8080/acme/traffic/artifacts/model/run_1%20yolo/v3/overview",
            Artifact("acme", "traffic", "run_1 yolo", "v3"),
        ),
        (
            "https://wandb.example.com/acme/traffic/artifacts/model/yolo/v3/files/weights/best.pt",
            Artifact("acme", "traffic", "yolo", "v3", "weights/best.pt"),
        ),
        (
            f"{REGISTRY_PAGE}?selectionPath=acme-org%2Fwandb-registry-My%20Models%2Fyolo&view=membership&version=v7",
            Artifact("acme-org", "wandb-registry-My Models", "yolo", "v7"),
        ),
        (
            "https://wandb.example.com/registry/model?selectionPath=acme-org%2Fwandb-registry-model%2Fyolo",
            Artifact("acme-org", "wandb-registry-model", "yolo", "latest"),
        ),
    ],
)
def test_each_form_of_the_contract_is_understood(text: str, expected: object) -> None:
    """Base models, artifacts, registries, `wandb://` and copied page addresses mean what the contract says."""
    assert parse(text) == expected


def test_the_canonical_text_means_the_same() -> None:
    """What a reference prints as parses to itself, so a pinned reference can be typed again."""
    for text in ("yolov8s", "acme/traffic/yolo:v3#weights/last.pt", "wandb-registry-My Models/yolo:prod"):
        assert parse(str(parse(text))) == parse(text)


def test_an_existing_file_is_a_local_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file wins over every other reading, whatever its suffix, and becomes absolute."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "weights").write_bytes(b"x")
    (tmp_path / "odd#name.pt").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    assert parse("a/b/weights") == LocalFile(tmp_path / "a" / "b" / "weights")
    assert parse("odd#name.pt") == LocalFile(tmp_path / "odd#name.pt")


def test_a_base_models_name_is_never_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies in the current folder does not change what a name means; with `./` or its suffix it is the file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "yolo26n").write_bytes(b"x")
    (tmp_path / "yolo26n.pt").write_bytes(b"x")
    (tmp_path / "yolo11n").mkdir()
    assert parse("yolo26n") == BaseModel("yolo26n")
    assert parse("yolo11n") == BaseModel("yolo11n")
    assert parse("./yolo26n") == LocalFile(tmp_path / "yolo26n")
    assert parse("yolo26n.pt") == LocalFile(tmp_path / "yolo26n.pt")


def test_every_model_that_ultralytics_releases_is_known() -> None:
    """Each name of its list is a base model, or is refused as what it is; and no other name is a base model."""
    package = importlib.util.find_spec("ultralytics")  # not imported: that takes ten seconds
    assert package
    assert package.origin
    source = (Path(package.origin).parent / "utils" / "downloads.py").read_text(encoding="utf-8")
    (value,) = re.findall(r"^GITHUB_ASSETS_NAMES = (frozenset\(.*?^\))", source, re.DOTALL | re.MULTILINE)
    models = {name.rpartition(".")[0] for name in eval(value) if not name.endswith(".npy.zip")}  # noqa: S307
    assert models > set(BASE_NAMES)
    for name in models.difference(BASE_NAMES):
        with pytest.raises(UsageError, match=f"^Ultralytics' {re.escape(name)} is not served"):
            parse(name)


def test_the_folder_of_an_export_is_a_local_model(tmp_path: Path) -> None:
    """By the network in it, or by its name, so that what is not served is named; any other folder is a mistake."""
    folder = tmp_path / "best_openvino_model"
    folder.mkdir()
    with pytest.raises(UsageError, match="not an OpenVINO export"):
        parse(str(folder))
    for suffix in (".xml", ".bin"):
        (folder / f"best{suffix}").touch()
    assert parse(str(folder)) == LocalFile(folder)
    (tmp_path / "best_ncnn_model").mkdir()
    assert parse(str(tmp_path / "best_ncnn_model")) == LocalFile(tmp_path / "best_ncnn_model")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", "empty"),
        ("yolov8z", "yolov8n"),
        ("YOLOv8n", "yolov8n"),
        ("bas", "base"),
        ("yolov8q", "yolov8n, yolov8s, yolov8m, yolov8l, yolov8x"),
        ("yolov11n", "yolo11n"),
        ("yolov5s", "yolov5su"),
        ("YOLO26N-Pose", "did you mean yolo26n-pose?"),
        ("yolo26n-sem", "semantic segmentation"),
        ("yolov8s-world", "open-vocabulary"),
        ("resnet", "base | yolo26n-seg | path/to/best.pt"),
        ("traffic/yolo:v3", "ENTITY/traffic/yolo:v3"),
        ("a/b/c/d:v1", "4 parts"),
        ("a//c:v1", "empty"),
        ("a/b/c:", "alias is wrong: it is empty"),
        ("a/b/c:x/y", "'x/y'"),
        ("a/b/c:x:y", "'x:y'"),
        ("a/../c:v1", "'..'"),
        ("a/b /c:v1", "'b '"),
        ("a/b?/c:v1", "'?'"),
        ("wandb-registry-/yolo:v1", "registry's name is missing"),
        ("wandb://yolo", "entity and the project are missing"),
        ("a/b/c:v1#", "after '#'"),
        ("a/b/c:v1#best.txt", "'best.txt'"),
        ("no/such/best.onnx", "file no/such/best.onnx not found"),
        ("no/such/best_openvino_model", "a reference that ends in _openvino_model is a local model"),
        ("a/b/c:v1#../best.pt", "'../best.pt'"),
        ("https://wandb.example.com/acme/traffic/runs/abc", "https://HOST/ENTITY/PROJECT/artifacts/TYPE/NAME/vN"),
        ("https://example.com/best.pt", "not the address of a W&B artifact page"),
        ("no/such/best.pt", "file no/such/best.pt not found"),
        ("yolov8n.pt", "--model yolov8n"),
        ("YOLO26n.pt", "--model yolo26n"),
        ("yolo26n-depth.pt", "Ultralytics' yolo26n-depth is not served"),
        ("yolov8q.pt", "or use one of Ultralytics' own: `--model yolov8n`"),
        ("x" * 300, "neither a base model"),
        ("a/" + "b" * 300, "two parts"),
    ],
)
def test_errors_name_the_wrong_part_and_the_right_form(
    text: str, names: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong reference is a usage error whose text holds the wrong part or the nearest right form."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert names in f"{caught.value.what}\n{caught.value.why}\n{caught.value.hint}"
    assert caught.value.why
    assert caught.value.hint
    assert caught.value.exit_code == 2


def test_a_missing_file_names_its_nearest_neighbour(tmp_path: Path) -> None:
    """A mistyped checkpoint's error shows the file that is there."""
    (tmp_path / "best.pt").write_bytes(b"x")
    with pytest.raises(UsageError) as caught:
        parse(str(tmp_path / "bset.pt"))
    assert str(tmp_path / "best.pt") in str(caught.value.hint)


def test_a_tilde_that_no_shell_has_seen_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of `model = "~/best.pt"` in the settings file."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "best.pt").write_bytes(b"x")
    assert parse("~/best.pt") == LocalFile(tmp_path / "best.pt")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    """A folder is not searched for checkpoints."""
    with pytest.raises(UsageError, match="not a model reference") as caught:
        parse(str(tmp_path))
    assert caught.value.why == "it is a folder"
