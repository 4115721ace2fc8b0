"""Only one command changes an instance at a time, and others can see which."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from detectctl import files
from detectctl.errors import DeadlineExceeded, NotReady
from detectctl.files import reason, remedy
from detectctl.lifecycle.elsewhere import require_here
from detectctl.processes import Process
from detectctl.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Iterator

    from detectctl.lifecycle.state import InstanceFolder
    from detectctl.progress import Report


@dataclass(frozen=True, slots=True)
class Holder:
    """The command that is changing an instance, such as `up`, and its process."""

    command: str
    process: Process

    def __str__(self) -> str:
        return f"detectctl {self.command}, process {self.process.pid}"


def holder(folder: InstanceFolder) -> Holder | None:
    """The command that is changing the instance now; None if there is none, or if it died."""
    try:
        data = json.loads((folder.path / "lock-holder").read_text())
        found = Holder(data["command"], Process(**data["process"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if found.process.find() is not None else None


@contextlib.contextmanager
def locked(folder: InstanceFolder, command: str, timeout_s: float, report: Report) -> Iterator[None]:
    """Hold the instance's lock; the system releases it when this process ends, however that happens.

    The folder is created if it does not exist. Others see the name of `command`; `report` is called with the holder
    if another command has the lock.

    Raises:
        DeadlineExceeded: another command held it for all of `timeout_s`; says which.
        NotReady: the instance lives on another machine, and nothing of it has been touched; or the folder cannot be
            locked.
    """
    import filelock

    folder.create()
    lock = files.lock(folder.path / "lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        held_by = holder(folder) or "another command"
        waiting = f"waiting for {held_by}, which is changing instance {folder.name}"
        report(Progress("lock", waiting, warning=True))
        try:
            lock.acquire(timeout=timeout_s)
        except filelock.Timeout as error:
            raise DeadlineExceeded(
                f"instance {folder.name} is being changed by another command",
                why=f"{holder(folder) or 'another command'} has held its lock for more than {timeout_s:g} s",
                hint="wait for it, or stop it, then run this command again",
            ) from error
    except OSError as error:
        raise NotReady(
            f"instance {folder.name} cannot be locked",
            why=f"{reason(error)}: {folder.path}",
            hint=remedy(error, folder.path, "XDG_STATE_HOME"),
        ) from error
    note = folder.path / "lock-holder"
    try:
        require_here(folder, folder.read())
        with contextlib.suppress(OSError):  # the disk is full: others see less
            note.write_text(json.dumps({"command": command, "process": asdict(Process.of(os.getpid()))}))
        yield
    finally:
        note.unlink(missing_ok=True)
        lock.release()
