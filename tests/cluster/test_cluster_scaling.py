"""A service on a cluster whose number of replicas follows the load."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

import tiers
from cluster_client import KEY, Client
from installed import Home, wait_until
from ray_nodes import NODES

if TYPE_CHECKING:
    from pathlib import Path

    from neighbours import Neighbours
    from ray_cluster import RayCluster

# Long: it waits for Serve's own pace of scaling.
pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(900)]

NAME = "scaled"


def test_replicas_come_with_the_load_each_on_a_node_of_its_own_and_go_again(
    nodes: RayCluster, neighbours: Neighbours, tmp_path: Path
) -> None:
    """Nobody is turned away meanwhile."""
    nodes.url("", NODES[-1])  # skips where there are not three
    client = Client(nodes, Home(tmp_path), NAME)
    request: dict[str, Any] = {"method": "POST", "content": client.picture.read_bytes(), "headers": {"X-API-Key": KEY}}
    with neighbours.untouched():
        try:
            client.up("--replicas", f"1..{len(NODES)}")
            assert len(client.pids()) == 1
            with nodes.load([nodes.url(f"/{NAME}/detect")], clients=12, timeout_s=60, **request) as asked:
                wait_until(lambda: len(client.pids()) == len(NODES), 180)
                seen = len(asked)
                wait_until(lambda: len(asked) > seen + 50, 120)
                wait_until(lambda: all(one["requests"] for one in client.status()["replicas"]), 60)
            assert [one for one in asked if one.outcome != 200] == []
            if tiers.ALL:  # one after the other, each two minutes after the need for it
                with nodes.load([nodes.url(f"/{NAME}/detect")], clients=1, pause_s=1, **request) as asked:
                    begun = time.monotonic()
                    for left in (2, 1):
                        wait_until(lambda wanted=left: len(client.pids()) == wanted, 240)
                        sys.stdout.write(f"{left} left {time.monotonic() - begun:.0f} s after the load\n")
                    seen = len(asked)
                    wait_until(lambda: len(asked) > seen + 3)
                assert [one for one in asked if one.outcome != 200] == []
        finally:
            done = client.run("down", "--name", NAME)
        assert done.returncode == 0, done.stderr
