"""Turn a checkpoint into a compiled model: once, in a child process; kept by content, verified at every use."""

from __future__ import annotations

import contextlib
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from detectctl.engine.checkpoint import PACKAGE
from detectctl.engine.compiled import CompiledModel, compiled_models, folder_for, load_compiled, make_once
from detectctl.errors import ModelCorrupt
from detectctl.files import reason, sha256_of
from detectctl.progress import silent

if TYPE_CHECKING:
    from collections.abc import Mapping

    from detectctl import child
    from detectctl.progress import Report


# The converter that knew YOLOv8's head only: what it made is still good.
_BEFORE = "71e1483a3aec4ffae96c1b1606a625648b6b9713a09b60db5cbb7075d91e8879"


_CONVERTERS = ("convert_child.py", "families.py", "exported.py", "exported_network.py")


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
        checkpoint: a PyTorch checkpoint of Ultralytics, or an export as one file, see `exported`.
        sha256: hex digest that its bytes must have.
        cache: detectctl's cache folder.
        trust_checkpoint: load it even if that runs code from the file.
        timeout_s: seconds for everything, including the wait for another process that converts the same.
        environ: of this process; the child sees little of it.
        report: called at each stage of the conversion.
        name: of the model, for errors and reports; the file's name if None.

    Raises:
        ModelCorrupt: the checkpoint's bytes are not those of `sha256`.
        CheckpointRefused: it asks for code, is damaged, or is of a kind that is not served.
        ConversionFailed: the child failed, or the deadline passed.
    """

    def prepare(scratch: Path) -> child.Message:
        copy = scratch / "model.pt"
        _copy_verified(checkpoint, copy, sha256)
        return {"checkpoint": str(copy), "trust": trust_checkpoint}

    try:
        versions = [version("openvino"), version(PACKAGE), version("torch")]
    except PackageNotFoundError:  # a lean image: it cannot convert a checkpoint, and exports need neither
        versions = [version("openvino")]
        if built_in := _whoever_made_it(cache, sha256):
            return built_in
    with contextlib.suppress(ModelCorrupt):
        before = folder_for(cache, sha256, trust_checkpoint, [*versions, _BEFORE])
        return load_compiled(before, checkpoint_sha256=sha256)
    # The converter's source is its version number, which one would forget to raise.
    converter = [sha256_of(Path(__file__).with_name(name)) for name in _CONVERTERS]
    return make_once(
        folder_for(cache, sha256, trust_checkpoint, [*versions, *converter]),
        "detectctl.engine.convert_child",
        prepare,
        checkpoint_sha256=sha256,
        timeout_s=timeout_s,
        environ=environ,
        report=report,
        name=name or checkpoint.name,
    )


def _whoever_made_it(cache: Path, sha256: str) -> CompiledModel | None:
    """A sound model that was compiled from the checkpoint, with whatever versions; int8 is made from one of these."""
    for directory, made_from in compiled_models(cache).items():
        with contextlib.suppress(ModelCorrupt):
            if made_from == sha256 and (model := load_compiled(directory, checkpoint_sha256=sha256)).agreement is None:
                return model
    return None


def _copy_verified(source: Path, target: Path, sha256: str) -> None:
    """Copy, so that what is loaded is what was hashed, even if the original is written to meanwhile."""
    try:
        shutil.copyfile(source, target)
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
