"""Only one command changes an instance at a time, and others can see which."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from detectctl.errors import DeadlineExceeded
from detectctl.processes import Process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from detectctl.lifecycle.state import InstanceFolder


@dataclass(frozen=True, slots=True)
class Holder:
    """The command that is changing an instance.

    Attributes:
        command: `up` or `down`.
        process: its own.
    """

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
def locked(folder: InstanceFolder, command: str, timeout_s: float, on_wait: Callable[[str], None]) -> Iterator[None]:
    """Hold the instance's lock; the system releases it when this process ends, however that happens.

    Args:
        folder: created if it does not exist.
        command: its name, for others to see.
        timeout_s: how long to wait.
        on_wait: told once who holds the lock, if another command does.

    Raises:
        DeadlineExceeded: another command held the lock for all of `timeout_s`; says which.
    """
    import filelock

    folder.create()
    lock = filelock.FileLock(folder.path / "lock", mode=0o600)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        on_wait(f"waiting for {holder(folder) or 'another command'}, which is changing instance {folder.name}")
        try:
            lock.acquire(timeout=timeout_s)
        except filelock.Timeout as error:
            raise DeadlineExceeded(
                f"instance {folder.name} is being changed by another command",
                why=f"{holder(folder) or 'another command'} has held its lock for more than {timeout_s:g} s",
                hint="wait for it, or stop it, then run this command again",
            ) from error
    note = folder.path / "lock-holder"
    try:
        with contextlib.suppress(OSError):  # the disk is full: others see less
            note.write_text(json.dumps({"command": command, "process": asdict(Process.of(os.getpid()))}))
        yield
    finally:
        note.unlink(missing_ok=True)
        lock.release()
