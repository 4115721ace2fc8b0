"""Someone with detectctl and a cluster, as tests of clusters drive them."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2

import edge_promises
import shapes
from installed import DETECTCTL, Home, wait_until
from train_checkpoints import FOLDER

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    import httpx

    from ray_cluster import Asked, RayCluster

KEY = "a-key-of-the-cluster"


@dataclass
class Client:
    """Someone with detectctl and no Ray, in a home of their own, who reaches the cluster and nothing else."""

    nodes: RayCluster
    home: Home
    name: str = "yolo"

    def __post_init__(self) -> None:
        self.keys.write_text(f"{KEY}\n")
        self.keys.chmod(0o600)
        (self.home.path / "ray.py").write_text("raise ImportError('who uses a cluster needs no Ray')\n")
        cv2.imwrite(str(self.picture), next(iter(shapes.pictures("detect")))[0])

    @property
    def env(self) -> dict[str, str]:
        token = {"RAY_AUTH_TOKEN_PATH": str(self.nodes.token_file)}
        return {**self.home.env, **token, "PYTHONPATH": str(self.home.path)}

    @property
    def keys(self) -> Path:
        return self.home.path / "keys"

    @property
    def picture(self) -> Path:
        return self.home.path / "shapes.png"

    def run(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return self.nodes.run([DETECTCTL, *arguments], env=self.env, cwd=self.home.path)

    def json(self, *arguments: str | Path, code: int = 0) -> Any:
        done = self.run(*arguments, "--json")
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout)

    def up(self, *options: str) -> Any:
        return self.json(*self.up_command(*options))

    def up_command(self, *options: str) -> tuple[str | Path, ...]:
        there = ("--name", self.name, "--address", self.nodes.address, "--route-prefix", f"/{self.name}")
        wanted = ("--model", FOLDER / "v8.pt", "--replicas", "3", "--spread", "--api-key-file", self.keys)
        return ("up", *there, *wanted, *options)

    def status(self, code: int = 0) -> Any:
        return self.json("status", "--name", self.name, code=code)

    def pids(self) -> dict[str, int]:
        """Where a replica runs → its process."""
        seen = json.loads(self.run("status", "--name", self.name, "--json").stdout)
        return {one["node_ip"]: one["pid"] for one in seen["replicas"] if one["state"] == "RUNNING"}

    def detect(self, node: int, **options: Any) -> Any:
        body, headers = self.picture.read_bytes(), {"X-API-Key": KEY}
        answer = self.nodes.request(
            "POST", f"/{self.name}/detect", node=node, port=8000, content=body, headers=headers, **options
        )
        return answer.json() if answer.status_code == 200 else answer.status_code

    def assert_promises_kept(self, node: int) -> None:
        """Those of a service's edge, at this node's address."""

        def ask(method: str, path: str, **options: Any) -> httpx.Response:
            return self.nodes.request(method, f"/{self.name}{path}", node=node, port=8000, **options)

        edge_promises.assert_kept(ask, KEY)

    def model(self) -> tuple[str, str]:
        """Name and version of what answers."""
        found = self.nodes.get(f"/{self.name}/info", port=8000, headers={"X-API-Key": KEY}).raise_for_status().json()
        return found["model"]["name"], found["model"]["version"]

    @contextlib.contextmanager
    def asking(self, *at: int, failing: int = 0) -> Iterator[list[Asked]]:
        """Two callers at the ingresses of these nodes, at most `failing` of whose requests fail."""
        urls = [self.nodes.url(f"/{self.name}/detect", node) for node in at]
        asked: dict[str, Any] = {"method": "POST", "content": self.picture.read_bytes(), "headers": {"X-API-Key": KEY}}
        with self.nodes.load(urls, clients=2, pause_s=0.05, **asked) as answers:
            wait_until(lambda: len(answers) > 10)
            yield answers
            seen = len(answers)
            wait_until(lambda: len(answers) > seen + 10)
        failed = [one for one in answers if one.outcome != 200]
        assert len(failed) <= failing, failed
