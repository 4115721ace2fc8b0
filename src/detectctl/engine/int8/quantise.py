"""`--precision int8`: the one door to this package.

`prepare` refuses what cannot work and chooses the images; `quantise` has a child process calibrate the network on them
and compare it with fp32, judges the outcome, and keeps the model like any compiled model.
"""

from __future__ import annotations

import importlib.util
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from detectctl.engine.compiled import MANIFEST, NETWORK, WEIGHTS, CompiledModel, folder_for, make_once
from detectctl.engine.int8 import calibration
from detectctl.errors import ModelError, UsageError
from detectctl.progress import Progress, silent

if TYPE_CHECKING:
    from collections.abc import Mapping

    from detectctl import child
    from detectctl.engine.int8.calibration import Calibration
    from detectctl.progress import Report
    from detectctl.wire import Agreement


def prepare(precision: str, folder: Path | None, report: Report) -> Calibration | None:
    """The images in `folder` to calibrate on; None for another precision than int8, with a warning if it is given.

    Raises:
        UsageError: int8 is asked for and there is no folder, no image in it, or no NNCF.
    """
    if precision != "int8":
        if folder is not None:
            report(Progress("quantise", f"--calibrate has no effect with --precision {precision}", warning=True))
        return None
    if folder is None:
        raise UsageError(
            "--precision int8 needs images",
            why="the range of each layer's values is measured on images like those the service will see",
            hint="add `--calibrate DIR`, a folder with a hundred or more of them",
        )
    if importlib.util.find_spec("nncf") is None:
        raise UsageError(
            "--precision int8 needs NNCF, which is not installed",
            why="it adds 200 MB that no other precision needs",
            hint="install it: `pip install 'detectctl[int8]'`",
        )
    return calibration.choose(folder)


def quantise(
    model: CompiledModel,
    images: Calibration,
    *,
    imgsz: int | None,
    most_loss: float,
    cache: Path,
    timeout_s: float,
    environ: Mapping[str, str],
    report: Report = silent,
    name: str,
) -> CompiledModel:
    """The int8 form of a compiled model, from the cache, or made now if it is missing or damaged there.

    It starts from the network that fp32 and bf16 run, not from the checkpoint: nothing is unpickled or traced again,
    and the process that decodes the user's images has never loaded a checkpoint.

    `images` are from `prepare`; calibration scales them as the service will, to `imgsz` pixels on the longer
    side, or as the model was trained if None. The greatest `Agreement.loss` that is accepted is `most_loss`. What
    follows it is as in `compile_checkpoint`.

    Raises:
        UsageError: none of the images can be decoded, or fp32 finds nothing in them.
        ConversionFailed: the child failed, or the deadline passed.
        ModelError: int8 differs from fp32 in more than `most_loss` of the boxes.
    """
    report(Progress("quantise", name))

    def prepare_child(scratch: Path) -> child.Message:
        # Linked, so that what OpenVINO keeps beside a network it compiles goes away with the scratch folder.
        linked = scratch / "fp32"
        linked.mkdir()
        for file in (NETWORK, WEIGHTS, MANIFEST):
            (linked / file).symlink_to(model.directory / file)
        return {"fp32": str(linked), "imgsz": imgsz, "folder": str(images.folder), "images": images.images}

    sources = [Path(__file__).with_name(file).read_text("utf-8") for file in ("quantise_child.py", "agreement.py")]
    found = make_once(
        folder_for(cache, model.directory.name, images.digest, imgsz, version("nncf"), sources),
        "detectctl.engine.int8.quantise_child",
        prepare_child,
        checkpoint_sha256=model.checkpoint_sha256,
        timeout_s=timeout_s,
        environ=environ,
        report=report,
        name=name,
    )
    report(Progress("quantise", _judged(found.agreement, most_loss, name), done=True))
    return found


def _judged(agreement: Agreement | None, most_loss: float, name: str) -> str:
    """What to report of the agreement; ModelError if the loss is too great."""
    if agreement is None:
        raise TypeError("an int8 model without its agreement")
    if agreement.loss > most_loss:
        raise ModelError(
            f"int8 differs too much from fp32 for {name}: in {agreement.loss:.0%} of the boxes",
            why=f"{agreement}; --max-int8-loss allows {most_loss:.0%}",
            hint="calibrate on more images like those the service will see, use `--precision auto`, "
            "or raise `--max-int8-loss`",
        )
    return f"{agreement}; {agreement.skipped} skipped" if agreement.skipped else str(agreement)
