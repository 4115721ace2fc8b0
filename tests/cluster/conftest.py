"""The cluster that these tests deploy to, which ends with the last of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import ray_nodes
from neighbours import Neighbours
from one_ray_node import OneRayNode
from ray_nodes import RayNodes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ray_cluster import RayCluster


@pytest.fixture(scope="package")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    """Three nodes with Serve's HAProxy, and nothing deployed; what a test deploys, it removes.

    One node that shares this machine, where there can be no others; it skips tests that need more.
    """
    folder = tmp_path_factory.mktemp("nodes")
    if reason := ray_nodes.obstacle():
        with OneRayNode(folder, reason) as one:
            yield one
        return
    with RayNodes(folder, env={"RAY_SERVE_ENABLE_HA_PROXY": "1"}) as three:
        yield three
        used = three.namespaces()
    assert [link for link in Path("/proc").glob("[0-9]*/task/[0-9]*/ns/*") if _target(link) in used] == []
    assert {file.suffix for file in folder.iterdir()} == {".log"}


@pytest.fixture(scope="package")
def neighbours(nodes: RayCluster) -> Neighbours:
    """Two applications of others on that cluster, from the first test that asks for them on."""
    there = Neighbours(nodes)
    there.deploy()
    return there


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:  # it has ended meanwhile
        return ""
