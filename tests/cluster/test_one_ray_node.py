"""The bench of a machine where nodes cannot be apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from one_ray_node import OneRayNode
from ray_cluster import INGRESS

if TYPE_CHECKING:
    from pathlib import Path

# Long: it starts a cluster that other tests only use where there can be no better one.
pytestmark = [pytest.mark.cluster, pytest.mark.long]


def test_one_node_shares_the_machine_and_skips_what_needs_more(tmp_path: Path) -> None:
    """It answers at ports of its own, knows nothing of this project, and leaves nothing but its log."""
    with OneRayNode(tmp_path, "only root may make network namespaces") as nodes:
        assert nodes.get("/api/version").json()["ray_version"]
        assert nodes.get("/-/routes", port=INGRESS).status_code in {200, 503}
        assert nodes.get("/api/version", token="wrong").status_code == 403
        assert "No module named 'detectctl'" in nodes.on_node(1, ["python", "-c", "import detectctl"]).stderr
        with pytest.raises(pytest.skip.Exception, match="only root"):
            nodes.kill(2)
        processes = nodes.processes(1)
        assert len(processes) > 5
    assert [process for process in processes if process.is_running()] == []
    assert [file.name for file in tmp_path.iterdir()] == ["node1.log"]
