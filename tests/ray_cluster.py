"""A Ray cluster of a test, as whoever deploys to it and asks it sees it."""

from __future__ import annotations

import contextlib
import itertools
import secrets
import shutil
import subprocess
import sys
import threading
import venv
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar

import httpx
import psutil

from installed import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

DASHBOARD = 8265
INGRESS = 8000
START_RAY = (
    "-m",
    "ray.scripts.scripts",
    "start",
    "--block",
    "--disable-usage-stats",
    "--object-store-memory=200000000",
)
START_S = 120.0
_P = ParamSpec("_P")
_R = TypeVar("_R")


@dataclass(frozen=True)
class Asked:
    """A request of a load: where to, and the answer's status, or what came instead of one."""

    url: str
    outcome: int | str


class RayCluster(ABC):
    """A cluster from `with` to the end of its block. Its nodes have numbers, the head is 1.

    Attributes:
        folder: for what the nodes' first processes print, and the token's file.
        env: the nodes' variables beside those that they always have, such as `RAY_SERVE_ENABLE_HA_PROXY`.
        token: what the dashboard asks for.
        token_file: a file of this machine that holds it; no client is told of it unless a test does.
    """

    def __init__(self, folder: Path, env: Mapping[str, str] | None) -> None:
        self.folder = folder
        self.env = {"RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0", "LANG": "C.UTF-8", **(env or {})}
        self.token = secrets.token_hex(32)
        self.token_file = folder / "token"
        self._python = folder / "venv"
        self._clients: list[subprocess.Popen[Any]] = []
        self._threads = ThreadPoolExecutor(16, "client", initializer=self._enter)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start the nodes, and wait until the dashboard knows them all."""
        self.token_file.touch(0o600)
        self.token_file.write_text(self.token)
        # `.pth` files in the folders that it leads to, such as an editable project's, have no say.
        venv.create(self._python, symlinks=True)
        site = next(self._python.glob("lib/python*/site-packages"))
        (site / "packages.pth").write_text("\n".join(packages()))
        self._start()

    def close(self) -> None:
        """End whatever runs there; nothing remains but the text files in `folder`."""
        for client in self._clients:
            client.kill()
            client.wait()
        self._stop()
        self._threads.shutdown()
        shutil.rmtree(self._python, ignore_errors=True)
        self.token_file.unlink(missing_ok=True)

    @abstractmethod
    def _start(self) -> None: ...

    @abstractmethod
    def _stop(self) -> None: ...

    @abstractmethod
    def url(self, path: str, node: int = 1, port: int = INGRESS) -> str:
        """Of a node, as a client names it."""

    @abstractmethod
    def on_node(self, node: int, command: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command on a node, in its home and with its variables. As `subprocess.run`."""

    @abstractmethod
    def processes(self, node: int) -> list[psutil.Process]:
        """All of a node, under this machine's process ids."""

    @abstractmethod
    def kill(self, node: int) -> None:
        """End all of a node's processes at once; its disk stays."""

    @abstractmethod
    def start_node(self, node: int) -> None:
        """Bring a killed node back, with its disk, and wait until it has joined the cluster."""

    @abstractmethod
    def cut(self, node: int) -> None:
        """Pull a node's network cable: nothing arrives, and nobody is told."""

    @abstractmethod
    def mend(self, node: int) -> None:
        """Put the cable back. Ray has ended by itself on a node that was cut off for a minute: kill and start it."""

    def memory(self, node: int) -> dict[str, float]:
        """`rss` and `pss` of all processes of a node, in MB; pages that forks share count once in `pss`."""
        total = {"rss": 0.0, "pss": 0.0}
        for process in self.processes(node):
            with contextlib.suppress(psutil.Error):
                used = process.memory_full_info()
                total["rss"] += used.rss / 1e6
                total["pss"] += used.pss / 1e6
        return total

    @property
    def address(self) -> str:
        """Of the head's dashboard, as a client names it."""
        return self.url("", port=DASHBOARD)

    def run(self, command: Sequence[str | Path], **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command where a client is: this machine's disk, the cluster's network. As `subprocess.run`."""
        return run(self._as_client(command), **options)

    def popen(self, command: Sequence[str | Path], **options: Any) -> subprocess.Popen[Any]:
        """Start a command where a client is; it ends with the thread that started it, or with `close`."""
        self._clients.append(subprocess.Popen(self._as_client(command), **options))
        return self._clients[-1]

    @abstractmethod
    def _as_client(self, command: Sequence[str | Path]) -> list[str | Path]: ...

    @property
    def _with_env(self) -> list[str]:
        return ["env", "-i", *(f"{name}={value}" for name, value in self.env.items())]

    def _log(self, node: int) -> Path:
        return self.folder / f"node{node}.log"

    def _wait(self, condition: Callable[[], Any]) -> None:
        try:
            wait_until(condition, START_S)
        except AssertionError as error:
            error.add_note("\n".join(log.read_text() for log in self.folder.glob("*.log")))
            raise

    def _alive(self, ip: str | None = None) -> set[str]:
        """Ids of the nodes that the head calls alive, at this address or any; none while its dashboard is silent."""
        try:
            known = self.get("/api/v0/nodes?detail=1").raise_for_status().json()["data"]["result"]["result"]
        except httpx.HTTPError:
            return set()
        return {one["node_id"] for one in known if one["node_ip"] == (ip or one["node_ip"]) and one["state"] == "ALIVE"}

    @abstractmethod
    def _enter(self) -> None:
        """Move a thread to where a client is."""

    def inside(self, call: Callable[_P, _R], *arguments: _P.args, **options: _P.kwargs) -> _R:
        """Have a thread make a call where a client is: the sockets it opens are there, all else is this process's."""
        return self._threads.submit(call, *arguments, **options).result()

    def request(
        self, method: str, path: str, *, node: int = 1, port: int = DASHBOARD, token: str | None = None, **options: Any
    ) -> httpx.Response:
        """Ask a node, its dashboard with the token unless another is given. As `httpx.request`."""
        if port == DASHBOARD and token != "":
            options["headers"] = {"Authorization": f"Bearer {token or self.token}", **options.get("headers", {})}
        options = {"timeout": 60, "trust_env": False, **options}
        return self.inside(httpx.request, method, self.url(path, node, port), **options)

    def get(
        self, path: str, node: int = 1, port: int = DASHBOARD, *, token: str | None = None, **options: Any
    ) -> httpx.Response:
        """As `request`."""
        return self.request("GET", path, node=node, port=port, token=token, **options)

    @contextlib.contextmanager
    def load(
        self, urls: Sequence[str], *, clients: int = 2, pause_s: float = 0.0, timeout_s: float = 20.0, **options: Any
    ) -> Iterator[list[Asked]]:
        """Clients that each ask one URL after the other, around and around, as long as the block lasts.

        Yields what was asked so far. `options` are those of `httpx.Client.request`, `method` among them.
        """
        asked: list[Asked] = []
        over = threading.Event()
        request = {"method": "GET", **options}

        def ask(first: int) -> None:
            with httpx.Client(timeout=timeout_s, trust_env=False) as client:
                for url in itertools.islice(itertools.cycle(urls), first, None):
                    try:
                        outcome: int | str = client.request(url=url, **request).status_code
                    except httpx.HTTPError as error:
                        outcome = f"{type(error).__name__}: {error}"
                    asked.append(Asked(url, outcome))
                    if over.wait(pause_s):
                        return

        running = [self._threads.submit(ask, first) for first in range(clients)]
        try:
            yield asked
        finally:
            over.set()
            for one in running:
                one.result()


def run(command: Sequence[str | Path], **options: Any) -> subprocess.CompletedProcess[str]:
    """As `subprocess.run`, with its output as text."""
    done: subprocess.CompletedProcess[str]
    done = subprocess.run(command, **{"text": True, "capture_output": True, "check": False, **options})  # noqa: PLW1510
    return done


def packages() -> list[str]:
    """Where this environment's packages are."""
    return [path for path in sys.path if Path(path).name in {"site-packages", "dist-packages"}]
