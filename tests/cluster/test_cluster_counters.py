"""What the replicas of a service on a cluster have counted, whoever is asked, and whatever became of them."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

import pytest

from installed import DETECTCTL, Home, wait_until
from ray_nodes import NODES
from scrape import samples, value
from train_checkpoints import FOLDER

if TYPE_CHECKING:
    from pathlib import Path

    import psutil

    from ray_cluster import RayCluster

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(600)]

_NAME = "counted"


class _Scene:
    """A service and its caller, who counts too."""

    def __init__(self, nodes: RayCluster, home: Home, picture: bytes) -> None:
        self.nodes, self.home, self.picture = nodes, home, picture
        self.asked = {"ok": 0, "unsupported_image": 0}

    def run(self, command: str, *options: str, home: Home | None = None) -> Any:
        env = {**(home or self.home).env, "RAY_AUTH_TOKEN_PATH": str(self.nodes.token_file)}
        options = ("--name", _NAME, "--address", self.nodes.address, *options)
        done = self.nodes.run([DETECTCTL, command, *options, "--json"], env=env, cwd=self.home.path)
        assert done.returncode in ((0, 4) if command == "status" else (0,)), done.stderr
        return json.loads(done.stdout)

    def up(self, *options: str) -> None:
        path = ("--route-prefix", f"/{_NAME}", "--replicas", "3", "--no-auth")
        self.run("up", "--model", str(FOLDER / "v8.pt"), *path, *options)

    def ask(self, times: int = 6) -> None:
        """Good and bad ones, at each node in turn."""
        for node, (code, body) in itertools.islice(
            zip(itertools.cycle(NODES), itertools.cycle((("ok", self.picture), ("unsupported_image", b"none")))), times
        ):
            answer = self.nodes.request("POST", f"/{_NAME}/detect", node=node, port=8000, content=body)
            assert answer.status_code == (200 if code == "ok" else 415)
            self.asked[code] += 1

    def metrics(self, node: int) -> Any:
        answer = self.nodes.get(f"/{_NAME}/metrics", node=node, port=8000)
        assert answer.status_code == 200, answer.text
        return samples(answer.text)

    def told(self, node: int) -> dict[str, float]:
        found = self.metrics(node)
        about = {"route": "/detect", "source": "body"}
        status = {"ok": "200", "unsupported_image": "415"}
        return {code: value(found, "requests_total", code=code, status=status[code], **about) for code in self.asked}

    def status(self, home: Home | None = None) -> Any:
        """Once it shows what was asked: it may be a second or two behind."""
        found: Any = None

        def caught_up() -> bool:
            nonlocal found
            found = self.run("status", home=home)
            return bool(found["errors"].get("unsupported_image") == self.asked["unsupported_image"])

        wait_until(caught_up)
        return found

    def running(self) -> set[str]:
        """Ids of the replicas that take requests."""
        found = self.run("status")["replicas"]
        return {one["replica_id"].rpartition("#")[2] for one in found if one["state"] == "RUNNING"}

    def processes(self, title: str) -> list[psutil.Process]:
        return [each for node in NODES for each in self.nodes.processes(node) if title in " ".join(each.cmdline())]


@pytest.mark.long  # a minute and more; how counts are merged is shown in test_serving_collected.py
def test_counters_are_exact_over_all_nodes_and_outlive_who_counted(
    nodes: RayCluster, tmp_path: Path, bus_jpg: Path
) -> None:
    """Replicas, their keeper and Serve's controller are killed, and all replicas replaced by an update."""
    here, elsewhere = Home(tmp_path / "here"), Home(tmp_path / "elsewhere")
    here.path.mkdir()
    elsewhere.path.mkdir()
    scene = _Scene(nodes, here, bus_jpg.read_bytes())
    try:
        scene.up()
        scene.ask(30)
        assert [scene.told(node) for node in NODES] == [scene.asked] * 3
        living = {dict(labels)["replica"] for name, labels in scene.metrics(1) if name == "detectctl_queue_limit"}
        seen = scene.status(elsewhere)
        assert scene.running() == living
        # All that was counted, the scrapes too; each replica had some.
        assert seen["requests"] == sum(one["requests"] for one in seen["replicas"])
        assert seen["p50_ms"] <= seen["p99_ms"]
        assert {one["version"] for one in seen["replicas"]} == {seen["model"]["digest"]}
        assert len({one["node_ip"] for one in seen["replicas"]}) == 3

        scene.processes("ServeReplica:detectctl-counted")[0].kill()
        wait_until(lambda: len(scene.running() - living) == 1)
        [keeper] = scene.processes("ray::Keeper")
        keeper.kill()
        scene.ask()
        wait_until(lambda: nodes.get(f"/{_NAME}/metrics", port=8000).status_code == 200)
        assert [scene.told(node) for node in NODES] == [scene.asked] * 3

        scene.up("--imgsz", "96")
        scene.ask()
        assert [scene.told(node) for node in NODES] == [scene.asked] * 3
        assert [value(scene.metrics(node), "updates_total", outcome="done") for node in NODES] == [1, 1, 1]
        [controller] = scene.processes("ServeController")
        controller.kill()
        scene.ask()
        assert [scene.told(node) for node in NODES] == [scene.asked] * 3
        assert scene.status(elsewhere)["requests"] > seen["requests"]
    finally:
        scene.run("down")
    assert nodes.on_node(1, ["sh", "-c", "ls /tmp/ray/session_latest/logs/serve/counters*"]).stdout == ""
