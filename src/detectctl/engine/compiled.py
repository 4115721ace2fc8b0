"""A compiled model on disk: what a replica needs to serve it, verified against its manifest."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from detectctl.errors import ModelCorrupt
from detectctl.wire import Agreement

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

MANIFEST = "manifest.json"
NETWORK = "model.xml"
WEIGHTS = "model.bin"


@dataclass(frozen=True, slots=True)
class CompiledModel:
    """An OpenVINO network with its labels.

    The network takes letterboxed RGB images, uint8 `(B, H, W, 3)`, H and W multiples of `stride`. Its float32 outputs
    are per anchor, level by level and row by row: `(B, 4 * bins, anchors)`, logits of the distances left, up, right and
    down in strides; `(B, classes, anchors)`, logits of the classes; `(B, anchors)`, the greatest of these.

    Attributes:
        directory: the folder that holds the network, its weights and the manifest.
        checkpoint_sha256: hex digest of the checkpoint it was made from.
        labels: the model's own name of each class id.
        strides: pixels between the anchors of each level.
        agreement: with the fp32 network that an int8 one was made of; None for that network itself.
    """

    directory: Path
    checkpoint_sha256: str
    labels: dict[int, str]
    strides: tuple[int, ...]
    agreement: Agreement | None = None

    @property
    def stride(self) -> int:
        """Pixels; height and width of an input are multiples of it."""
        return padding_stride(self.strides)

    @property
    def network(self) -> Path:
        """The IR's XML file; its weights lie beside it."""
        return self.directory / NETWORK


def write_manifest(
    directory: Path,
    *,
    checkpoint_sha256: str,
    labels: dict[int, str],
    strides: Sequence[int],
    agreement: Agreement | None = None,
) -> None:
    """Seal a folder that holds a network and its weights: from now on a changed byte is noticed."""
    manifest = {
        "checkpoint_sha256": checkpoint_sha256,
        "labels": {str(class_id): label for class_id, label in labels.items()},
        "strides": list(strides),
        "agreement": None if agreement is None else asdict(agreement),
        "files": {name: _sha256(directory / name) for name in (NETWORK, WEIGHTS)},
    }
    (directory / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def load_compiled(directory: Path, *, checkpoint_sha256: str) -> CompiledModel:
    """Read a sealed folder and verify every file in it.

    Raises:
        ModelCorrupt: a file is missing or changed, or the model was made from another checkpoint.
    """
    try:
        manifest: dict[str, Any] = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
        files = {name: manifest["files"][name] for name in (NETWORK, WEIGHTS)}
        agreement = manifest.get("agreement")
        model = CompiledModel(
            directory,
            manifest["checkpoint_sha256"],
            {int(class_id): str(label) for class_id, label in manifest["labels"].items()},
            tuple(int(stride) for stride in manifest["strides"]),
            None if agreement is None else Agreement(**agreement),
        )
        changed = [name for name, digest in files.items() if _sha256(directory / name) != digest]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _corrupt(directory, f"{type(error).__name__}: {error}") from error
    if changed:
        raise _corrupt(directory, f"{', '.join(changed)} changed since it was made")
    if model.checkpoint_sha256 != checkpoint_sha256:
        raise _corrupt(directory, f"it was made from the checkpoint {model.checkpoint_sha256}")
    return model


def read_agreement(directory: Path) -> Agreement | None:
    """That of an int8 model, for people to read: nothing is verified. None for other models, and where none is left."""
    try:
        agreement = json.loads((directory / MANIFEST).read_text(encoding="utf-8")).get("agreement")
        return None if agreement is None else Agreement(**agreement)
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def padding_stride(strides: Sequence[int]) -> int:
    """Ultralytics' predictor pads to multiples of at least 32, whatever smaller strides a head has."""
    return max(32, *strides)


def _corrupt(directory: Path, why: str) -> ModelCorrupt:
    return ModelCorrupt(
        f"the compiled model in {directory} is damaged",
        why=why,
        hint="run `detectctl up` again: it makes the compiled model anew",
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
