"""Ports of an instance: free ones for inside Ray, and whether the service's own is free."""

from __future__ import annotations

import contextlib
import errno
import itertools
import random
import socket
from dataclasses import dataclass, fields

from detectctl.errors import NotReady, PortTaken, UsageError


@dataclass(frozen=True, slots=True)
class Ports:
    """The ports inside an instance; each instance has its own, so that several can run side by side."""

    gcs: int
    dashboard: int
    dashboard_agent: int
    dashboard_metrics: int
    haproxy_stats: int
    haproxy_metrics: int
    fallback_http: int
    fallback_grpc: int


# Below those that systems lend to outgoing connections (from 32768 on Linux), one of which could take a port in the
# seconds until Ray opens it; and between the ranges that Ray (10002 to 19999) and Serve (from 30000) have for workers.
_LOWEST, _HIGHEST = 20_000, 29_999
_reservations: list[int] = []  # file descriptors, so that nothing closes them early


def choose(taken: int | None = None) -> Ports:
    """Ports that are free now, all different, which no other `up` will choose while this process lives.

    `taken`: the service's own, which is free until Serve opens it. NotReady if there are not enough.
    """
    candidates = random.sample(range(_LOWEST, _HIGHEST + 1), 1000)
    usable = (port for port in candidates if port != taken and _is_free(port))
    free = list(itertools.islice(usable, len(fields(Ports))))
    if len(free) < len(fields(Ports)):
        raise NotReady(
            f"nearly all ports from {_LOWEST} to {_HIGHEST} are taken",
            why=f"an instance needs {len(fields(Ports))} of them",
            hint="see which processes listen there: `ss -ltnp`",
        )
    return Ports(*free)


def _is_free(port: int) -> bool:
    # An abstract socket of this name reserves the port until this process ends, because Ray opens it seconds later and
    # another `up` must not choose it meanwhile. It is seen as far as the port is: in this network namespace.
    reservation = socket.socket(socket.AF_UNIX)
    with contextlib.suppress(OSError), socket.socket() as probe:
        reservation.bind(f"\0detectctl-port-{port}")
        probe.bind(("127.0.0.1", port))
        _reservations.append(reservation.detach())
        return True
    reservation.close()
    return False


def require_free(host: str, port: int) -> None:
    """Check before anything starts that the service can listen.

    Serve binds with SO_REUSEPORT: a second service on a taken port would silently get half of the requests.

    Raises:
        PortTaken: another process listens there.
        UsageError: `host` is not an address of this machine.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # closed connections do not count
            probe.bind(address)
    except PermissionError as error:
        raise UsageError(
            f"port {port} cannot be opened by this user",
            why="ports below 1024 are reserved for root",
            hint="choose another with `--port`",
        ) from error
    except OSError as error:  # also a name that is unknown
        if error.errno == errno.EADDRINUSE:
            raise PortTaken(
                f"port {port} on {host} is taken",
                why=_listener(port) or "another process listens there",
                hint="choose another with `--port`; `detectctl status --all` lists your services",
            ) from error
        raise UsageError(
            f"--host {host} is not an address of this machine",
            why=str(error.strerror),
            hint="list the addresses: `ip -brief address`",
        ) from error


def _listener(port: int) -> str | None:
    import psutil

    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            listens = connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,)
            if listens and connection.pid:
                return f"{psutil.Process(connection.pid).name()} (process {connection.pid}) listens there"
    return None
