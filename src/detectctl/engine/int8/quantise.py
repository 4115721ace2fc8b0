"""Compiled model to int8: calibrated and compared with fp32 by a child process, kept like any compiled model."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detectctl import child
from detectctl.engine.compiled import NETWORK, WEIGHTS, CompiledModel, write_manifest
from detectctl.engine.making import child_environment, make_once, run_child
from detectctl.errors import ConversionFailed, UsageError
from detectctl.wire import Agreement

if TYPE_CHECKING:
    from collections.abc import Mapping

    from detectctl.engine.int8.calibration import Calibration
    from detectctl.engine.making import OnEvent


def quantise(
    model: CompiledModel,
    calibration: Calibration,
    *,
    imgsz: int,
    cache: Path,
    timeout_s: float,
    environ: Mapping[str, str],
    on_event: OnEvent | None = None,
    name: str,
) -> CompiledModel:
    """The int8 form of a compiled model with its agreement, from the cache if it is there and sound, else made now.

    It starts from the network that fp32 and bf16 run, not from the checkpoint: nothing is unpickled or traced again,
    and the process that decodes the user's images is not one that has loaded a checkpoint.

    Args:
        model: that fp32 runs.
        calibration: the images.
        imgsz: as in `DetectorSettings`; calibration sees images as requests will be seen.
        cache: detectctl's cache folder; models lie in `compiled/` below it.
        timeout_s: seconds for everything, the wait for another process that makes the same included.
        environ: the environment; the child sees little of it.
        name: what errors call the model.
        on_event: called with `{"stage": "import" | "fp32" | "calibrate" | "save" | "int8"}` while the child works; some
            say in `fraction` how far the stage is.

    Raises:
        UsageError: none of the images can be decoded, or fp32 finds nothing in them; or NNCF is not installed.
        ConversionFailed: the child failed, or the time is over.
    """
    require_nncf()

    def make(scratch: Path, output: Path, left_s: float) -> None:
        # Linked, so that what OpenVINO keeps beside a network it compiles goes away with the scratch folder.
        linked = scratch / "fp32"
        linked.mkdir()
        for file in (NETWORK, WEIGHTS):
            (linked / file).symlink_to(model.directory / file)
        request = {
            "network": str(linked),
            "output": str(output),
            "checkpoint_sha256": model.checkpoint_sha256,
            "labels": model.labels,
            "strides": model.strides,
            "imgsz": imgsz,
            "images": calibration.images,
        }
        env = child_environment(environ, scratch)
        try:
            result = run_child(
                "detectctl.engine.int8.quantise_child", request, env=env, timeout_s=left_s, on_event=on_event, name=name
            )
        except child.ChildFailed as error:
            raise _told(error, calibration, name) from error
        write_manifest(
            output,
            checkpoint_sha256=model.checkpoint_sha256,
            labels=model.labels,
            strides=model.strides,
            agreement=Agreement(**result),
        )

    directory = cache / "compiled" / _key(model, calibration, imgsz)
    return make_once(directory, make, checkpoint_sha256=model.checkpoint_sha256, timeout_s=timeout_s, name=name)


def require_nncf() -> None:
    """Raises UsageError if NNCF, which quantises, is not installed."""
    if importlib.util.find_spec("nncf") is None:
        raise UsageError(
            "--precision int8 needs NNCF, which is not installed",
            why="it brings 200 MB that no other precision needs",
            hint="install the package nncf, as in pip install -c constraints.txt '.[int8]' in a checkout of detectctl",
        )


def _key(model: CompiledModel, calibration: Calibration, imgsz: int) -> str:
    sources = [Path(__file__).with_name(name).read_text("utf-8") for name in ("quantise_child.py", "agreement.py")]
    depends_on: list[Any] = [model.directory.name, calibration.digest, imgsz, version("nncf"), sources]
    return hashlib.sha256(json.dumps(depends_on).encode()).hexdigest()[:32]


def _told(error: child.ChildFailed, calibration: Calibration, name: str) -> UsageError | ConversionFailed:
    if error.kind == "changed":
        return ConversionFailed(
            f"{name} could not be quantised", why=error.message, hint="run `detectctl up` again when they are at rest"
        )
    return UsageError(
        f"--calibrate is {str(calibration.folder)!r}",
        why=error.message,
        hint="name a folder of images such as the service will see",
    )
