"""Replicas on a Python that is not Ray's own, with what an operator adds to their environment."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING

import pytest

from cluster_client import Client
from installed import Home
from ray_nodes import NODES

if TYPE_CHECKING:
    from pathlib import Path

    from ray_cluster import RayCluster

# Long: it deploys twice to three nodes; what is refused before that is shown in test_hosts_cluster_runtime_environment.
pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(600)]

_PYTHON = "/root/env/bin/python"
_MAKE = """
python -m venv --without-pip --symlinks env
cp /opt/venv/lib/python3*/site-packages/packages.pth env/lib/python3*/site-packages
"""


def test_replicas_run_on_the_python_that_is_named_if_each_node_has_it(nodes: RayCluster, tmp_path: Path) -> None:
    """Ray's own has no OpenVINO that loads, so only the other can; a node without it is named, and nothing changes."""
    nodes.url("", NODES[-1])  # skips where there are not three
    client = Client(nodes, Home(tmp_path))
    environment = tmp_path / "environment.yaml"
    environment.write_text(json.dumps({"env_vars": {"MINE": "there"}}))
    [site] = (nodes.folder / "venv").glob("lib/python*/site-packages")
    broken = site / "openvino.py"
    for node in NODES:
        assert nodes.on_node(node, ["sh", "-ec", _MAKE]).stderr == ""
    try:
        broken.write_text("raise ImportError('not for Ray')\n")
        failed = client.run(*client.up_command())
        assert failed.returncode == 4, failed.stderr
        assert "10.77.0.3: openvino (ImportError: not for Ray)" in failed.stderr
        there = ("--node-python", _PYTHON, "--runtime-env", str(environment))
        client.up(*there)
        pids = client.pids()
        title = f"ServeReplica:detectctl-{client.name}:"
        replicas = [one for node in NODES for one in nodes.processes(node) if title in " ".join(one.cmdline())]
        assert [one.environ()["MINE"] for one in replicas] == ["there"] * 3
        assert client.detect(1)["objects"]
        nodes.on_node(3, ["mv", "env", "away"], check=True)
        failed = client.run(*client.up_command(*there, "--imgsz", "96"))
        assert failed.returncode == 4, failed.stderr
        assert f"10.77.0.3: the Python {_PYTHON} cannot be used" in failed.stderr
        assert "10.77.0.2" not in failed.stderr
        assert client.pids() == pids
        broken.unlink()
        environment.write_text(json.dumps({"pip": ["no-such-package==1.0"]}))
        for timeout_s, why in (
            (180, "Ray cannot prepare its environment: ERROR: No matching distribution found for no-such-package==1.0"),
            (30, "pip has not finished its environment in time; `--timeout` allows more"),
        ):
            begun = time.monotonic()
            failed = client.run(*client.up_command("--runtime-env", str(environment), "--timeout", str(timeout_s)))
            sys.stdout.write(f"pip without a network: {time.monotonic() - begun:.0f} s\n{failed.stderr}\n")
            assert time.monotonic() - begun < timeout_s + 10
            assert failed.returncode == 4
            assert f"10.77.0.1, 10.77.0.2, 10.77.0.3: {why}" in failed.stderr
            assert "what ran before goes on serving" in failed.stderr
            assert client.pids() == pids
    finally:
        broken.unlink(missing_ok=True)
        done = client.run("down", "--name", client.name, "--address", nodes.address)
    assert done.returncode in {0, 3}, done.stderr
