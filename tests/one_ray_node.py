"""One Ray node beside everything else on this machine, for where there cannot be the three of `ray_nodes`."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import psutil
import pytest

from installed import carrying, free_port
from ray_cluster import DASHBOARD, INGRESS, START_RAY, RayCluster, run

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_IP = "127.0.0.1"


class OneRayNode(RayCluster):
    """A head without workers, at ports of its own, with Serve's Python proxy.

    What a test cannot do with it, such as to kill a node, skips that test.

    Attributes:
        reason: why there is no more than this.
        gpus: how many Ray is told of, whatever there is.
    """

    def __init__(self, folder: Path, reason: str, *, env: Mapping[str, str] | None = None, gpus: int = 0) -> None:
        self.reason, self.gpus = reason, gpus
        self._disk = Path(tempfile.mkdtemp(prefix="ray-"))  # not in `folder`: the path of a socket has to be short
        self._ports = {DASHBOARD: free_port(), INGRESS: free_port()}
        self._mark = f"RAY_NODE_DISK={self._disk}"
        path = f"{folder / 'venv' / 'bin'}:/usr/local/bin:/usr/bin:/bin"
        own = {"PATH": path, "HOME": str(self._disk), "RAY_AUTH_TOKEN_PATH": str(folder / "token")}
        # HAProxy would use fixed ports and paths of this machine.
        super().__init__(folder, {**(env or {}), **own, "RAY_SERVE_ENABLE_HA_PROXY": "0"})

    def _start(self) -> None:
        ports = [f"--port={free_port()}", f"--ray-client-server-port={free_port()}"]
        ports += [f"--dashboard-agent-listen-port={free_port()}", "--min-worker-port=0", "--max-worker-port=0"]
        dashboard = [f"--dashboard-host={_IP}", f"--dashboard-port={self._ports[DASHBOARD]}"]
        head = ["--head", f"--node-ip-address={_IP}", "--num-cpus=2", f"--temp-dir={self._disk / 'tmp'}"]
        head += [f"--num-gpus={self.gpus}"] if self.gpus else []
        command = [*self._with_env, self._mark, "python", *START_RAY, *head, *dashboard, *ports]
        with self._log(1).open("a") as log:
            self._ray = subprocess.Popen(command, stdout=log, stderr=log)
        self._wait(self._alive)  # at another address than loopback, whatever it was told
        # Serve's port, too, has to be one of our choice.
        serve = {"http_options": {"host": _IP, "port": self._ports[INGRESS]}, "applications": []}
        self.request("PUT", "/api/serve/applications/", json=serve).raise_for_status()

    def _stop(self) -> None:
        if hasattr(self, "_ray"):
            self._ray.terminate()  # it ends what it started
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._ray.wait(20)
        for process in carrying(self._mark):
            with contextlib.suppress(psutil.Error):
                process.kill()
                process.wait()
        shutil.rmtree(self._disk, ignore_errors=True)

    def url(self, path: str, node: int = 1, port: int = INGRESS) -> str:
        if node != 1:
            self._skip()
        return f"http://{_IP}:{self._ports.get(port, port)}{path}"

    def on_node(self, node: int, command: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
        if node != 1:
            self._skip()
        return run([*self._with_env, *command], cwd=self._disk, **options)

    def processes(self, node: int) -> list[psutil.Process]:
        return carrying(self._mark) if node == 1 else self._skip()

    def kill(self, node: int) -> None:
        self._skip()

    def start_node(self, node: int) -> None:
        self._skip()

    def cut(self, node: int) -> None:
        self._skip()

    def mend(self, node: int) -> None:
        self._skip()

    def _skip(self) -> NoReturn:
        pytest.skip(f"needs nodes apart: {self.reason}")

    def _enter(self) -> None:
        """It is here."""

    def _as_client(self, command: Sequence[str | Path]) -> list[str | Path]:
        return list(command)
