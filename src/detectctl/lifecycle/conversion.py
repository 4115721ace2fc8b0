"""From a model to what its engine loads: converted, and compared with what the settings ask of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from detectctl.engine import devices
from detectctl.engine.convert import compile_checkpoint
from detectctl.engine.int8.quantise import quantise
from detectctl.errors import UsageError
from detectctl.progress import Progress
from detectctl.registry.store import Store

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from detectctl.engine.compiled import CompiledModel
    from detectctl.engine.int8.calibration import Calibration
    from detectctl.engine.trained import Trained
    from detectctl.progress import Report
    from detectctl.registry.model_version import ModelVersion
    from detectctl.settings import UpSettings
    from detectctl.thresholds import Thresholds
    from detectctl.waiting import Deadline
    from detectctl.wire import Device


def convert(
    settings: UpSettings,
    model: ModelVersion,
    device: Device,
    calibration: Calibration | None = None,
    *,
    cache: Path,
    environ: Mapping[str, str],
    deadline: Deadline,
    report: Report,
) -> tuple[CompiledModel, Device]:
    """The model for the engine on CPUs, and the device that it will run on, which for an export is the CPU.

    With `calibration` it is in int8.

    Raises:
        UsageError: the settings ask for what this model cannot do.
        ModelError: it could not be converted.
    """
    report(Progress("convert", model.name))
    # For a GPU too, which runs the checkpoint itself: only this child process opens a checkpoint that nobody has
    # vetted, so what it refuses never reaches a replica, and its labels are known before anything is deployed.
    compiled = compile_checkpoint(
        model.checkpoint,
        model.sha256,
        cache=cache,
        trust_checkpoint=settings.trust_checkpoint,
        timeout_s=deadline.left_s,
        environ=environ,
        report=report,
        name=model.reference,
    )
    Store(cache).note_task(model.sha256, compiled.trained.task)
    device = _device(compiled.trained, settings, device, calibration, environ, report)
    report(Progress("convert", _summary(compiled.trained, settings.imgsz, device), done=True))
    _check_classes(compiled.trained, model, settings.conf, report)
    if calibration is not None:
        compiled = quantise(
            compiled,
            calibration,
            imgsz=settings.imgsz,
            most_loss=settings.max_int8_loss,
            cache=cache,
            timeout_s=deadline.left_s,
            environ=environ,
            report=report,
            name=model.reference,
        )
    return compiled, device


def _device(
    trained: Trained,
    settings: UpSettings,
    device: Device,
    calibration: Calibration | None,
    environ: Mapping[str, str],
    report: Report,
) -> Device:
    """Where the model runs: an export on the CPU only; UsageError if it was asked for what exports cannot do."""
    if not trained.exported:
        return device
    if calibration is not None:
        raise UsageError(
            "--precision int8 is not possible with this model",
            why="it is an export, whose boxes are decoded in the network, and int8 is too coarse for them",
            hint="give the .pt that it was made from, or export it with int8",
        )
    if device == "cuda" and settings.device == "cuda":
        raise UsageError(
            "--device cuda is not possible with this model",
            why="it is an export, whose network only the engine for CPUs runs",
            hint="give the .pt that it was made from, or use `--device cpu`",
        )
    return devices.choose("cpu", settings.precision, environ, report) if device == "cuda" else "cpu"


def _summary(trained: Trained, asked: int | None, device: Device) -> str:
    """What to say of a model; UsageError if it does not take pictures of the size in pixels asked for."""
    height, width = trained.size(None)
    by_default = f"{height}" if height == width else f"{height}x{width}"
    if asked is None:
        size = f"{by_default} px"
        size += ", the default: it does not say what it was trained at" if trained.imgsz is None else " as trained"
    elif device == "cpu" and trained.fixed and (asked, asked) != (height, width):
        raise UsageError(
            f"--imgsz {asked} is not possible with this model",
            why=f"its network takes pictures of {by_default} px only",
            hint="leave `--imgsz` out",
        )
    else:
        size = f"{max(trained.size(asked))} px of --imgsz"
        if trained.imgsz is not None:
            size += f", trained at {by_default}"
    classes = len(trained.labels)
    return f"{trained.task}, {classes} class{'' if classes == 1 else 'es'}, {size}"


def _check_classes(trained: Trained, model: ModelVersion, conf: Thresholds, report: Report) -> None:
    """UsageError for the threshold of a class that the model lacks; of a fallback, that is only reported."""
    for name in conf.by_class:
        if trained.ids(name):
            continue
        what = f"{model.name} has no class {name[:100]!r}, for which --conf has a threshold"
        if not model.fallback:
            raise UsageError(what, why=trained.nearest(name), hint="correct its name in `--conf`, or leave it out")
        report(Progress("convert", what, warning=True))
