"""A pinned model: what a reference means, once and for all."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from detectctl.wire import ModelInfo

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A reference resolved to a verified checkpoint in the store.

    Attributes:
        reference: what the user asked for, in its canonical form.
        source: which kind of place the bytes came from.
        name: what answers call the model: `yolov8n`, a collection's name, a file's name without suffix.
        version: W&B's `vN`; None for base models and local files.
        sha256: hex digest of the checkpoint file.
        checkpoint: the file in the store.
        size: bytes of the checkpoint file.
        artifact_digest: W&B's own digest of the artifact.
        aliases: the aliases this version had when it was resolved.
        metadata: what was logged with the artifact.
        artifact: on W&B, exactly what is served: `entity/project/collection:vN#path/in/artifact.pt`.
        source_version: for a registry link, the version in the project it was linked from.
        fallback: True if this is the base model in place of the asked-for one.
        stale: True if W&B could not be reached and this is what the reference last resolved to.
        reason: why it is a fallback or stale.
    """

    reference: str
    source: Literal["base", "file", "wandb"]
    name: str
    version: str | None
    sha256: str
    checkpoint: Path
    size: int
    artifact_digest: str | None = None
    aliases: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)
    artifact: str | None = None
    source_version: str | None = None
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
