"""`down`: answer what was accepted, then end every process of the instance, and only those."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from detectctl.errors import DetectctlError
from detectctl.lifecycle.lock import locked
from detectctl.lifecycle.state import InstanceFolder, names
from detectctl.progress import Progress, Report
from detectctl.waiting import Deadline

if TYPE_CHECKING:
    from collections.abc import Iterator

    from detectctl.paths import Paths

_LOCK_GRACE_S = 15.0  # another command that is told to stop needs this long to clean up
_FORCED_LOCK_S = 3.0  # the system frees the lock of a dead process, so one that holds it longer is alive: it is named


@dataclass(frozen=True, slots=True)
class DownResult:
    """What `down` did.

    Attributes:
        action: `cleaned` if the host was dead already, `nothing` if there was no instance.
        drained: whether every accepted request was answered before the stop.
    """

    name: str
    action: Literal["stopped", "cleaned", "nothing"]
    drained: bool
    seconds: float


def down(folder: InstanceFolder, *, timeout_s: float, force: bool, report: Report) -> DownResult:
    """Take the instance down; it is not an error if there is none.

    Accepted requests may take `timeout_s`; `force` waits for none.

    Raises:
        DeadlineExceeded: another command held the instance's lock.
    """
    begun = time.monotonic()
    name = folder.name
    if not folder.exists():
        return DownResult(name, "nothing", drained=True, seconds=0.0)
    lock_s = _FORCED_LOCK_S if force else timeout_s + _LOCK_GRACE_S
    with locked(folder, "down", lock_s, report):
        state = folder.read()
        if state is None:
            return DownResult(name, "nothing", drained=True, seconds=time.monotonic() - begun)
        with state.open_host() as host:
            alive, drained = host.alive, False
            if alive and not force:
                report(Progress("drain", "waiting for accepted requests"))
                drained = host.drain(Deadline.after(timeout_s))
                done = "all accepted requests answered" if drained else "gave up waiting for accepted requests"
                report(Progress("drain", done, done=True))
            report(Progress("stop", "ending its processes"))
            host.stop()
        folder.forget()
        report(Progress("stop", f"removed instance {name}", done=True))
    return DownResult(name, "stopped" if alive else "cleaned", drained, time.monotonic() - begun)


def down_all(
    paths: Paths, *, timeout_s: float, force: bool, report: Report
) -> Iterator[tuple[str, DownResult | DetectctlError]]:
    """`down` for every instance, one after another: its name, and what was done or why that failed."""
    for name in names(paths.state):
        try:
            yield name, down(InstanceFolder(paths.state, name), timeout_s=timeout_s, force=force, report=report)
        except DetectctlError as error:
            yield name, error
