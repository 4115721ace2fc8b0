"""What the head does for its instance's files while it lives, beside running Ray.

Cleaners remove what nobody has read or written for days from temporary folders, be it in use or not: systemd-tmpfiles,
tmpwatch, tmpreaper, a `find … -mtime +10 -delete` by cron. And other machines, which may have the same home folder, and
other containers see none of the head's processes, but that a file is locked, or was touched a moment ago.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

HEARTBEAT_S = 60.0
"""How often the file that says that the head lives is touched."""
TOUCH_EVERY_S = 3600.0
"""How often all that cleaners could remove is touched."""


def keep(folder: Path, alive_file: Path) -> None:
    """Until this process ends: keep `alive_file` locked and touched, and cleaners from its folder and from `folder`.

    Returns at once.
    """
    threading.Thread(target=_keep, args=(folder, alive_file), daemon=True).start()


def _keep(folder: Path, alive_file: Path) -> None:
    _lock(alive_file, os.O_RDWR | os.O_CREAT, fcntl.LOCK_EX)
    kept = (folder, alive_file.parent)  # somebody's state may be a temporary file, too
    for each in kept:
        _lock(each, os.O_RDONLY, fcntl.LOCK_SH)  # systemd-tmpfiles leaves alone what is below a locked folder
    touched = 0.0
    while True:
        _touch(str(alive_file))
        # By the clock on the wall: a machine that was asleep for days wakes with everything too old.
        if not 0 <= time.time() - touched < TOUCH_EVERY_S:
            touched = time.time()
            for parent, folders, files in itertools.chain.from_iterable(map(os.walk, kept)):
                for name in (".", *folders, *files):
                    _touch(os.path.join(parent, name))  # noqa: PTH118 - os.walk gives text
        time.sleep(HEARTBEAT_S)


def _lock(path: Path, flags: int, operation: int) -> None:
    """For as long as this process lives, and no longer, however it ends."""
    with contextlib.suppress(OSError):  # not every network's file system has locks
        fcntl.flock(os.open(path, flags | os.O_CLOEXEC, 0o600), operation)


def _touch(path: str) -> None:
    with contextlib.suppress(OSError):  # gone meanwhile, or not ours
        # What a log says without a time is as old as the log.
        written = os.stat(path).st_mtime_ns if ".log" in path.rpartition("/")[2] else time.time_ns()  # noqa: PTH116
        os.utime(path, ns=(time.time_ns(), written), follow_symlinks=False)
