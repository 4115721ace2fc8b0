"""`down`: answer what was accepted, then end every process of the instance, and only those."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from detectctl.hosts.local import ray_head
from detectctl.hosts.serve_rest import ServeApiError
from detectctl.lifecycle.deployment import empty_config
from detectctl.lifecycle.lock import locked
from detectctl.lifecycle.state import InstanceFolder, InstanceState
from detectctl.progress import Progress, Report

if TYPE_CHECKING:
    from detectctl.paths import Paths

_POLL_S = 0.1
_LOCK_GRACE_S = 15.0  # another command that is told to stop needs this long to clean up
_FORCED_LOCK_S = 3.0  # whoever still has the lock then lives, for the system frees that of the dead: he is named


@dataclass(frozen=True, slots=True)
class DownResult:
    """What `down` did.

    Attributes:
        name: of the instance.
        action: `stopped`, `cleaned` (the head was dead already) or `nothing` (there was none).
        drained: whether every accepted request was answered before the stop.
        seconds: it took.
    """

    name: str
    action: str
    drained: bool
    seconds: float


def down(name: str, paths: Paths, *, timeout_s: float, force: bool, report: Report) -> DownResult:
    """Answer what was accepted, then end every process of the instance, and only those.

    Args:
        name: of the instance; one that does not exist is no error.
        paths: where the state is.
        timeout_s: how long accepted requests may take.
        force: do not wait for requests.
        report: told what goes on.

    Raises:
        DeadlineExceeded: another command held the instance's lock.
    """
    begun = time.monotonic()
    folder = InstanceFolder(paths.state, name)
    if not folder.path.exists():
        return DownResult(name, "nothing", drained=True, seconds=0.0)
    patience_s = _FORCED_LOCK_S if force else timeout_s + _LOCK_GRACE_S
    with locked(folder, "down", patience_s, lambda who: report(Progress("lock", who, warning=True))):
        state = folder.read()
        if state is None:
            return DownResult(name, "nothing", drained=True, seconds=time.monotonic() - begun)
        alive = state.alive
        drained = False
        if alive and not force:
            report(Progress("drain", "waiting for accepted requests"))
            drained = _drain(state, time.monotonic() + timeout_s)
            report(Progress("drain", "every accepted request is answered" if drained else "gave up", done=True))
        report(Progress("stop", "Ray"))
        ray_head.of(state).stop()
        folder.forget()
        report(Progress("stop", f"instance {name} is gone", done=True))
    return DownResult(name, "stopped" if alive else "cleaned", drained, time.monotonic() - begun)


def _drain(state: InstanceState, deadline: float) -> bool:
    """Whether the application left before `deadline`: its replicas stop only after their last answer."""
    try:
        with ray_head.of(state).serve_api(deadline) as api:
            api.put(empty_config(state.host, state.port))
            while (status := api.status()).application or status.replicas:
                if time.monotonic() > deadline:
                    return False
                time.sleep(_POLL_S)
    except (ServeApiError, OSError):
        return False  # a head that does not answer has nothing left to finish
    return True
