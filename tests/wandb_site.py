"""A home whose W&B is the stand-in, with a custom model in its registry, and the instance that serves it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx

from installed import Home, free_port
from wandb_server import API_KEY, WandbServer

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

WANTED = "acme/registry/yolo:latest"


class Site:
    """Its instance has a port of its own."""

    def __init__(self, home: Home, wandb: WandbServer) -> None:
        self.home = home
        self.wandb = wandb
        self.port = str(free_port())
        self.url = f"http://127.0.0.1:{self.port}"
        self.env = {"WANDB_BASE_URL": wandb.url, "WANDB_API_KEY": API_KEY, "DETECTCTL_PORT": self.port}

    def up(self, *options: str, code: int = 0) -> Any:
        """The JSON of `up`; what it said on stderr if it has printed none."""
        done = self.home.run("up", "--model", WANTED, "--json", *options, **self.env)
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout) if done.stdout else done.stderr

    def model(self) -> Any:
        return httpx.get(f"{self.url}/info", timeout=30).json()["model"]

    def detect(self, image: Path) -> Any:
        return httpx.post(f"{self.url}/detect", content=image.read_bytes(), timeout=30).json()

    def pids(self) -> set[int]:
        # Exit 4 while a replica is missing, and JSON all the same.
        replicas = json.loads(self.home.run("status", "--json").stdout)["replicas"]
        return {replica["pid"] for replica in replicas if replica["state"] == "RUNNING"}

    def start(self, *options: str) -> subprocess.Popen[str]:
        """`up` in the background."""
        return self.home.start("up", "--model", WANTED, *options, **self.env)
