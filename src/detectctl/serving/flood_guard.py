"""Aborts connections to servers that send framing instead of content.

HTTP lets a server repeat informational answers, chunk extensions and chunks of one byte for as long as it likes. Each
costs CPU in the event loop; measured with uvloop, a flood of `103 Early Hints` held the loop for 1.6 s at a time. No
limit of aiohttp's own covers this, so its protocol class is replaced by one that counts.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from aiohttp.client_proto import ResponseHandler

if TYPE_CHECKING:
    import asyncio

    import aiohttp

SLACK_BYTES = 512 * 1024
"""More than aiohttp buffers unparsed when its reader is slow, and more than headers may have."""


def hang_up_on_floods(connector: aiohttp.BaseConnector, loop: asyncio.AbstractEventLoop) -> None:
    """Let `connector` abort connections on which more than half of what arrives is not content."""
    factory: Any = functools.partial(_CountingHandler, loop=loop)
    # The one private name used here: aiohttp has no public one, and a test floods for real.
    connector._factory = factory


class _CountingHandler(ResponseHandler):
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._arrived = 0
        self._content: Any = None

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._arrived += len(data)
        content = self._content.total_bytes if self._content is not None else 0
        if self._arrived > 2 * content + SLACK_BYTES and self.transport is not None:
            self.transport.abort()

    def feed_data(self, data: Any, size: int = 0) -> None:
        message, content = data
        if message.code >= 200:
            self._arrived, self._content = 0, content
        super().feed_data(data, size)
