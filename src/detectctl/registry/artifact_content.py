"""Which file of a W&B artifact is served: the rest of it is not downloaded."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from detectctl.errors import CheckpointRefused, ModelNotFound
from detectctl.exports import SUFFIXES, files_of, networks, of_another_kind, other_format, require_parts

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from detectctl.registry.reference import Artifact


def served_file(content: Mapping[str, str | None], reference: Artifact) -> str:
    """The path of the checkpoint or export that `reference` means; of OpenVINO's, that of its network.

    Args:
        content: path in the artifact → None where W&B has the file, else the address of the file elsewhere.
        reference: may name a path.

    Raises:
        ModelNotFound: it names a path that the artifact does not have.
        CheckpointRefused: there is none that is served, or no telling which, or W&B does not have all of it.
    """
    path = reference.checkpoint or choose_checkpoint(content, f"{reference.path}:{reference.alias}")
    if path not in content:
        raise ModelNotFound(
            f"W&B has no {reference}",
            why=f"the artifact has no file {path!r} ({_listing(content)})",
            hint=f"leave the path out, or name another: `--model '{reference.path}:{reference.alias}'`",
        )
    if kind := other_format(path):
        raise of_another_kind(kind, path)
    if path.endswith(".xml"):
        require_parts(path, content)
    elsewhere = next((part for part in files_of(path) if content[part] is not None), None)
    if elsewhere is not None:
        stored = [other for other in sorted(content) if other.endswith(".pt") and content[other] is None]
        offered = f"; or name another: `--model '{reference.path}:{reference.alias}#{stored[0]}'`" if stored else ""
        raise CheckpointRefused(
            f"{elsewhere} of {reference.path}:{reference.alias} is not stored in W&B",
            why=f"the artifact only points to {content[elsewhere]}, whose content no digest verifies",
            hint=f"log an artifact with the file itself{offered}",
        )
    return path


def choose_checkpoint(paths: Iterable[str], reference: str) -> str:
    """The path of the only `.pt`, or of `best.pt` where there are several; CheckpointRefused if that is not one.

    Where there is none, that of an export, in the order of `exports.SUFFIXES`.
    """
    paths = sorted(paths)
    by_suffix = {suffix: [path for path in paths if path.endswith(suffix)] for suffix in (".pt", *SUFFIXES)}
    by_suffix[".xml"] = networks(paths)
    checkpoints = next(filter(None, by_suffix.values()), [])
    if not checkpoints:
        if other := next((path for path in paths if other_format(path)), None):
            raise of_another_kind(other_format(other) or "", other)
        raise CheckpointRefused(
            f"{reference} has no model that is served",
            why=_listing(paths),
            hint="log an artifact with the .pt that Ultralytics saved, or an export to OpenVINO or ONNX",
        )
    best = [path for path in checkpoints if PurePosixPath(path).stem == "best"]
    for candidates in (checkpoints, best):
        if len(candidates) == 1:
            return candidates[0]
    raise CheckpointRefused(
        f"{reference} has {len(checkpoints)} checkpoints",
        why=_listing(checkpoints),
        hint=f"name one: `--model '{reference}#{(best or checkpoints)[0]}'`",
    )


def _listing(paths: Iterable[str]) -> str:
    there = sorted(paths)
    more = f" and {len(there) - 10} more" if len(there) > 10 else ""
    return f"it has {', '.join(there[:10]) or 'nothing'}{more}"
