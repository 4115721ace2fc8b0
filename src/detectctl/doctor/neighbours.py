"""What else is on the machine: other Ray clusters, and what dead instances left behind."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
from typing import TYPE_CHECKING

import psutil

from detectctl import processes
from detectctl.doctor.finding import Finding, Subject, ok, warning
from detectctl.errors import DetectctlError
from detectctl.hosts.cluster.place import ClusterPlace
from detectctl.hosts.local.keeper import TOUCH_EVERY_S
from detectctl.hosts.local.ray_head import FOLDER_PREFIX, temporary_parent
from detectctl.lifecycle.elsewhere import elsewhere
from detectctl.lifecycle.lock import holder
from detectctl.lifecycle.state import InstanceFolder, names

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_RAY = ("gcs_server", "raylet")
_UNUSED_S = 2 * TOUCH_EVERY_S
"""After which a folder is not in use where there are no locks, nor that of an `up` which has just begun."""


def ray_clusters(_subject: Subject) -> Iterator[Finding]:
    """Those that are not of an instance."""
    others = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.name() in _RAY and not _is_ours(process):
                others.append(f"{process.name()} {process.pid} of {process.username()}")
    if others:
        yield warning(
            f"another Ray cluster runs here, and takes its share of CPU and memory: {', '.join(others)}",
            "leave it if it is needed, and never use `ray stop`: that would end your services, too",
        )
    else:
        yield ok("no other cluster runs here")


def _is_ours(process: psutil.Process) -> bool:
    with contextlib.suppress(OSError):  # another user's
        return processes.mark_of(process) is not None
    return False


def leftovers(subject: Subject) -> Iterator[Finding]:
    """Instances that died, and folders that nobody uses."""
    found, known = [], set()
    for name in names(subject.paths.state):
        folder = InstanceFolder(subject.paths.state, name)
        try:
            state = folder.read()
        except DetectctlError as error:
            found.append(Finding.of(error))
            continue
        if state is None:
            continue
        if isinstance(state.place, ClusterPlace):  # nothing of it is on this machine
            continue
        known.add(state.place.temp_dir)
        with state.open_host() as host:
            if host.alive or holder(folder) is not None or elsewhere(folder, state) is not None:
                continue
        left = processes.family(state.place.instance_id, state.place.head, state.place.temp_dir)
        still = f", and {len(left)} of its processes still run" if left else ""
        found.append(warning(f"instance {name} died{still}", f"clean up: `detectctl down --name {name}`"))
    unused = [folder for folder in _folders(temporary_parent(subject.variables)) if folder not in known]
    if unused:
        listed = " ".join(map(str, unused[:3])) + (" …" if len(unused) > 3 else "")
        found.append(
            warning(f"nobody uses these folders of former instances: {listed}", f"remove them: `rm -r {listed}`")
        )
    yield from found or [ok("nothing was left behind")]


def _folders(parent: Path) -> Iterator[Path]:
    """This user's folders of instances that no process has locked."""
    for folder in parent.glob(f"{FOLDER_PREFIX}*"):
        with contextlib.suppress(OSError):
            seen = folder.stat()
            pattern = rf"{FOLDER_PREFIX}[0-9a-f]{{8}}"
            mine = re.fullmatch(pattern, folder.name) and seen.st_uid == os.getuid()
            if mine and time.time() - seen.st_mtime > _UNUSED_S and not _is_locked(folder):
                yield folder


def _is_locked(folder: Path) -> bool:
    opened = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(opened)
    return False
