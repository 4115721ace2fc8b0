"""What `up` does for `--precision int8`: refuse what cannot work, choose the images, quantise, judge the outcome."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from detectctl.engine.int8 import calibration
from detectctl.engine.int8.quantise import quantise, require_nncf
from detectctl.errors import ModelError, UsageError
from detectctl.progress import Progress, Report

if TYPE_CHECKING:
    from collections.abc import Mapping

    from detectctl.engine.convert import CompiledModel
    from detectctl.engine.int8.calibration import Calibration
    from detectctl.paths import Paths
    from detectctl.settings import UpSettings
    from detectctl.wire import Agreement


def prepare(settings: UpSettings, device: str, report: Report) -> Calibration | None:
    """The images to calibrate on; None for another precision. Nothing has been started yet.

    Raises:
        UsageError: no images are given, the folder has none, the device has no int8, or NNCF is not installed.
    """
    if settings.precision != "int8":
        if settings.calibrate is not None:
            report(Progress("quantise", f"--calibrate is for --precision int8, not {settings.precision}", warning=True))
        return None
    if device != "cpu":
        raise UsageError(
            f"--precision int8 does not run on {device}",
            why="only the engine for CPUs computes in it",
            hint="--device cpu, or --precision fp16",
        )
    if settings.calibrate is None:
        raise UsageError(
            "--precision int8 needs images",
            why="the range of each layer's numbers is measured on images such as the service will see",
            hint="--calibrate DIR, a folder with a hundred or more of them",
        )
    require_nncf()
    return calibration.choose(settings.calibrate)


def quantised(
    model: CompiledModel,
    images: Calibration,
    settings: UpSettings,
    paths: Paths,
    environ: Mapping[str, str],
    timeout_s: float,
    report: Report,
    name: str,
) -> CompiledModel:
    """The int8 form of a compiled model, which agrees with it as well as `--max-int8-loss` asks for.

    Raises:
        ModelError: it does not agree, or could not be made.
        UsageError: the images are of no use for this model.
    """
    report(Progress("quantise", name))

    def on_event(event: dict[str, Any]) -> None:
        if "stage" in event:
            report(Progress("quantise", f"{name}: {event['stage']}", fraction=event.get("fraction")))

    found = quantise(
        model,
        images,
        imgsz=settings.imgsz,
        cache=paths.cache,
        timeout_s=timeout_s,
        environ=environ,
        on_event=on_event,
        name=name,
    )
    if found.agreement is None:
        raise TypeError("an int8 model without its agreement")
    if found.agreement.loss > settings.max_int8_loss:
        raise _too_far(found.agreement, settings.max_int8_loss, name)
    skipped = found.agreement.skipped
    report(Progress("quantise", f"{found.agreement}{f'; {skipped} skipped' if skipped else ''}", done=True))
    return found


def _too_far(agreement: Agreement, most: float, name: str) -> ModelError:
    return ModelError(
        f"int8 is too far from fp32 for {name}: it differs in {agreement.loss:.0%} of the boxes",
        why=f"{agreement}; --max-int8-loss allows {most:.0%}",
        hint="calibrate on more images such as the service will see, use --precision auto, or raise --max-int8-loss",
    )
