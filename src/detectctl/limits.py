"""The system's limits on what a command starts, looked at before it does: Ray and HAProxy fail late and obscurely."""

from __future__ import annotations

import contextlib
import os
import resource
from typing import TYPE_CHECKING

from detectctl.cgroups import pairs
from detectctl.errors import NotReady

if TYPE_CHECKING:
    from collections.abc import Iterator

_ENOUGH_FILES = 65_536  # what Ray's own drivers raise it to
_LEAST_FILES = 512
_OWN_FILES = 128  # of a process without connections: of HAProxy listeners and health checks, of Python libraries
MOST_CONNECTIONS = 4_096
"""Serve's own limit."""
# Measured with one replica on two cores: 275 threads, and 50 for the replica's successor. It starts with 1024 MiB, but
# with 900 the system does nothing but reclaim memory.
_LEAST_THREADS = 350
_LEAST_MEMORY = 1 << 30
SHARED_MEMORY = "/dev/shm"  # noqa: S108 - the system's own


def require() -> None:
    """NotReady if a service could not work within them."""
    require_open_files()
    require_threads()
    require_memory()


def set_soft() -> None:
    """As far as the hard ones, but no further than is of use; for this process and those that it starts.

    Many systems have a soft limit of 1024 open files for the sake of old programs, and Docker may have one of a
    thousand million, which others count through.
    """
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (_open_files(), hard))
    resource.setrlimit(resource.RLIMIT_NPROC, (_user_threads(), _user_threads()))


def connections() -> int:
    """How many HAProxy may have: each takes two sockets, and every fourth a pipe with two ends for the data between."""
    return min(MOST_CONNECTIONS, (_open_files() - _OWN_FILES) * 2 // 5)


def requests() -> int:
    """How many a client can have in flight: each takes a connection, perhaps a file, and for a moment a name lookup."""
    return max(1, (_open_files() - _OWN_FILES) // 3)


def may_share_memory() -> bool:
    """Whether Ray can have its object store where it usually does; if there is only little room, it looks elsewhere."""
    return os.access(SHARED_MEMORY, os.W_OK | os.X_OK)


def require_open_files() -> None:
    """NotReady if each process may have too few."""
    if _open_files() < _LEAST_FILES:
        raise NotReady(
            f"a process may have {_open_files()} files open, and the service needs {_LEAST_FILES}",
            why="that is the hard limit of `ulimit -n`",
            hint="raise it: `ulimit -Hn 4096` as root, `LimitNOFILE=4096` of systemd, `--ulimit nofile=4096` of Docker",
        )


def require_threads() -> None:
    """NotReady if too few may be started beside those that run."""
    allowed = [
        (most - now, f"its control group may have {most} (pids.max)")
        for most, now in pairs("pids", "pids.max", "pids.current")
    ]
    if os.getuid() != 0 and _user_threads() != resource.RLIM_INFINITY:
        allowed.append((_user_threads() - _threads_of_user(), f"this user may have {_user_threads()} (`ulimit -u`)"))
    left, why = min(allowed, default=(_LEAST_THREADS, ""))
    if left < _LEAST_THREADS:
        raise NotReady(
            f"{max(left, 0)} more threads may be started here, and the service needs {_LEAST_THREADS}",
            why=why,
            hint="raise it: `ulimit -Hu 4096` as root, `TasksMax=4096` of systemd, `--pids-limit 4096` of Docker",
        )


def require_memory(for_images: int = 0) -> None:
    """NotReady if there is too little; `for_images` are bytes for an image that is larger than usual."""
    least, why = memory()
    needed = _LEAST_MEMORY + for_images
    if least < needed:
        enough = (needed >> 30) + 1
        smaller = "lower `--max-image-pixels`, " if for_images else ""
        raise NotReady(
            f"{least >> 20} MiB of memory may be used here, and the service needs {needed >> 20}",
            why=why,
            hint=f"{smaller}end other programs, or raise the limit: "
            f"`MemoryMax={enough}G` of systemd, or `--memory {enough}g` of Docker",
        )


def memory() -> tuple[int, str]:
    """How many bytes a service may use, and what limits that."""
    import psutil  # here, because it takes time that commands without a service do not have

    free = psutil.virtual_memory().available + psutil.swap_memory().free
    allowed = [(limit, "that is the limit of its control group") for limit in _memory_limits()]
    return min([(free, "the machine has no more available"), *allowed])


def whole_memory() -> int:
    """How many bytes this process could use if nothing else did: the same at every time, unlike `memory`."""
    import psutil

    return min([psutil.virtual_memory().total, *_memory_limits()])


def _memory_limits() -> Iterator[int]:
    """Of the control groups."""
    for files in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
        yield from (limit for limit, _ in pairs("memory", *files))


def _open_files() -> int:
    """How many each process may have."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return _ENOUGH_FILES if hard == resource.RLIM_INFINITY else min(_ENOUGH_FILES, hard)  # infinity is -1


def _user_threads() -> int:
    """How many the user may have, on the whole machine."""
    return resource.getrlimit(resource.RLIMIT_NPROC)[1]


def _threads_of_user() -> int:
    import psutil

    count = 0
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            count += process.num_threads() if process.uids().real == os.getuid() else 0
    return count
