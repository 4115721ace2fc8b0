"""`up --address --gpus` where Ray was told of a GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cluster_client import Client
from detectctl.engine import devices
from installed import Home
from one_ray_node import OneRayNode

if TYPE_CHECKING:
    from pathlib import Path

# Long: it starts a cluster of its own.
pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(600)]

APPLICATION = "detectctl-yolo"


@pytest.mark.skipif(devices.has_device_file(), reason="this machine's GPU may compute")
def test_gpus_that_are_not_there_are_told_before_anything_changes(tmp_path: Path) -> None:
    """More than any node has, and those that Ray only counts; a replica reserves what it asks for all the same."""
    for folder in ("home", "node"):
        (tmp_path / folder).mkdir()
    with OneRayNode(tmp_path / "node", "one is enough", gpus=1) as node:
        client = Client(node, Home(tmp_path / "home"))
        command = (*client.up_command(), "--replicas", "1")
        for gpus, why in (
            ("2", "no node of the cluster has 1 CPU and 2 GPUs for a replica"),
            ("1", "a GPU that computes (this machine has no NVIDIA GPU, or no driver for it)"),
        ):
            failed = client.run(*command, "--gpus", gpus)
            assert failed.returncode == 4, failed.stderr
            assert "error: the cluster cannot take the application" in failed.stderr
            assert why in failed.stderr
            assert node.get("/api/serve/applications/").json()["applications"] == {}

        client.json(*command, "--gpus", "1", "--device", "cpu")
        deployed = node.get("/api/serve/applications/").json()["applications"][APPLICATION]["deployments"]["Detector"]
        assert deployed["deployment_config"]["ray_actor_options"]["num_gpus"] == 1
        assert client.detect(1)["objects"]
        assert client.run("down", "--name", client.name).returncode == 0
