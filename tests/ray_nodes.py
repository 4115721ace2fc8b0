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
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from installed import wait_until
from ray_cluster import DASHBOARD, INGRESS, START_RAY, RayCluster, packages, run

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NODES = (1, 2, 3)
"""The first is the head."""
UNPACKED = "/tmp/ray/session_latest/runtime_resources/py_modules_files"  # noqa: S108 - on each node
"""Where Ray unpacks packages of Python."""
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
_PATH = "/opt/venv/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
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


class RayNodes(RayCluster):
    """Three nodes, from `with` to the end of its block.

    Attributes:
        cpus: how many each node offers; 0 for a head that takes no replicas.
    """

    def __init__(
        self, folder: Path, *, env: Mapping[str, str] | None = None, cpus: tuple[float, float, float] = (2, 2, 2)
    ) -> None:
        super().__init__(folder, {"PATH": _PATH, "HOME": "/root", **(env or {})})
        self.cpus = cpus
        self._running: dict[int, tuple[subprocess.Popen[str], psutil.Process]] = {}

    def _start(self) -> None:
        command = ["unshare", "--net", "--mount", "--pid", "--fork", "sh", "-ec", _LAN]
        self._lan = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._lan.stdout is not None
        assert self._lan.stdout.readline() == "ready\n"
        self._lan_init = _child(psutil.Process(self._lan.pid))
        self._boot(1)
        self._wait(lambda: self.inside(_opens, _ip(1), 6379))
        for node in NODES[1:]:
            self._boot(node)
        self._wait(lambda: all(self._alive(_ip(node)) for node in NODES))

    def _stop(self) -> None:
        if hasattr(self, "_lan"):
            self._lan.communicate()  # closes the pipe
        for process, _ in self._running.values():
            process.communicate()
        self._running.clear()

    def kill(self, node: int) -> None:
        process, init = self._running.pop(node)
        init.kill()
        process.communicate()

    def start_node(self, node: int) -> None:
        before = set() if node == 1 else self._alive(_ip(node))  # the cluster may not have missed it yet
        self._boot(node)
        self._wait(lambda: self._alive(_ip(node)) - before)

    def cut(self, node: int) -> None:
        self._in_lan("ip", "link", "set", f"node{node}", "down")

    def mend(self, node: int) -> None:
        self._in_lan("ip", "link", "set", f"node{node}", "up")

    def processes(self, node: int) -> list[psutil.Process]:
        namespace = _namespace(self._running[node][1].pid, "pid")
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(OSError):
                if _namespace(process.pid, "pid") == namespace:
                    found.append(process)
        return found

    def namespaces(self) -> set[str]:
        """Names of the network, mount and process namespaces in use here, none of which may be left after `close`."""
        own = _namespaces(os.getpid())
        return {
            name
            for pid in (self._lan_init.pid, *(init.pid for _, init in self._running.values()))
            for name in _namespaces(pid)
        } - own

    def url(self, path: str, node: int = 1, port: int = INGRESS) -> str:
        return f"http://{_ip(node)}:{port}{path}"

    def on_node(self, node: int, command: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
        target = f"--target={self._running[node][1].pid}"
        enter = ["nsenter", target, "--mount", "--pid", "--uts", "--ipc", "--net", "--root"]
        return run([*enter, "env", "--chdir=/root", *self._with_env, *command], **options)

    def _boot(self, node: int) -> None:
        """Start a node's first process, and plug its cable in."""
        head = ["--head", "--port=6379", "--dashboard-host=0.0.0.0", f"--dashboard-port={DASHBOARD}"]
        part = head if node == 1 else [f"--address={_ip(1)}:6379"]
        ray = ["python", *START_RAY, *part, f"--node-ip-address={_ip(node)}", f"--num-cpus={self.cpus[node - 1]}"]
        enter = ["nsenter", f"--target={self._lan_init.pid}", "--net", "--mount", "--pid"]
        isolate = ["unshare", "--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "sh", "-ec", _NODE, "sh"]
        mine = [str(node), str(self._python), str(self.token_file)]
        machine = [*_SYSTEM, sys.base_prefix, *packages()]
        command = [*enter, *isolate, *mine, *machine, "--", *self._with_env, *ray]
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


def _ip(node: int) -> str:
    return f"10.77.0.{node}"


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
