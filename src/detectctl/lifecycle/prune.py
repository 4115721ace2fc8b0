"""Remove from the store what no instance serves, while other commands may be changing just that."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from detectctl.lifecycle.lock import locked
from detectctl.lifecycle.state import InstanceFolder, served_models
from detectctl.registry import collection

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from detectctl.paths import Paths
    from detectctl.registry.store import StoredCheckpoint


def unserved(paths: Paths) -> tuple[StoredCheckpoint, ...]:
    """What `prune` would remove if nothing changes meanwhile."""
    return collection.unserved(paths.cache, served=served_models(paths.state))


def prune(
    paths: Paths, agreed: Collection[str], *, timeout_s: float, on_wait: Callable[[str], None]
) -> tuple[StoredCheckpoint, ...]:
    """Remove the unserved checkpoints with their compiled models, and return them.

    Args:
        paths: where state and models are.
        agreed: sha256 of those that may go; what else has become unserved since they were named stays.
        timeout_s: how long to wait for a command that changes an instance.
        on_wait: told who that is.

    Raises:
        DeadlineExceeded: such a command did not finish.
        ModelError: the store cannot be written.
    """
    with contextlib.ExitStack() as locks:
        # An `up` has its model in the store before any state names it, and holds its instance's lock meanwhile.
        for lock in sorted(paths.state.glob("*/lock")):
            locks.enter_context(
                locked(InstanceFolder(paths.state, lock.parent.name), "models --prune", timeout_s, on_wait)
            )
        others = {stored.sha256 for stored in collection.unserved(paths.cache, served=())}.difference(agreed)
        return collection.prune(paths.cache, served=others.union(served_models(paths.state)))
