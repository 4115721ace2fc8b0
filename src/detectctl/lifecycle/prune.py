"""Remove from the store what no instance serves, while other commands may be changing just that."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from detectctl.engine.compiled import compiled_models
from detectctl.lifecycle.lock import locked
from detectctl.lifecycle.state import InstanceFolder, served_models
from detectctl.registry.base_names import DEFAULT_BASE
from detectctl.registry.base_weights import KNOWN
from detectctl.registry.store import Store

if TYPE_CHECKING:
    from collections.abc import Collection

    from detectctl.paths import Paths
    from detectctl.progress import Report
    from detectctl.registry.store import StoredCheckpoint


def unserved(paths: Paths) -> tuple[StoredCheckpoint, ...]:
    """What `prune` would remove if nothing changes meanwhile."""
    store = Store(paths.cache)
    keep = _needed(paths) | store.held()
    return tuple(stored for stored in store.list() if stored.sha256 not in keep)


def _needed(paths: Paths) -> frozenset[str]:
    """Sha256 of what instances serve or may go back to, and of YOLOv8n, which `up` falls back to without a network."""
    return frozenset(served_models(paths.state)) | {KNOWN[DEFAULT_BASE].sha256}


def prune(paths: Paths, agreed: Collection[str], *, timeout_s: float, report: Report) -> tuple[StoredCheckpoint, ...]:
    """Remove the unserved checkpoints with their compiled models, and return them.

    Args:
        paths: where state and models are.
        agreed: sha256 of those that may be removed; what has become unserved since they were named stays.
        timeout_s: how long to wait for a command that is changing an instance.
        report: called with the command that is waited for.

    Raises:
        DeadlineExceeded: it did not finish.
        ModelError: the store cannot be written.
    """
    with contextlib.ExitStack() as locks:
        # An `up` has its model in the store before any state names it, and holds its instance's lock meanwhile.
        for lock in sorted(paths.state.glob("*/lock")):
            folder = InstanceFolder(paths.state, lock.parent.name)
            locks.enter_context(locked(folder, "models --prune", timeout_s, report))
        store = Store(paths.cache)
        others = {stored.sha256 for stored in store.list()}.difference(agreed)
        return store.prune(_needed(paths) | others, derived=compiled_models(paths.cache))
