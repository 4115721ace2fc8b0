"""How many replicas a machine needs: so many that no interpreter's lock holds up its cores, and no more."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from detectctl.values import Replicas

LOCK_SHARE = 0.125
"""Of a request's CPU time, the part for which it holds its replica's interpreter lock: see docs/performance.md."""
_MOST_LOCKED = 0.5  # of the time; a lock that is held for longer makes requests wait for it
_REPLICA_BYTES = 1 << 30  # a replica and its successor, which stand side by side while `up` replaces one by the other
_OTHER_BYTES = 1 << 30  # Ray, HAProxy, and images while they are decoded


@dataclass(frozen=True, slots=True)
class Size:
    """How many replicas a service may have, and how many images each works on at a time.

    Attributes:
        streams: images that each works on at a time; None where it is not the cores that do.
        why: the choice, in a phrase; empty if it was not ours.
    """

    minimum: int
    maximum: int
    streams: int | None
    why: str = ""


def size(replicas: Replicas | None, cores: int | None, memory: int) -> Size:
    """As somebody asked for, or, for None, what fits so many CPUs and bytes.

    Without `cores` there are none to share out: the GPU computes, or each replica has CPUs of its own.
    """
    if cores is None:
        return Size(1, 2, None, "a second one helps under load") if replicas is None else _asked_for(replicas, None)
    if replicas is None:
        return chosen(cores, memory)
    # The fewest that may run have all cores between them, for there may never be more.
    return _asked_for(replicas, _share(cores, max(1, replicas.minimum)))


def chosen(cores: int, memory: int, lock_share: float = LOCK_SHARE) -> Size:
    """One replica, and more under load if the lock of one would hold up some of the cores."""
    wanted = math.ceil(cores / max(1, int(_MOST_LOCKED / lock_share)))
    room = max(1, (memory - _OTHER_BYTES) // _REPLICA_BYTES)
    maximum = min(wanted, room)
    streams = _share(cores, maximum)
    if room < wanted:
        why = f"{memory / 2**30:.1f} GiB of memory hold no more"
    elif maximum == 1:
        why = f"one keeps {_counted(cores)} busy"
    else:
        why = f"each keeps {streams} of {_counted(cores)} busy"
    return Size(1, maximum, streams, why)


def _asked_for(replicas: Replicas, streams: int | None) -> Size:
    return Size(replicas.minimum, replicas.maximum, streams)


def _share(cores: int, replicas: int) -> int:
    return math.ceil(cores / replicas)


def _counted(cores: int) -> str:
    return "1 core" if cores == 1 else f"{cores} cores"
