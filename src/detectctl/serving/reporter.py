"""How a replica on a cluster tells the keeper on the head what it has counted, and hears of the others."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING, Any

import psutil

from detectctl.errors import Unavailable
from detectctl.processes import used
from detectctl.serving.package_keeper import KEEPER
from detectctl.waiting import Deadline

if TYPE_CHECKING:
    from detectctl.serving.tally import Content, Tally

_PAUSE_S = 1.0
_RETRY_S = 0.2
_ALL_S = 8.0
"""Serve starts a keeper that was killed again within 5 to 10 s; Prometheus waits for 10."""
_LAST_S = 2.0


class Reporter:
    """Tells as long as it runs; no request waits for it, and none fails when there is no keeper.

    Args:
        replica: its id.
    """

    def __init__(self, replica: str) -> None:
        self.replica = replica
        self._process = psutil.Process(os.getpid())
        self._keeper: Any = None
        self._task: asyncio.Task[None] | None = None

    def start(self, tally: Tally) -> None:
        """Begin to tell, in the event loop that changes the tally."""
        self._tally = tally
        self._task = asyncio.create_task(self._tell())

    async def close(self) -> None:
        """Tell for the last time."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(*_failures()):
                await asyncio.wait_for(self._ask("all", last=True), _LAST_S)

    async def all(self) -> list[Content]:
        """What all replicas have counted, this one too.

        Raises:
            Unavailable: the keeper does not answer.
        """
        deadline = Deadline.after(_ALL_S)
        while True:
            with contextlib.suppress(*_failures()):
                found: list[Content] = await asyncio.wait_for(self._ask("all"), deadline.left_s)
                return found
            if deadline.passed:
                raise Unavailable(
                    "what all replicas have counted is not known now",
                    why="the actor on the head that collects it does not answer",
                    hint="try again; `detectctl status` says whether the cluster is well",
                )
            await asyncio.sleep(_RETRY_S)

    async def _tell(self) -> None:
        while True:
            try:
                await self._ask("note")  # which takes a second
            except _failures():
                await asyncio.sleep(_PAUSE_S)

    async def _ask(self, method: str, *, last: bool = False) -> Any:
        if self._keeper is None:
            from ray import serve

            self._keeper = await asyncio.to_thread(serve.get_deployment_actor, KEEPER)
        keeper = self._keeper
        try:
            return await getattr(keeper, method).remote(self.replica, self._content(last=last))
        except _failures():
            if self._keeper is keeper:
                self._keeper = None  # Serve starts another
            raise

    def _content(self, *, last: bool) -> Content:
        return {} if last else {**self._tally.about, "used": used(self._process)}, self._tally.values


def _failures() -> tuple[type[BaseException], ...]:
    import ray

    return (ray.exceptions.RayError, ValueError, TimeoutError)
