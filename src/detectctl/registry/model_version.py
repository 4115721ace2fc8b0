"""A pinned model: what a reference meant when it was resolved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from detectctl.wire import ModelInfo

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A reference resolved to a verified checkpoint in the store.

    Attributes:
        reference: what the user asked for, in canonical form.
        source: where the bytes came from.
        name: what answers call the model: `yolov8n`, a collection's name, a file's name without suffix.
        version: W&B's `vN`; None for base models and local files.
        sha256: hex digest of the checkpoint file.
        checkpoint: the file in the store.
        artifact: on W&B, exactly what is served: `entity/project/collection:vN#path/in/artifact.pt`.
        fallback: True if this is the base model in place of the asked-for one.
        stale: True if W&B could not be reached and this is what the reference last resolved to.
        reason: why it is a fallback or stale; else None.
    """

    reference: str
    source: Literal["base", "file", "wandb"]
    name: str
    version: str | None
    sha256: str
    checkpoint: Path
    artifact: str | None = None
    fallback: bool = False
    stale: bool = False
    reason: str | None = None

    @property
    def served(self) -> ModelInfo:
        """How answers name this model."""
        return ModelInfo(
            name=self.name,
            version=self.version,
            digest=f"sha256:{self.sha256}",
            fallback=self.fallback,
            stale=self.stale,
            reason=self.reason,
            reference=self.reference,
        )
