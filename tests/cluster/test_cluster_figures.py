"""Figures of a cluster, printed with `pytest -rP`: what models of each size take, and two who deploy at once."""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from cluster_client import Client
from detectctl.hosts.cluster import carrier
from detectctl.serving.service_config import ServiceConfig
from installed import Home, wait_until
from ray_nodes import NODES, RayNodes
from train_checkpoints import FOLDER

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Long because they prove nothing that a quicker test does not, but for two commands that come together each time.
pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(900)]
SIZES_MB = (12, 90, 260)
TOGETHER = 20


@pytest.fixture
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayNodes]:
    """Bare: nobody has used Serve there."""
    with RayNodes(tmp_path_factory.mktemp("nodes"), env={"RAY_SERVE_ENABLE_HA_PROXY": "1"}) as bare:
        yield bare


def _note(figure: str) -> None:
    sys.stdout.write(f"{figure}\n")


def _put(nodes: RayNodes, model: Path, config: dict[str, Any]) -> None:
    """What somebody would write by hand, with packages for the code and the model; returns when all nodes answer."""
    carried, parts = carrier.model(model)
    sent = [carrier.code(), *parts]
    for package in sent:
        nodes.request("PUT", f"/api/packages/gcs/{package.file_name}", content=package.data).raise_for_status()
    made_with, user_config = replace(ServiceConfig.from_json(config), carried=carried, key_digests=()).split()
    deployment = {
        "name": "Detector",
        "num_replicas": len(NODES),
        "max_replicas_per_node": 1,
        "user_config": user_config,
        "ray_actor_options": {"num_cpus": 1},
    }
    application = {
        "name": "by-hand",
        "route_prefix": "/yolo",
        "import_path": "detectctl.serving.app:build",
        "args": {**made_with, "api_key_file": None},
        "runtime_env": {"py_modules": [package.uri for package in sent]},
        "deployments": [deployment],
    }
    everything = {
        "proxy_location": "EveryNode",
        "http_options": {"host": "0.0.0.0"},  # noqa: S104 - the lan's
        "applications": [application],
    }
    nodes.request("PUT", "/api/serve/applications/", json=everything).raise_for_status()
    for node in NODES:
        wait_until(lambda at=node: _ready(nodes, at), 240)


def _ready(nodes: RayNodes, node: int) -> bool:
    try:
        return nodes.get("/yolo/readyz", node, port=8000, timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def test_models_of_each_size_arrive(nodes: RayNodes, tmp_path: Path) -> None:
    """Bytes that mean nothing beside a model: it is as large to carry as one of that size."""
    client = Client(nodes, Home(tmp_path))
    alone = {node: round(nodes.memory(node)["pss"]) for node in NODES}
    _note(f"PSS of nodes with Ray alone, MB: {alone}")
    client.up()
    [compiled] = client.home.cache.glob("compiled/*/")
    for megabytes in SIZES_MB:
        (compiled / "ballast").write_bytes(bytes(megabytes * 1_000_000))
        begun = time.monotonic()
        assert client.up("--conf", f"0.{megabytes}")["action"] == "updated"
        memory = {node: round(nodes.memory(node)["pss"]) for node in NODES}
        _note(f"{megabytes} MB: updated on three nodes in {time.monotonic() - begun:.1f} s; PSS of nodes, MB: {memory}")
        assert len(client.pids()) == 3
    assert client.run("down", "--name", client.name).returncode == 0
    wait_until(lambda: client.run("status", "--name", client.name).returncode == 3)


def test_what_the_first_up_adds_to_serves_own_time(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Beside a hand-written configuration of the same application, put into Serve of as bare a cluster."""
    client_home = Home(tmp_path_factory.mktemp("home"))
    seconds: dict[str, float] = {}
    config: dict[str, Any] = {}
    for way in ("to fill the cache", "up", "put"):
        folder = tmp_path_factory.mktemp("nodes")
        with RayNodes(folder, env={"RAY_SERVE_ENABLE_HA_PROXY": "1"}) as nodes:
            client = Client(nodes, client_home)
            begun = time.monotonic()
            if way == "put":
                _put(nodes, next(iter(client.home.cache.glob("compiled/*/"))), config)
            else:
                client.up()
            seconds[way] = time.monotonic() - begun
            config = json.loads((client.home.state / client.name / "instance.json").read_text())["deployed"]["config"]
    _note(f"first up / put by hand: {seconds['up'] / seconds['put']:.2f}")


def test_two_who_deploy_two_services_at_once_are_both_served(nodes: RayNodes, tmp_path: Path) -> None:
    """Whose job comes first does not matter, however often they meet."""
    clients = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        clients.append(Client(nodes, Home(tmp_path / name), name))

    def change(client: Client, number: int) -> Any:
        conf = ("--conf", f"0.{number + 10}")
        there = ("--name", client.name, "--address", nodes.address, "--route-prefix", f"/{client.name}", "--no-auth")
        return client.json("up", *there, "--model", FOLDER / "v8.pt", "--replicas", "1", *conf)

    with ThreadPoolExecutor(2) as pool:
        for number in range(TOGETHER):
            begun = time.monotonic()
            actions = [one["action"] for one in pool.map(lambda each, n=number: change(each, n), clients)]
            assert actions == ["started" if number == 0 else "updated"] * 2
            _note(f"two at once, {number}: {time.monotonic() - begun:.1f} s")
    for client in clients:
        assert nodes.get(f"/{client.name}/readyz", port=8000).status_code == 200
        assert client.run("down", "--name", client.name).returncode == 0
