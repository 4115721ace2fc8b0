"""Three Ray nodes on one machine, each as alone as a machine of its own: a cluster to deploy to.

A node is a network, mount, pid, ipc and uts namespace with its own address, `/tmp`, `/root`, `/dev/shm` and `/proc`. Of
this machine's disk it sees the system, Python, and the packages of the virtual environment that the tests run in, all
read-only, but nothing of this project: what a node is to import has to be carried there. The nodes' network, the lan,
is a bridge in a namespace of its own, which is also where the client is; nothing leads out of it.

Everything lives below one process, the lan's first, which ends when the tests' process does, however that ends. With it
the kernel ends all others, and takes namespaces, mounts and the nodes' disks away.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import itertools
import os
import secrets
import shutil
import socket
import subprocess
import sys
import threading
import venv
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar

import httpx
import psutil

from installed import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

NODES = (1, 2, 3)
"""The first is the head."""
DASHBOARD = 8265
INGRESS = 8000
START_S = 120.0

_LAN = """
ip link set lo up
ip link add br0 type bridge
ip address add 10.77.0.254/24 dev br0
ip link set br0 up
mount -t tmpfs disks /media
echo ready
exec cat  # until the tests' process closes the pipe, or ends
"""
# $1: the number, $2: a Python environment, $3: the token; then this machine's folders until --, then the command.
_NODE = """
read -r plugged_in
hostname node$1
ip link set lo up
ip address add 10.77.0.$1/24 dev eth0
ip link set eth0 up
ip route add default via 10.77.0.254  # from which programs take their own address; nothing answers there
root=/media/$1
mkdir -p $root/dev $root/proc $root/sys $root/tmp $root/var/tmp $root/root/.ray $root/opt/venv
mount -o bind,ro "$2" $root/opt/venv
[ -e $root/root/.ray/auth_token ] || install -m 600 "$3" $root/root/.ray/auth_token
shift 3
while [ "$1" != -- ]; do
  if [ -L "$1" ]; then
    ln -sfn "$(readlink "$1")" "$root$1"
  elif [ -d "$1" ]; then
    mkdir -p "$root$1"
    mount -o bind,ro "$1" "$root$1"
  fi
  shift
done
shift
# Names are looked up in one file: asking a server that is not there takes Ray ten seconds several times over.
for node in 1 2 3; do echo "10.77.0.$node node$node"; done >$root/opt/hosts
mount --bind $root/opt/hosts $root/etc/hosts
[ -L $root/etc/resolv.conf ] || mount --bind /dev/null $root/etc/resolv.conf
mount --rbind /dev $root/dev
mount -t tmpfs shm $root/dev/shm
mount --rbind /sys $root/sys
mount -t proc proc $root/proc
cd $root
# The node stays when Ray ends, as a machine does; its first process takes orphans in, and waits for them too.
exec chroot . sh -c 'cd; "$@" & sleep infinity & wait' sh "$@"
"""
_P = ParamSpec("_P")
_R = TypeVar("_R")
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc")
_CLONE_NEWNET = 0x40000000


@functools.cache
def obstacle() -> str | None:
    """Why there can be no such nodes on this machine; None if there can."""
    if os.geteuid() != 0:
        return "only root may make network namespaces"
    missing = [tool for tool in ("ip", "unshare", "nsenter", "setpriv") if shutil.which(tool) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    command = ["unshare", "--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "sh", "-ec", _LAN]
    tried = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    return " ".join(tried.stderr.split()) or None if tried.returncode else None


@dataclass(frozen=True)
class Asked:
    """A request of a load: where to, and the answer's status, or what came instead of one."""

    url: str
    outcome: int | str


class RayNodes:
    """A cluster of three nodes, from `with` to the end of its block.

    Attributes:
        folder: for what the nodes' first processes print, and the token's file.
        env: the nodes' variables beside those that they always have, such as `RAY_SERVE_ENABLE_HA_PROXY`.
        cpus: how many each node offers; 0 for a head that takes no replicas.
        address: of the head's dashboard, as a client in the lan names it.
        token: what the dashboard asks for.
        token_file: a file of this machine that holds it; no client is told of it unless a test does.
    """

    def __init__(
        self, folder: Path, *, env: Mapping[str, str] | None = None, cpus: tuple[float, float, float] = (2, 2, 2)
    ) -> None:
        self.folder = folder
        self.env = {
            "PATH": "/opt/venv/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "HOME": "/root",
            "LANG": "C.UTF-8",
            "RAY_AUTH_MODE": "token",
            "RAY_USAGE_STATS_ENABLED": "0",
            **(env or {}),
        }
        self.cpus = cpus
        self.address = self.url("", port=DASHBOARD)
        self.token = secrets.token_hex(32)
        self.token_file = folder / "token"
        self._python = folder / "venv"
        self._running: dict[int, tuple[subprocess.Popen[str], psutil.Process]] = {}
        self._clients: list[subprocess.Popen[Any]] = []
        self._threads = ThreadPoolExecutor(16, "lan", initializer=self._enter)

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
        """Start the lan and the three nodes, and wait until the dashboard knows them all."""
        self.token_file.touch(0o600)
        self.token_file.write_text(self.token)
        venv.create(self._python, symlinks=True)
        site = next(self._python.glob("lib/python*/site-packages"))
        (site / "packages.pth").write_text("\n".join(_packages()))
        command = ["unshare", "--net", "--mount", "--pid", "--fork", "sh", "-ec", _LAN]
        self._lan = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._lan.stdout is not None
        assert self._lan.stdout.readline() == "ready\n"
        self._lan_init = _child(psutil.Process(self._lan.pid))
        self._boot(1)
        self._wait(lambda: self.inside(_opens, _ip(1), 6379))
        for node in NODES[1:]:
            self._boot(node)
        self._wait(lambda: all(map(self._alive, NODES)))

    def close(self) -> None:
        """End whatever runs in the lan; nothing remains but the text files in `folder`."""
        for client in self._clients:
            client.kill()
            client.wait()
        if hasattr(self, "_lan"):
            self._lan.communicate()  # closes the pipe
        for process, _ in self._running.values():
            process.communicate()
        self._running.clear()
        self._threads.shutdown()
        shutil.rmtree(self._python, ignore_errors=True)
        self.token_file.unlink(missing_ok=True)

    # Faults.

    def kill(self, node: int) -> None:
        """End all of a node's processes at once; its disk stays."""
        process, init = self._running.pop(node)
        init.kill()
        process.communicate()

    def start_node(self, node: int) -> None:
        """Bring a killed node back, with its disk, and wait until it has joined the cluster."""
        before = set() if node == 1 else self._alive(node)  # the cluster may not have missed it yet
        self._boot(node)
        self._wait(lambda: self._alive(node) - before)

    def cut(self, node: int) -> None:
        """Pull a node's network cable: nothing arrives, and nobody is told."""
        self._in_lan("ip", "link", "set", f"node{node}", "down")

    def mend(self, node: int) -> None:
        """Put the cable back. Ray has ended by itself on a node that was cut off for a minute: kill and start it."""
        self._in_lan("ip", "link", "set", f"node{node}", "up")

    # What is there.

    def processes(self, node: int) -> list[psutil.Process]:
        """All of a node, under this machine's process ids."""
        namespace = _namespace(self._running[node][1].pid, "pid")
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(OSError):
                if _namespace(process.pid, "pid") == namespace:
                    found.append(process)
        return found

    def memory(self, node: int) -> dict[str, float]:
        """`rss` and `pss` of all processes of a node, in MB; pages that forks share count once in `pss`."""
        total = {"rss": 0.0, "pss": 0.0}
        for process in self.processes(node):
            with contextlib.suppress(psutil.Error):
                used = process.memory_full_info()
                total["rss"] += used.rss / 1e6
                total["pss"] += used.pss / 1e6
        return total

    def namespaces(self) -> set[str]:
        """Names of the network, mount and process namespaces in use here, none of which may be left after `close`."""
        own = _namespaces(os.getpid())
        return {
            name
            for pid in (self._lan_init.pid, *(init.pid for _, init in self._running.values()))
            for name in _namespaces(pid)
        } - own

    # Clients.

    def url(self, path: str, node: int = 1, port: int = INGRESS) -> str:
        return f"http://{_ip(node)}:{port}{path}"

    def run(self, command: Sequence[str | Path], **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command where a client is: this machine's disk, but only the lan's network. As `subprocess.run`."""
        return _run(self._as_client(command), options)

    def popen(self, command: Sequence[str | Path], **options: Any) -> subprocess.Popen[Any]:
        """Start a command where a client is; it ends with the thread that started it, or with `close`."""
        self._clients.append(subprocess.Popen(self._as_client(command), **options))
        return self._clients[-1]

    def on_node(self, node: int, command: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command on a node, in its home and with its variables."""
        target = f"--target={self._running[node][1].pid}"
        enter = ["nsenter", target, "--mount", "--pid", "--uts", "--ipc", "--net", "--root"]
        variables = [f"{name}={value}" for name, value in self.env.items()]
        command = [*enter, "env", "--chdir=/root", "-i", *variables, *command]
        return _run(command, options)

    def inside(self, call: Callable[_P, _R], *arguments: _P.args, **options: _P.kwargs) -> _R:
        """Have a thread in the lan make a call: the sockets it opens are the lan's, all else is this process's."""
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

    # Behind it.

    def _boot(self, node: int) -> None:
        """Start a node's first process, and plug its cable in."""
        join = ["--address", f"{_ip(1)}:6379"]
        head = ["--head", "--port=6379", "--dashboard-host=0.0.0.0", f"--dashboard-port={DASHBOARD}"]
        ray = ["python", "-m", "ray.scripts.scripts", "start", *(head if node == 1 else join), "--block"]
        ray += [f"--node-ip-address={_ip(node)}", f"--num-cpus={self.cpus[node - 1]}", "--disable-usage-stats"]
        ray += ["--object-store-memory=200000000"]
        enter = ["nsenter", f"--target={self._lan_init.pid}", "--net", "--mount", "--pid"]
        isolate = ["unshare", "--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "sh", "-ec", _NODE, "sh"]
        machine = [*_SYSTEM, sys.base_prefix, *_packages()]
        variables = [f"{name}={value}" for name, value in self.env.items()]
        command: list[str | Path] = [
            *enter,
            *isolate,
            str(node),
            self._python,
            self.token_file,
            *machine,
            "--",
            "env",
            "-i",
            *variables,
            *ray,
        ]
        with self._log(node).open("a") as log:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, text=True)
        init = _child(_child(psutil.Process(process.pid)))
        self._running[node] = process, init
        with contextlib.suppress(subprocess.CalledProcessError):  # that of a node that was killed goes in its own time
            self._in_lan("ip", "link", "delete", f"node{node}")
        self._in_lan("ip", "link", "add", f"node{node}", "type", "veth", "peer", "name", "eth0", "netns", str(init.pid))
        self._in_lan("ip", "link", "set", f"node{node}", "master", "br0", "up")
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()

    def _log(self, node: int) -> Path:
        return self.folder / f"node{node}.log"

    def _wait(self, condition: Callable[[], Any]) -> None:
        try:
            wait_until(condition, START_S)
        except AssertionError as error:
            error.add_note("\n".join(self._log(node).read_text() for node in self._running))
            raise

    def _alive(self, node: int) -> set[str]:
        """Ids under which the head calls a node alive; none while the head's dashboard does not answer."""
        try:
            answer = self.get("/api/v0/nodes?detail=1")
            known = answer.raise_for_status().json()["data"]["result"]["result"]
        except httpx.HTTPError:
            return set()
        return {one["node_id"] for one in known if one["node_ip"] == _ip(node) and one["state"] == "ALIVE"}

    def _enter(self) -> None:
        """Move this thread into the lan; `os.setns` came with Python 3.12."""
        libc = ctypes.CDLL(None, use_errno=True)
        with Path(f"/proc/{self._lan_init.pid}/ns/net").open() as namespace:
            if libc.setns(namespace.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "no way into the lan")

    def _as_client(self, command: Sequence[str | Path]) -> list[str | Path]:
        enter = ["nsenter", f"--target={self._lan_init.pid}", "--net"]
        return [*enter, "setpriv", "--pdeathsig", "KILL", *command]

    def _in_lan(self, *command: str) -> None:
        enter = ["nsenter", f"--target={self._lan_init.pid}", "--net"]
        subprocess.run([*enter, *command], check=True, capture_output=True)


def _run(command: Sequence[str | Path], options: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    done: subprocess.CompletedProcess[str]
    done = subprocess.run(command, **{"text": True, "capture_output": True, "check": False, **options})  # noqa: PLW1510
    return done


def _ip(node: int) -> str:
    return f"10.77.0.{node}"


def _packages() -> list[str]:
    """Where this environment's packages are. `.pth` files in them, such as an editable project's, have no say."""
    return [path for path in sys.path if Path(path).name in {"site-packages", "dist-packages"}]


def _child(process: psutil.Process) -> psutil.Process:
    wait_until(process.children)
    return process.children()[0]


def _namespaces(pid: int) -> set[str]:
    return {_namespace(pid, kind) for kind in ("net", "mnt", "pid")}


def _namespace(pid: int, kind: str) -> str:
    return str(Path(f"/proc/{pid}/ns/{kind}").readlink())


def _opens(host: str, port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) == 0
