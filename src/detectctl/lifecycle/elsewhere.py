"""An instance that lives where this command sees none of its processes: it is left alone.

Machines may share a home folder over a network, and containers a volume. What tells that an instance lives is the lock
that its head holds on a file there: the kernel releases it when the head ends, in whichever container that was, and so
do servers of files for other machines. Some network file systems keep locks to each machine, so another machine's is
also believed to live while it touches that file.

A name alone says little: containers get another with each start, and many machines are called localhost.
"""

from __future__ import annotations

import contextlib
import fcntl
import socket
import time
from typing import TYPE_CHECKING

from detectctl import processes
from detectctl.errors import NotReady
from detectctl.hosts.cluster.place import ClusterPlace
from detectctl.hosts.local.keeper import HEARTBEAT_S

if TYPE_CHECKING:
    from pathlib import Path

    from detectctl.lifecycle.state import InstanceFolder, InstanceState

_SILENCE_S = 10 * HEARTBEAT_S
"""After which another machine's instance is dead: longer than clocks differ, and than files are cached."""


def this_machine() -> str:
    """Its name, for people."""
    return socket.gethostname()


def elsewhere(folder: InstanceFolder, state: InstanceState) -> str | None:
    """Where the instance lives, if that is not here: `host A`. None if it lives here, or nowhere."""
    place = state.place
    with state.open_host() as host:
        if isinstance(place, ClusterPlace) or host.alive:
            return None
    head = place.head
    same_name = state.machine in {"", this_machine()}
    same_kernel = head is not None and head.boot == processes.boot_id()
    if _is_locked(folder.alive_file):
        if (same_name or same_kernel) and processes.seen(place.instance_id):
            return None  # it is here, and its state says something else
    elif same_name or same_kernel:
        return None  # whoever had locked it has ended with the machine or the container
    elif max(_touched(folder.alive_file), _touched(folder.state_file)) < time.time() - _SILENCE_S:
        return None
    if state.machine == this_machine():
        return f"another machine, or in another container, that is called {state.machine}, too"
    return f"host {state.machine}"


def require_here(folder: InstanceFolder, state: InstanceState | None) -> None:
    """NotReady if the instance lives elsewhere."""
    where = None if state is None else elsewhere(folder, state)
    if where is not None:
        raise NotReady(
            f"instance {folder.name} runs on {where}",
            why=f"its state is in {folder.path}, which that machine or container has, too",
            hint="run this command there; for an instance of its own on this machine, choose another `--name`",
        )


def _is_locked(file: Path) -> bool:
    with contextlib.suppress(OSError), file.open("rb") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _touched(file: Path) -> float:
    with contextlib.suppress(OSError):
        return file.stat().st_mtime
    return 0.0
