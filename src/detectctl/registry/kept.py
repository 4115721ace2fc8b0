"""What the store keeps, by the names that it came by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from detectctl.registry.base_weights import kept_bases
from detectctl.registry.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class KeptModel:
    """A stored checkpoint under one of its names.

    Attributes:
        model: what `--model` takes for it; of a local file only its name without suffix.
        size: in bytes.
        digest: `sha256:` and the hex SHA-256 of the checkpoint.
        served: names of the instances that serve it, or None.
    """

    model: str
    source: Literal["base", "file", "wandb"]
    size: int
    digest: str
    served: str | None


def kept_models(cache: Path, served: Mapping[str, str]) -> tuple[KeptModel, ...]:
    """All that is stored, unverified, base models first; `served` maps digests to the names of instances.

    Raises:
        ModelError: the store cannot be read.
    """
    return tuple(sorted(_kept(Store(cache), served), key=lambda one: (one.source, one.model)))


def _kept(store: Store, served: Mapping[str, str]) -> Iterator[KeptModel]:
    bases = kept_bases(store)
    for stored in store.list():
        digest = f"sha256:{stored.sha256}"
        about = stored.size, digest, served.get(digest)
        names = [name for name, sha256 in bases.items() if sha256 == stored.sha256]
        yield from (KeptModel(name, "base", *about) for name in names)
        for origin in stored.origins:
            if origin.artifact is not None:
                yield KeptModel(f"{origin.artifact}:{origin.version}#{origin.member}", "wandb", *about)
            elif origin.name not in names:
                yield KeptModel(origin.name, "file", *about)
