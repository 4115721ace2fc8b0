"""Stores that hold a base model already, so that no test downloads one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from detectctl.files import sha256_of
from detectctl.registry.base_weights import KNOWN
from detectctl.registry.store import Origin, Store

if TYPE_CHECKING:
    from pathlib import Path


def import_base(file: Path, store: Store) -> None:
    """Put Ultralytics' own checkpoint into the store."""
    sha256 = sha256_of(file)
    name = next(name for name, known in KNOWN.items() if known.sha256 == sha256)
    store.copy(file, Origin(name), expected=sha256)
