"""`up --follow --address` on a cluster whose dashboard is behind TLS, with a model from W&B."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cluster_client import KEY, Client
from gateway import HOST, Gateway
from installed import DETECTCTL, Home
from ray_nodes import NODES
from scrape import samples, value
from self_signed import trusted_tls
from train_checkpoints import FOLDER
from wandb_server import API_KEY, WandbServer
from wandb_site import WANTED, watched

if TYPE_CHECKING:
    from collections.abc import Iterator

    from neighbours import Neighbours
    from ray_cluster import RayCluster

# Long: it deploys three times to three nodes; that a follower rolls and waits is shown in test_lifecycle_follow.py.
pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(600)]

NAME = "followed"


@pytest.fixture
def wandb(nodes: RayCluster) -> Iterator[WandbServer]:
    """Where the client is."""
    nodes.url("", NODES[-1])  # skips where there are not three
    server = nodes.inside(lambda: WandbServer().start())
    yield server
    server.stop()


def test_who_follows_rolls_when_the_alias_moves_and_goes_on_after_the_dashboard_was_away(
    nodes: RayCluster, neighbours: Neighbours, wandb: WandbServer, tmp_path: Path
) -> None:
    """By an authority that only the system's trust has; without it nothing is sent, the token least of all.

    Through all of it, callers are answered.
    """
    tls, authority = trusted_tls(tmp_path, HOST)
    wandb.log("acme/registry/yolo", {"best.pt": FOLDER / "v8.pt"})
    client = Client(nodes, Home(tmp_path), NAME)
    env = {**client.home.env, "RAY_AUTH_TOKEN_PATH": str(nodes.token_file), "PYTHONUNBUFFERED": "1"}
    env |= {"WANDB_BASE_URL": wandb.url, "WANDB_API_KEY": API_KEY}
    trusting = {**env, "SSL_CERT_FILE": str(authority)}
    with Gateway(nodes, tls) as gateway, neighbours.untouched():
        there = ("--name", NAME, "--address", gateway.address)
        what = ("--model", WANTED, "--route-prefix", f"/{NAME}", "--replicas", "1", "--api-key-file", client.keys)
        command: list[str | Path] = [DETECTCTL, "up", *there, *what, "--follow", "--interval", "1"]

        refused = nodes.run(command, env=env, cwd=tmp_path)
        assert refused.returncode == 4, refused.stderr
        assert f"error: the cluster at {gateway.address} does not answer" in refused.stderr
        assert "CERTIFICATE_VERIFY_FAILED" in refused.stderr
        assert gateway.requests == b""

        process = nodes.popen(command, env=trusting, cwd=tmp_path, stdout=-1, stderr=-1, text=True)
        try:
            with watched(process) as follower:
                assert follower.up_said().startswith("started"), "".join(follower.said)
                assert f"Authorization: Bearer {nodes.token}".encode() in gateway.requests
                assert client.model() == ("yolo", "v0")
                with client.asking(1):
                    wandb.log("acme/registry/yolo", {"best.pt": FOLDER / "v5.pt"})
                    follower.wait_for("now serving yolo v1")
                    assert client.model() == ("yolo", "v1")

                    gateway.close_dashboard()
                    follower.wait_for("does not answer")
                    wandb.log("acme/registry/yolo", {"best.pt": FOLDER / "v3.pt"})
                    assert client.model() == ("yolo", "v1")
                    gateway.open_dashboard()
                    follower.wait_for("now serving yolo v2")
                    assert client.model() == ("yolo", "v2")
                metrics = nodes.get(f"/{NAME}/metrics", port=8000, headers={"X-API-Key": KEY})
                assert value(samples(metrics.text), "updates_total", outcome="done") == 2
                stranger = {**trusting, "HOME": str(tmp_path / "elsewhere")}
                assert _served(nodes, stranger) == {"v2": None, "v1": None, "v0": None}
                assert _served(nodes, stranger, *there) == {"v2": NAME, "v1": None, "v0": None}
                assert follower.end() == 0
            assert client.model() == ("yolo", "v2"), "the service goes on"
        finally:
            down = nodes.run([DETECTCTL, "down", *there], env=trusting, cwd=tmp_path)
        assert down.returncode == 0, down.stderr


def _served(nodes: RayCluster, env: dict[str, str], *options: str) -> dict[str, str | None]:
    """Which instance serves which version, as `detectctl models` tells it."""
    home = Path(env["HOME"])
    home.mkdir(exist_ok=True)
    done = nodes.run([DETECTCTL, "models", WANTED.rpartition(":")[0], *options, "--json"], env=env, cwd=home)
    assert done.returncode == 0, done.stderr
    return {one["version"]: one["served"] for one in json.loads(done.stdout)["versions"]}
