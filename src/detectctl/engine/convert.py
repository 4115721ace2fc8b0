"""Turn a checkpoint into a compiled model: once, in a child process; kept by content, verified at every use."""

from __future__ import annotations

import hashlib
import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from detectctl import child
from detectctl.engine.checkpoint import refuse_at_sight
from detectctl.engine.compiled import CompiledModel, child_environment, make_once, run_child, write_manifest
from detectctl.errors import CheckpointRefused, ModelCorrupt
from detectctl.files import reason, sha256_of
from detectctl.progress import silent

if TYPE_CHECKING:
    from collections.abc import Mapping

    from detectctl.progress import Report
    from detectctl.waiting import Deadline


def compile_checkpoint(
    checkpoint: Path,
    sha256: str,
    *,
    cache: Path,
    trust_checkpoint: bool,
    timeout_s: float,
    environ: Mapping[str, str],
    report: Report = silent,
    name: str | None = None,
) -> CompiledModel:
    """The checkpoint's compiled model, from the cache, or converted now if it is missing or damaged there.

    Args:
        checkpoint: a PyTorch checkpoint of Ultralytics.
        sha256: hex digest that its bytes must have.
        cache: detectctl's cache folder; compiled models are in `compiled/` below it.
        trust_checkpoint: load it even if that runs code from the file.
        timeout_s: seconds for everything, including the wait for another process that converts the same.
        environ: the process environment; the child sees little of it.
        report: told each stage of the conversion.
        name: what errors and reports call the model; the file's name if None.

    Raises:
        ModelCorrupt: the checkpoint's bytes are not those of `sha256`.
        CheckpointRefused: it asks for code, is damaged, or has no detection model of the YOLOv8 kind.
        ConversionFailed: the child failed, or the deadline passed.
    """
    called = name or checkpoint.name

    def convert(scratch: Path, output: Path, deadline: Deadline) -> None:
        copy = scratch / "model.pt"
        _copy_verified(checkpoint, copy, sha256)
        if not trust_checkpoint:
            _refuse_at_sight(copy, called)
        request = {"checkpoint": str(copy), "output": str(output), "trust": trust_checkpoint, "name": called}
        env = child_environment(environ, scratch) | _environment_of_ultralytics(scratch, trust=trust_checkpoint)
        try:
            module = "detectctl.engine.convert_child"
            result = run_child(module, request, env=env, timeout_s=deadline.left_s, report=report, name=called)
        except child.ChildFailed as error:
            why, hint = json.loads(error.detail)
            raise _refused(called, error.message, why, hint) from error
        labels = {int(class_id): label for class_id, label in result["labels"].items()}
        write_manifest(output, checkpoint_sha256=sha256, labels=labels, strides=result["strides"])

    directory = cache / "compiled" / _key(sha256, trust_checkpoint=trust_checkpoint)
    return make_once(directory, convert, checkpoint_sha256=sha256, timeout_s=timeout_s, name=called)


def _key(sha256: str, *, trust_checkpoint: bool) -> str:
    """What the outcome depends on; the converter's source is its version number, which one would forget to raise."""
    converter = sha256_of(Path(__file__).with_name("convert_child.py"))
    versions = [version("openvino"), version("ultralytics-opencv-headless"), version("torch"), converter]
    return hashlib.sha256(json.dumps([sha256, trust_checkpoint, versions]).encode()).hexdigest()[:32]


def _refuse_at_sight(copy: Path, name: str) -> None:
    try:
        refuse_at_sight(copy)
    except CheckpointRefused as error:
        raise _refused(name, error.what, error.why, error.hint) from error


def _refused(name: str, what: str, why: str | None, hint: str | None) -> CheckpointRefused:
    return CheckpointRefused(f"{name} was refused: {what}", why=why, hint=hint)


def _copy_verified(source: Path, target: Path, sha256: str) -> None:
    """Copy, so that what is loaded is what was hashed, even if the original is written to meanwhile."""
    try:
        with source.open("rb") as reader, target.open("wb") as writer:
            shutil.copyfileobj(reader, writer, 1 << 20)
    except OSError as error:
        raise ModelCorrupt(
            f"{source} cannot be read", why=reason(error), hint="check that the file exists and is readable"
        ) from error
    digest = sha256_of(target)
    if digest != sha256:
        raise ModelCorrupt(
            f"{source} is not the file it should be",
            why=f"its sha256 is {digest}, expected {sha256}",
            hint="delete it, then run `detectctl up` again",
        )


def _environment_of_ultralytics(scratch: Path, *, trust: bool) -> dict[str, str]:
    env = {
        "YOLO_CONFIG_DIR": str(scratch / "ultralytics"),
        "YOLO_OFFLINE": "true",  # also switches its usage events off
        "YOLO_AUTOINSTALL": "false",
        "YOLO_VERBOSE": "false",
    }
    return env if trust else env | {"ULTRALYTICS_SAFE_LOAD": "1"}
