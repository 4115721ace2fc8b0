"""The cluster that these tests deploy to, which ends with the last of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import ray_nodes
from ray_nodes import RayNodes

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="package")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayNodes]:
    """Three nodes with Serve's HAProxy, and nothing deployed; what a test deploys, it removes."""
    if reason := ray_nodes.obstacle():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("nodes")
    with RayNodes(folder, env={"RAY_SERVE_ENABLE_HA_PROXY": "1"}) as running:
        yield running
        used = running.namespaces()
    left = [link for link in Path("/proc").glob("[0-9]*/task/[0-9]*/ns/*") if _target(link) in used]
    assert left == []
    assert {file.suffix for file in folder.iterdir()} == {".log"}


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:  # it has ended meanwhile
        return ""
