"""The system's limits on an instance, looked at before anything starts: Ray and HAProxy fail late and obscurely."""

from __future__ import annotations

import resource

from detectctl.errors import NotReady

_ENOUGH_FILES = 65_536  # more than anything here needs; some programs count through all that they may open
_LEAST_FILES = 512
_OWN_FILES = 128  # of a HAProxy without connections: listeners, health checks, those that it hands on to its successor
_MOST_CONNECTIONS = 4_096  # Serve's own limit


def require() -> None:
    """NotReady if an instance could not work within them."""
    require_open_files()


def raise_soft() -> None:
    """As far as the hard ones: many systems have a soft limit of 1024 open files for the sake of old programs.

    For this process and those that it starts.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, _open_files()), hard))


def connections() -> int:
    """How many HAProxy may have: each takes two sockets, and every fourth a pipe with two ends for the data between."""
    return min(_MOST_CONNECTIONS, (_open_files() - _OWN_FILES) * 2 // 5)


def _open_files() -> int:
    """How many each process of an instance may have."""
    return min(_ENOUGH_FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[1])


def require_open_files() -> None:
    """NotReady if each process may have too few."""
    if _open_files() < _LEAST_FILES:
        raise NotReady(
            f"a process may have {_open_files()} files open, and the service needs {_LEAST_FILES}",
            why="that is the hard limit of `ulimit -n`",
            hint="raise it: `ulimit -Hn 4096`, `LimitNOFILE=4096` of systemd, or `--ulimit nofile=4096` of Docker",
        )
