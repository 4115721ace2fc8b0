"""The versions of a W&B collection beside what of them is in the store, and freeing the store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from detectctl.errors import UsageError
from detectctl.registry import wandb
from detectctl.registry.base import KNOWN
from detectctl.registry.reference import DEFAULT_BASE, Artifact, parse
from detectctl.registry.store import Store, StoredCheckpoint

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class CollectionVersion:
    """One version of a collection.

    Attributes:
        version: `vN`.
        aliases: what points to it now.
        created: ISO 8601, as W&B gives it.
        size: bytes of the whole artifact.
        digest: W&B's digest of the artifact.
        sha256: of its checkpoint in the store; None if it is not there.
    """

    version: str
    aliases: tuple[str, ...]
    created: str
    size: int
    digest: str
    sha256: str | None

    @property
    def stored(self) -> bool:
        """Whether its checkpoint is in the store."""
        return self.sha256 is not None


def versions(
    reference: str, *, cache: Path, environ: Mapping[str, str], timeout_s: float = 60
) -> tuple[CollectionVersion, ...]:
    """All versions of the collection that `reference` points into, newest first.

    Raises:
        UsageError: it is no W&B reference.
        RegistryUnreachable, ModelNotFound, ModelAccessDenied, ModelError: as `wandb.fetch`.
    """
    wanted = parse(reference)
    if not isinstance(wanted, Artifact):
        raise UsageError(
            f"{reference!r} has no versions",
            why="only W&B collections have",
            hint="detectctl models entity/project/name",
        )
    store = Store(cache)
    artifact, listed = wandb.list_versions(wanted, store, environ=environ, timeout_s=timeout_s)
    there = {
        (origin.version, origin.artifact_digest): stored.sha256
        for stored in store.list()
        for origin in stored.origins
        if origin.artifact == artifact and wanted.checkpoint in {None, origin.member}
    }
    return tuple(
        CollectionVersion(
            version=item["version"],
            aliases=tuple(item["aliases"]),
            created=item["created"],
            size=item["size"],
            digest=item["digest"],
            sha256=there.get((item["version"], item["digest"])),
        )
        for item in listed
    )


def unserved(cache: Path, *, served: Collection[str]) -> tuple[StoredCheckpoint, ...]:
    """The checkpoints that `prune` would remove.

    Args:
        cache: detectctl's cache folder.
        served: sha256 of the checkpoints that instances serve or may go back to.
    """
    keep = _keep(served)
    return tuple(stored for stored in Store(cache).list() if stored.sha256 not in keep)


def prune(cache: Path, *, served: Collection[str]) -> tuple[StoredCheckpoint, ...]:
    """Remove the unserved checkpoints with their compiled models, and return them.

    The base YOLOv8n stays: it is what `up` falls back to when nothing can be downloaded.

    Raises:
        ModelError: the store cannot be written.
    """
    return Store(cache).prune(_keep(served))


def _keep(served: Collection[str]) -> frozenset[str]:
    return frozenset(served) | {KNOWN[DEFAULT_BASE].sha256}
