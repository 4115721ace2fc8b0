"""The pods of a RayService, without Kubernetes: Ray is started, told what to serve and probed as KubeRay v1.7 does it.

One node is head and worker at once, on this machine's loopback, with ports of its own.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import urllib.request
from typing import TYPE_CHECKING, Any

import yaml

from installed import free_port, wait_until

if TYPE_CHECKING:
    from pathlib import Path

_PATIENCE_S = 300


class RehearsedPods:
    """What the manifest `text` makes of them; one thing after the other is asked for.

    Attributes:
        prepare: the arguments of the init container.
        env: of Ray's container.
        token: Ray's own.
    """

    def __init__(self, text: str) -> None:
        spec = yaml.safe_load(text)["spec"]
        self._cluster, self._serve = spec["rayClusterConfig"], yaml.safe_load(spec["serveConfigV2"])
        groups = (self._cluster["headGroupSpec"], *self._cluster["workerGroupSpecs"])
        self._pods = [group["template"]["spec"] for group in groups]
        self._params = [group["rayStartParams"] for group in groups]
        self._ports = {port: free_port() for port in (8000, 8265, 52365)}
        self._serve["http_options"].update(host="127.0.0.1", port=self._ports[8000])
        self.token = secrets.token_hex(32)
        self.prepare: list[str] = self._pods[1]["initContainers"][0]["args"]
        self.env = {each["name"]: each["value"] for each in self._pods[0]["containers"][0]["env"]} | {
            "RAY_AUTH_MODE": "token",  # KubeRay adds these two
            "RAY_AUTH_TOKEN": self.token,
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # loopback
        }

    def head(self, *options: str) -> list[str]:
        """The command that KubeRay gives the container, with the head's memory and the worker's CPUs."""
        memory = int(self._pods[0]["containers"][0]["resources"]["limits"]["memory"].removesuffix("Gi")) << 30
        params = {
            "memory": str(memory),
            **self._params[0],
            **self._params[1],
            "port": str(free_port()),
            "node-ip-address": "127.0.0.1",
            "dashboard-host": "127.0.0.1",
            "dashboard-port": str(self._ports[8265]),
            "dashboard-agent-listen-port": str(self._ports[52365]),
            "metrics-export-port": str(free_port()),
            "min-worker-port": "0",
            "max-worker-port": "0",
        }
        words = " ".join((*(f"--{name}={value} " for name, value in sorted(params.items())), *options))
        return ["/bin/bash", "-c", "--", f"ulimit -n 65536; ray start --head  --block  {words}"]

    def find(self, image: Path, *, key: str) -> set[str]:
        """The classes that are found in the image, once all probes are answered; deployed before that, and again."""
        head_alive, head_ready, worker_alive, worker_ready = (
            self._url(pod["containers"][0][kind]["httpGet"])
            for pod in self._pods
            for kind in ("livenessProbe", "readinessProbe")
        )
        wait_until(lambda: all(map(_answers, (head_alive, head_ready, worker_alive))), _PATIENCE_S)
        # As often as it likes: an application that is there already is left alone, and what fails is tried again.
        wait_until(self._deploys, _PATIENCE_S)
        wait_until(lambda: _answers(worker_ready), _PATIENCE_S)
        url = f"http://127.0.0.1:{self._ports[8000]}/detect"
        return {one["class"] for one in json.loads(_ask(url, "POST", key, image.read_bytes()))["objects"]}

    def _deploys(self) -> bool:
        with contextlib.suppress(OSError):
            applications = f"http://127.0.0.1:{self._ports[8265]}/api/serve/applications/"
            _ask(applications, "PUT", self.token, json.dumps(self._serve).encode())
            return True
        return False

    def _url(self, probe: dict[str, Any]) -> str:
        return f"http://127.0.0.1:{self._ports[probe['port']]}{probe['path']}"


def _ask(url: str, method: str = "GET", key: str = "", body: bytes | None = None) -> bytes:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    headers |= {"Content-Type": "application/json"} if method == "PUT" else {}
    with urllib.request.urlopen(urllib.request.Request(url, body, headers, method=method), timeout=60) as answer:
        found: bytes = answer.read()
    return found


def _answers(url: str) -> bool:
    with contextlib.suppress(OSError):
        return _ask(url) == b"success"
    return False
