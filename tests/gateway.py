"""A machine in front of a cluster, through which everybody reaches it: TLS to its dashboard, its ingress as it is."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
from typing import TYPE_CHECKING, Self

from ray_cluster import DASHBOARD, INGRESS

if TYPE_CHECKING:
    import ssl

    from ray_cluster import RayCluster

HOST = "10.77.0.254"
"""The lan's own address; see `ray_nodes`."""
_PORT = 8443


class Gateway:
    """From `with` to the end of its block.

    Attributes:
        address: of the dashboard.
        requests: bytes that callers sent to the dashboard, decrypted.
    """

    address = f"https://{HOST}:{_PORT}"

    def __init__(self, nodes: RayCluster, tls: ssl.SSLContext) -> None:
        self._nodes = nodes
        self._tls = tls
        self._doors: dict[int, _Door] = {}
        self.requests = bytearray()

    def __enter__(self) -> Self:
        self.open_dashboard()
        self._open(INGRESS, INGRESS, None)
        return self

    def __exit__(self, *_: object) -> None:
        for door in self._doors.values():
            door.close()

    def open_dashboard(self) -> None:
        """Let callers through to it; also after `close_dashboard`."""
        self._open(_PORT, DASHBOARD, self._tls)

    def close_dashboard(self) -> None:
        """Refuse connections to it, and end those that there are; requests to the service go on."""
        self._doors.pop(_PORT).close()

    def _open(self, port: int, to: int, tls: ssl.SSLContext | None) -> None:
        target = self._nodes.url("", port=to).removeprefix("http://").rpartition(":")
        self._doors[port] = self._nodes.inside(_Door, port, (target[0], int(target[2])), tls, self.requests)


class _Door(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, port: int, to: tuple[str, int], tls: ssl.SSLContext | None, requests: bytearray) -> None:
        super().__init__((HOST, port), _Passage)
        self.to, self.tls, self.requests = to, tls, requests
        self.open: set[socket.socket] = set()
        # Whoever starts this is in the lan, and so is what its threads open.
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def close(self) -> None:
        self.shutdown()
        self.server_close()
        for connection in list(self.open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._thread.join()

    def handle_error(self, *_: object) -> None:
        """A caller who hangs up, or does not trust us, is none."""


class _Passage(socketserver.BaseRequestHandler):
    server: _Door

    def handle(self) -> None:
        caller, door = self.request, self.server
        if door.tls is not None:
            caller = door.tls.wrap_socket(caller, server_side=True)
        with caller, socket.create_connection(door.to) as target:
            door.open |= {caller, target}
            back = threading.Thread(target=self._copy, args=(target, caller))
            back.start()
            self._copy(caller, target, door.requests if door.tls is not None else None)
            back.join()
            door.open -= {caller, target}

    def _copy(self, source: socket.socket, sink: socket.socket, seen: bytearray | None = None) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(2**16):
                if seen is not None:
                    seen += data
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)
