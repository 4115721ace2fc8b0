"""What keeps our packages on a cluster: an actor of the deployment, whose environment names them."""

from __future__ import annotations

from typing import Any

KEEPER = "keep"
"""Its name in the deployment."""


class Keeper:
    """It stays while the deployment does, also with no replica; Ray removes packages that no process needs."""


def keeper_class() -> Any:
    """As an actor of Ray."""
    import ray

    return ray.remote(Keeper)
