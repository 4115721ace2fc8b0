"""An actor of a deployment on a cluster, on the head: it keeps our packages, and what the replicas have counted.

Serve's controller gets the class by value, and has nothing of ours: only its methods may name other modules of ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detectctl.serving.tally import Content

KEEPER = "keep"
"""Its name in the deployment."""


class Keeper:
    """It stays while the deployment does, also with no replica; Ray removes packages that no process needs.

    Each version of the code has one of its own, and for the length of an update there are two.
    """

    def __init__(self) -> None:
        from ray import serve

        from detectctl.serving.collected import counters_file
        from detectctl.serving.collector import Collector

        self._collector = Collector(counters_file(serve.get_deployment_actor_context().app_name))

    async def note(self, replica: str, content: Content) -> None:
        """See `Collector.note`."""
        await self._collector.note(replica, content)

    async def all(self, replica: str, content: Content) -> list[Content]:
        """See `Collector.all`."""
        return await self._collector.all(replica, content)


def keeper_class() -> Any:
    """As an actor of Ray."""
    import ray

    return ray.remote(Keeper)
