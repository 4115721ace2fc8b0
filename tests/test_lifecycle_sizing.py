"""What `--replicas auto` chooses, and how many images a replica works on at a time."""

from __future__ import annotations

import pytest

from detectctl.lifecycle.sizing import LOCK_SHARE, Size, chosen, size
from detectctl.values import Replicas

_MUCH = 1 << 40


def _chosen(cores: int) -> Size:
    return chosen(cores, _MUCH)


@pytest.mark.parametrize("cores", range(1, 257))
def test_auto_leaves_no_core_idle_crowds_none_and_keeps_locks_free(cores: int) -> None:
    """At the maximum; a remainder is rounded up, by less than one image for each replica."""
    found = _chosen(cores)
    assert found.streams is not None
    assert cores <= found.maximum * found.streams < cores + found.maximum
    assert found.streams * LOCK_SHARE <= 0.5
    assert found.minimum == 1


def test_a_cheaper_network_needs_more_replicas_for_the_same_cores() -> None:
    assert chosen(16, _MUCH, lock_share=0.25).maximum == 8
    assert chosen(16, _MUCH, lock_share=2).maximum == 16


def test_auto_says_why() -> None:
    assert _chosen(1).why == "one keeps 1 core busy"
    assert _chosen(2) == Size(1, 1, 2, "one keeps 2 cores busy")
    assert _chosen(16) == Size(1, 4, 4, "each keeps 4 of 16 cores busy")


def test_auto_stays_within_the_memory_with_room_for_an_update() -> None:
    """While `up` replaces them there are twice as many; where there is room for none, one is tried."""
    assert chosen(16, 4 << 30) == Size(1, 3, 6, "4.0 GiB of memory hold no more")
    assert chosen(16, 1 << 29) == Size(1, 1, 16, "0.5 GiB of memory hold no more")


@pytest.mark.parametrize(
    ("replicas", "streams"),
    [(Replicas(1, 1), 16), (Replicas(4, 4), 4), (Replicas(3, 3), 6), (Replicas(1, 4), 16), (Replicas(0, 2), 16)],
)
def test_the_fewest_replicas_that_somebody_asked_for_share_the_cores(replicas: Replicas, streams: int) -> None:
    assert size(replicas, 16, _MUCH) == Size(replicas.minimum, replicas.maximum, streams)


def test_without_cores_to_share_out_each_replica_has_what_it_has() -> None:
    """On a GPU, and on a cluster."""
    assert size(Replicas(3, 3), None, _MUCH) == Size(3, 3, None)
    assert size(None, None, _MUCH) == Size(1, 2, None, "a second one helps under load")
