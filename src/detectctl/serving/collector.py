"""Where replicas on a cluster bring what they have counted: a process on the head."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING

from detectctl.files import reason
from detectctl.serving import collected
from detectctl.serving.collected import Collected, Heard
from detectctl.serving.request_log import LOGGER

if TYPE_CHECKING:
    from pathlib import Path

    from detectctl.serving.tally import Content

_TURN_S = 1.0
_CALL_IN_S = 0.5
_IDLE_WRITE_S = collected.LIVING_S * 2 / 3

logger = logging.getLogger(LOGGER)


class Collector:
    """Keeps it in a file, which others like it may share.

    Args:
        file: in a folder that is there.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._known = Collected()
        self._news: dict[str, Heard] = {}  # since the file was written
        self._changed = False
        self._written = 0.0
        self._turns: dict[str, asyncio.Event] = {}
        self._next: dict[str, asyncio.Event] = {}  # set when the replica says something again
        self._failed = False

    async def note(self, replica: str, content: Content) -> None:
        """Take in what a replica has counted so far; returns after a second, or as soon as somebody asks for all."""
        self._take(replica, content)
        turn = self._turns[replica] = asyncio.Event()
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_TURN_S):
                    await turn.wait()
        finally:
            if self._turns.get(replica) is turn:
                del self._turns[replica]
        if time.monotonic() - self._written > (_TURN_S if self._changed else _IDLE_WRITE_S):
            self._write()

    async def all(self, replica: str, content: Content) -> list[Content]:
        """What all replicas have counted, with the last word of each; in the file by now."""
        self._take(replica, content)
        for turn in self._turns.values():
            turn.set()
        answers = [self._next.setdefault(other, asyncio.Event()) for other in self._turns]
        with contextlib.suppress(TimeoutError):  # one that has just been killed says no more
            async with asyncio.timeout(_CALL_IN_S):
                for answer in answers:
                    await answer.wait()
        self._write()
        return self._known.contents(time.time())

    def _take(self, replica: str, content: Content) -> None:
        about, values = content
        before = self._news.get(replica) or self._known.replicas.get(replica)
        self._changed = self._changed or before is None or before.values != values
        self._news[replica] = Heard(time.time(), about, values)
        self._next.pop(replica, asyncio.Event()).set()

    def _write(self) -> None:
        self._written = time.monotonic()
        try:
            self._known = collected.update(self._file, self._news, self._turns)
        except OSError as error:  # it costs figures, not answers
            self._known.add(self._news, self._turns, time.time())
            if not self._failed:
                logger.warning("the counters could not be written to %s: %s", self._file, reason(error))
            self._failed = True
        else:
            self._news, self._changed, self._failed = {}, False, False
