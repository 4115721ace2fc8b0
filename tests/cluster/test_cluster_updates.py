"""Updates of a service on each node of a cluster, under callers at each node's address; figures by `pytest -rP`."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import pytest

from cluster_client import KEY, Client
from installed import Home
from ray_nodes import NODES, RayNodes, obstacle
from slow_upload import upload_without_end

if TYPE_CHECKING:
    from pathlib import Path

# Long: a few updates of the model after one another, for two thousand requests.
pytestmark = [
    *(pytest.mark.cluster, pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(900)),
    pytest.mark.skipif(obstacle() is not None, reason=str(obstacle())),
]
REQUESTS = 2000


@pytest.mark.parametrize("haproxy", ["1", "0"])
def test_updates_of_the_model_cost_no_request_at_any_nodes_address(tmp_path: Path, haproxy: str) -> None:
    """Behind HAProxy and Serve's own proxy; each node has one replica before and after each update.

    Behind both, replicas keep what the edge of a service promises.
    """
    (tmp_path / "nodes").mkdir()
    with RayNodes(tmp_path / "nodes", env={"RAY_SERVE_ENABLE_HA_PROXY": haproxy}) as nodes:
        client = Client(nodes, Home(tmp_path))
        client.up()
        updates, slowest = 0, 0.0
        with client.asking(*NODES) as asked:
            while updates < 2 or len(asked) < REQUESTS:
                begun = time.monotonic()
                assert client.up("--imgsz", ("96", "64")[updates % 2])["action"] == "updated"
                updates, slowest = updates + 1, max(slowest, time.monotonic() - begun)
                assert client.pids().keys() == {"10.77.0.1", "10.77.0.2", "10.77.0.3"}
        failed = sum(one.outcome != 200 for one in asked)
        sys.stdout.write(f"{failed} of {len(asked)} failed in {updates} updates, the slowest of {slowest:.1f} s\n")
        for node in NODES:
            client.assert_promises_kept(node)
        key, path = f"X-API-Key: {KEY}", f"/{client.name}/detect"
        slow = nodes.inside(upload_without_end, 8000, key, host="10.77.0.2", path=path)
        assert slow.status == 408
        assert '"code":"request_timeout"' in slow.text
        assert client.run("down", "--name", client.name).returncode == 0
