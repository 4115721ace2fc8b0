"""The versions of a W&B collection, with what of them is stored and served here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from detectctl.errors import UsageError
from detectctl.registry import wandb_source
from detectctl.registry.reference import Artifact, parse
from detectctl.registry.store import Store

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class CollectionVersion:
    """One version of a collection, `vN`.

    Attributes:
        aliases: those that point to it now.
        created: ISO 8601, as W&B gives it.
        size: of the whole artifact, in bytes.
        digest: W&B's digest of the artifact.
        checkpoints: those of its checkpoints that are stored: path in the artifact → sha256.
        served: names of the instances that serve it, or None.
    """

    version: str
    aliases: tuple[str, ...]
    created: str
    size: int
    digest: str
    checkpoints: Mapping[str, str]
    served: str | None

    @property
    def stored(self) -> bool:
        """Whether one of its checkpoints is stored."""
        return bool(self.checkpoints)


def versions(
    reference: str,
    *,
    cache: Path,
    environ: Mapping[str, str],
    timeout_s: float,
    served: Mapping[str, str] | None = None,
) -> tuple[CollectionVersion, ...]:
    """All versions of the collection that `reference` points into, newest first.

    Of a reference with a path after `#`, only that checkpoint counts as stored or served. `timeout_s`, in seconds, is
    for W&B's answer. `served` maps a `ModelVersion.artifact` to the names of the instances that serve it.

    Raises:
        UsageError: it is not a W&B reference.
        ModelError: as `wandb_source.fetch`.
    """
    wanted = parse(reference)
    if not isinstance(wanted, Artifact):
        raise UsageError(
            f"{reference!r} has no versions",
            why="only W&B collections have versions",
            hint="list a collection: `detectctl models ENTITY/PROJECT/NAME`",
        )
    store = Store(cache)
    artifact, listed = wandb_source.list_versions(wanted, store, environ=environ, timeout_s=timeout_s)
    there: dict[tuple[str | None, str | None], dict[str, str]] = {}
    for stored in store.list():
        for origin in stored.origins:
            if origin.artifact == artifact and wanted.checkpoint in {None, origin.member}:
                found = there.setdefault((origin.version, origin.artifact_digest), {})
                found[origin.member or ""] = stored.sha256
    return tuple(
        CollectionVersion(
            **item | {"aliases": tuple(item["aliases"])},
            checkpoints=there.get((item["version"], item["digest"]), {}),
            served=_served(f"{artifact}:{item['version']}", wanted.checkpoint, served or {}),
        )
        for item in listed
    )


def _served(version: str, checkpoint: str | None, served: Mapping[str, str]) -> str | None:
    names = set()
    for artifact, instances in served.items():
        its_version, _, member = artifact.partition("#")
        if its_version == version and checkpoint in {None, member}:
            names.update(instances.split(", "))
    return ", ".join(sorted(names)) or None
