"""A checkpoint is converted once, safely, and what is kept is verified."""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import os
import pickle
import re
import shutil
import socket
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest

from detectctl.engine.checkpoint import unexpected_globals
from detectctl.engine.compiled import CompiledModel, folder_for, load_compiled
from detectctl.engine.convert import compile_checkpoint
from detectctl.engine.detector import Detector
from detectctl.engine.detector_settings import DetectorSettings
from detectctl.errors import CheckpointRefused, ConversionFailed, ModelCorrupt
from detectctl.progress import Progress, silent

pytestmark = pytest.mark.slow


OLD_CONVERTER = "71e1483a3aec4ffae96c1b1606a625648b6b9713a09b60db5cbb7075d91e8879"


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def convert(checkpoint: Path, cache: Path, **options: Any) -> CompiledModel:
    settings: dict[str, Any] = {
        "trust_checkpoint": False,
        "timeout_s": 100,
        "environ": os.environ,
        "report": silent,
    } | options
    return compile_checkpoint(checkpoint, digest(checkpoint), cache=cache, **settings)


def leftovers(cache: Path) -> list[Path]:
    return [path for path in (cache / "compiled").iterdir() if path.suffix != ".lock"]


class Checkpoints:
    """Checkpoints of other kinds, and why each is refused."""

    def __init__(self, folder: Path) -> None:
        env = {**os.environ, "YOLO_OFFLINE": "1", "YOLO_CONFIG_DIR": str(folder)}
        command = [sys.executable, str(Path(__file__).with_name("checkpoints.py")), str(folder)]
        result = subprocess.run(command, env=env, capture_output=True, timeout=100, check=True)
        self.refusals: dict[str, str | None] = json.loads(result.stdout.splitlines()[-1])
        self._folder = folder

    def __getitem__(self, kind: str) -> Path:
        return self._folder / f"{kind}.pt"


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    return Checkpoints(tmp_path_factory.mktemp("checkpoints"))


def test_a_model_is_converted_once_for_all_who_ask_and_recreated_when_damaged(yolov8n_pt: Path, tmp_path: Path) -> None:
    """Two at once share one conversion; a third converts nothing; a changed byte is noticed and repaired."""
    reported: list[Progress] = []
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: convert(yolov8n_pt, tmp_path, report=reported.append), range(2))
    assert first == second
    stages = ["import", "load", "export", "save"]
    assert reported == [Progress("convert", f"{yolov8n_pt.name}: {stage}") for stage in stages]
    assert first.trained.labels[5] == "bus"
    assert len(first.trained.labels) == 80
    assert first.trained.head.strides == (8, 16, 32)
    assert first.directory.stat().st_mode & 0o777 == 0o700
    assert leftovers(tmp_path) == [first.directory]

    assert convert(yolov8n_pt, tmp_path, report=reported.append) == first
    assert len(reported) == 4

    weights = first.directory / "model.bin"
    with weights.open("r+b") as file:
        file.seek(1000)
        file.write(b"\xaa\x55")
    with pytest.raises(ModelCorrupt, match="damaged"):
        load_compiled(first.directory, checkpoint_sha256=first.checkpoint_sha256)
    assert convert(yolov8n_pt, tmp_path, report=reported.append) == first
    assert len(reported) == 8
    load_compiled(first.directory, checkpoint_sha256=first.checkpoint_sha256)


def test_a_model_of_ones_own_keeps_its_labels(fall_compiled: CompiledModel) -> None:
    assert fall_compiled.trained.labels == {0: "Normal", 1: "Fall"}


def test_a_compiled_model_of_another_checkpoint_is_not_served(fall_compiled: CompiledModel) -> None:
    with pytest.raises(ModelCorrupt) as caught:
        load_compiled(fall_compiled.directory, checkpoint_sha256="0" * 64)
    assert caught.value.why is not None
    assert fall_compiled.checkpoint_sha256 in caught.value.why


@pytest.mark.parametrize("name", ["manifest.json", "model.xml", "model.bin"])
def test_a_missing_file_is_damage(fall_compiled: CompiledModel, tmp_path: Path, name: str) -> None:
    for path in fall_compiled.directory.iterdir():
        if path.name != name:
            (tmp_path / path.name).symlink_to(path)
    with pytest.raises(ModelCorrupt):
        load_compiled(tmp_path, checkpoint_sha256=fall_compiled.checkpoint_sha256)


def test_a_checkpoint_that_is_not_the_promised_one_is_not_loaded(yolov8n_pt: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelCorrupt, match="not the file"):
        compile_checkpoint(
            yolov8n_pt, "0" * 64, cache=tmp_path, trust_checkpoint=False, timeout_s=9, environ=os.environ, report=silent
        )
    assert leftovers(tmp_path) == []


def test_a_deadline_ends_the_conversion_and_leaves_nothing(yolov8n_pt: Path, tmp_path: Path) -> None:
    start = time.monotonic()
    with pytest.raises(ConversionFailed, match="in time") as caught:
        convert(yolov8n_pt, tmp_path, timeout_s=0.7)
    assert time.monotonic() - start < 4
    assert caught.value.why is not None
    # How far it gets depends on the machine.
    assert re.search("stopped (while it started|at 'yolov8n.pt: (import|load|export)')", caught.value.why)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("kind", ["semantic", "depth"])
def test_other_tasks_are_refused_by_their_name(checkpoints: Checkpoints, kind: str) -> None:
    """And the ones that are served are named."""
    assert f"'{kind}'" in str(checkpoints.refusals[kind])
    assert "served are detect, segment, pose, obb, classify" in str(checkpoints.refusals[kind])


@pytest.mark.parametrize("kind", ["world", "yoloe"])
def test_models_without_classes_of_their_own_are_refused(checkpoints: Checkpoints, kind: str) -> None:
    assert checkpoints.refusals[kind] == "it looks for what a text names, and its classes are not fixed"


def test_the_refusal_of_another_task_reaches_the_user(checkpoints: Checkpoints, tmp_path: Path) -> None:
    with pytest.raises(CheckpointRefused, match=r"depth\.pt was refused") as caught:
        convert(checkpoints["depth"], tmp_path)
    assert caught.value.why == checkpoints.refusals["depth"]
    assert leftovers(tmp_path) == []


def test_no_generation_with_the_same_head_is_refused(checkpoints: Checkpoints) -> None:
    """That they are served is shown in test_engine_families.py."""
    assert all(checkpoints.refusals[kind] is None for kind in ("v5", "v10", "v11", "v26"))


def test_what_an_older_version_converted_is_served_as_it_is(yolov8n_compiled: CompiledModel, tmp_path: Path) -> None:
    """Its manifest knew labels and strides only, so not its size; its folder is named after the converter of then."""
    sha256 = yolov8n_compiled.checkpoint_sha256
    versions = [version(name) for name in ("openvino", "ultralytics-opencv-headless", "torch")]
    folder = folder_for(tmp_path, sha256, False, [*versions, OLD_CONVERTER])
    shutil.copytree(yolov8n_compiled.directory, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    trained = manifest.pop("trained")
    manifest |= {"labels": trained["labels"], "strides": trained["head"]["strides"]}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    found = compile_checkpoint(
        tmp_path / "gone.pt", sha256, cache=tmp_path, trust_checkpoint=False, timeout_s=1, environ={}
    )
    assert found.directory == folder
    assert yolov8n_compiled.trained.imgsz == (640, 640)
    assert found.trained == replace(yolov8n_compiled.trained, imgsz=None)
    detector = Detector.load(DetectorSettings(str(folder), sha256))
    assert (detector.imgsz, detector.trained_imgsz) == ((640, 640), None)


def test_without_torch_exports_and_what_was_converted_before_are_served(
    yolov8n_compiled: CompiledModel, yolov8n_pt: Path, fall_pt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever torch converted it then; of another checkpoint it is said what is missing."""

    def installed(package: str) -> str:
        if package == "torch":
            raise PackageNotFoundError
        return version(package)

    monkeypatch.setattr("detectctl.engine.convert.version", installed)
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError(name='torch')")
    environ = os.environ | {"PYTHONPATH": str(tmp_path)}
    before = tmp_path / "compiled" / "before"
    shutil.copytree(yolov8n_compiled.directory, before)
    assert convert(yolov8n_pt, tmp_path, environ=environ).directory == before
    export = Path(__file__).with_name("exports") / "26.onnx"
    assert convert(export, tmp_path, environ=environ).trained.exported
    with pytest.raises(ConversionFailed) as caught:
        convert(fall_pt, tmp_path, environ=environ, name="my.pt")
    assert caught.value.what == "my.pt cannot be converted here"
    assert str(caught.value.why).startswith("PyTorch is not installed")


def test_other_files_are_refused_as_damaged(yolov8n_pt: Path, bus_jpg: Path, tmp_path: Path) -> None:
    """Each with a reason in our words, about the user's file."""
    sound = yolov8n_pt.read_bytes()
    flipped = bytearray(sound)
    position = sound.index(b"data.pkl") + 5000
    flipped[position : position + 50] = bytes(50)
    files = {
        "half.pt": sound[: len(sound) // 2],
        "picture.pt": bus_jpg.read_bytes(),
        "flipped.pt": bytes(flipped),
    }
    for name, content in files.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(CheckpointRefused, match="damaged") as caught:
            convert(path, tmp_path / "cache")
        assert caught.value.why, name
        assert "Use an official" not in caught.value.why  # the words of Ultralytics about our copy of the file
        assert "ERROR" not in caught.value.why
    assert leftovers(tmp_path / "cache") == []


class Shell:
    """Unpickles to a shell command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (self.command,)


def in_torch_zip(data: bytes, path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("form", ["bare", "zip"])
def test_a_pickle_that_would_run_a_command_is_refused_by_its_name_and_does_not_run(
    tmp_path: Path, protocol: int, form: str
) -> None:
    sign, path = tmp_path / "it-ran", tmp_path / "evil.pt"
    data = pickle.dumps({"model": Shell(f"touch {sign}")}, protocol=protocol)
    path.write_bytes(data) if form == "bare" else in_torch_zip(data, path)
    with pytest.raises(CheckpointRefused, match="run code") as caught:
        convert(path, tmp_path / "cache")
    assert caught.value.why is not None
    assert "posix.system" in caught.value.why
    assert not sign.exists()


def test_the_same_pickle_does_run_when_trusted(tmp_path: Path) -> None:
    """Shows that the command of the test above works, and what --trust-checkpoint means."""
    sign, path = tmp_path / "it-ran", tmp_path / "evil.pt"
    in_torch_zip(pickle.dumps({"model": Shell(f"touch {sign}")}, protocol=2), path)
    with pytest.raises(CheckpointRefused, match="no model"):
        convert(path, tmp_path / "cache", trust_checkpoint=True)
    assert sign.exists()


@pytest.mark.parametrize("name", ["builtins.eval", "torch.hub.load", "ultralytics.utils.checks.check_requirements"])
def test_functions_of_the_libraries_are_refused_by_their_name(tmp_path: Path, name: str) -> None:
    module, _, function = name.rpartition(".")
    path = tmp_path / "evil.pt"
    in_torch_zip(b"\x80\x02c" + f"{module}\n{function}\n".encode() + b"X\1\0\0\0xq\0\x85R.", path)
    with pytest.raises(CheckpointRefused, match="run code") as caught:
        convert(path, tmp_path / "cache")
    assert caught.value.why is not None
    assert function in caught.value.why


@pytest.mark.parametrize(
    "reach",
    [
        "import socket; socket.create_connection(('127.0.0.1', PORT))",
        "import socket; socket.getaddrinfo('localhost', PORT)",
        "import subprocess; subprocess.run(['touch', SIGN])",
        "import os; os.system('touch ' + SIGN)",
        "import os; child = os.fork(); child and os.waitpid(child, 0)",
        "import os; os.execv('/bin/touch', ['touch', SIGN])",
        "import os; os.posix_spawn('/bin/touch', ['touch', SIGN], {})",
    ],
)
def test_while_a_checkpoint_is_loaded_nothing_can_be_reached_or_started(reach: str, tmp_path: Path) -> None:
    """The guard stands even where a class of the libraries could be led astray by its arguments."""
    sign = tmp_path / "it-ran"
    guard = "from detectctl.engine.convert_child import forbid_reaching_out; forbid_reaching_out()\n"
    with socket.create_server(("127.0.0.1", 0)) as server:
        code = reach.replace("PORT", str(server.getsockname()[1])).replace("SIGN", repr(str(sign)))
        unguarded = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=False)
        assert unguarded.returncode == 0, unguarded.stderr
        sign.unlink(missing_ok=True)
        kept = subprocess.run([sys.executable, "-c", guard + code], capture_output=True, timeout=60, check=False)
    assert b"PermissionError: the checkpoint led to" in kept.stderr
    assert not sign.exists()


def test_names_are_read_from_pickles_of_every_protocol_without_running_them(tmp_path: Path) -> None:
    sign = tmp_path / "it-ran"
    for protocol in range(6):
        path = tmp_path / f"{protocol}.pkl"
        path.write_bytes(pickle.dumps([Shell(f"touch {sign}"), Shell("true")], protocol=protocol))
        assert unexpected_globals(path) == ["posix.system"]
    assert not sign.exists()


def test_the_child_sees_no_secrets_of_the_environment(
    yolov8n_pt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from detectctl import child

    seen: list[dict[str, str]] = []

    def run(*_: Any, env: dict[str, str], **__: Any) -> dict[str, Any]:
        seen.append(env)
        raise child.ChildTimeout(None)

    monkeypatch.setattr(child, "run", run)
    with pytest.raises(ConversionFailed):
        convert(yolov8n_pt, tmp_path, environ={"WANDB_API_KEY": "k" * 40, "PATH": "/bin", "AWS_SECRET": "s"})
    assert "k" * 40 not in str(seen)
    assert "AWS_SECRET" not in seen[0]
    assert seen[0]["ULTRALYTICS_SAFE_LOAD"] == "1"
