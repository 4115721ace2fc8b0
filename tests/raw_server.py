"""Servers that say exactly what a test wants, in threads of their own, and remember all that reached them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import ssl
    from collections.abc import Sequence

Handler = Callable[[str, asyncio.StreamWriter], Awaitable[None]]
"""Answers one request, given its head; what it raises on a gone client is ignored."""


def answer(body: bytes = b"", status: str = "200 OK", headers: Sequence[str] = ()) -> bytes:
    """A whole HTTP/1.1 answer."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def always(data: bytes) -> Handler:
    """A handler that sends the same bytes each time."""

    async def handler(_head: str, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()

    return handler


class RawServer:
    """A server on loopback, at one random port on all of `hosts`; use it with `with`.

    Attributes:
        port: where it listens.
        requests: the head of each request, in order.
        connections: how many were accepted, even if nothing was sent on them.
        open_connections: how many the other side still holds.
        server_names: what TLS clients asked for by SNI.
    """

    def __init__(
        self, handler: Handler, *, hosts: Sequence[str] = ("127.0.0.1",), tls: ssl.SSLContext | None = None
    ) -> None:
        self._handler = handler
        self._tls = tls
        self._sockets = _bind(hosts)
        self.port: int = self._sockets[0].getsockname()[1]
        self.requests: list[str] = []
        self.connections = 0
        self.open_connections = 0
        self.server_names: list[str | None] = []
        if tls is not None:
            tls.sni_callback = lambda _socket, name, _context: self.server_names.append(name)
        self._loop = asyncio.SelectorEventLoop()  # whichever loop the test itself runs in
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._ready = threading.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        try:
            asyncio.set_event_loop(self._loop)
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        servers = [await asyncio.start_server(self._converse, sock=sock, ssl=self._tls) for sock in self._sockets]
        self._ready.set()
        await self._stop.wait()
        for server in servers:
            server.close()
        # In Python 3.11 nobody else ends the conversations under way.
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open_connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                self.requests.append(head)
                await self._handler(head, writer)
                if "connection: close" in head.lower() or writer.is_closing():
                    break
        except (OSError, asyncio.IncompleteReadError):
            pass  # the other side has gone, as many tests want it to
        finally:
            self.open_connections -= 1
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


def _bind(hosts: Sequence[str]) -> list[socket.socket]:
    for _ in range(20):
        sockets: list[socket.socket] = []
        port = 0
        try:
            for host in hosts:
                sockets.append(socket.create_server((host, port), family=_family(host), backlog=200))
                port = sockets[0].getsockname()[1]
        except OSError:  # somebody else has this port on another address
            for sock in sockets:
                sock.close()
        else:
            return sockets
    raise AssertionError("no port is free on all hosts")


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
