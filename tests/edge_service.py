"""One instance as an operator would open it to strangers: keys on, one host allowed, and a small model to be quick."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
import psutil

from installed import Home, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOP = "127.0.0.9"
"""The only host that is not public and yet may be opened: where redirects and slow servers are."""
REBOUND = "turns.rebound.test"
"""A name that leads to another of `REBOUND_TO` at each lookup, when the service asks for it."""
REBOUND_TO = ((HOP,), ("127.0.0.1",), (HOP, "127.0.0.1"), ("::1",))
STRAY_TOKEN = "0" * 64
"""In the user's own `~/.ray`, where it would confuse a Ray that looks there."""

# Python runs it in every process of the instance; only this name is bent.
_BENT_RESOLVER = f"""
import itertools, socket
turns, getaddrinfo = itertools.cycle({REBOUND_TO!r}), socket.getaddrinfo
def bent(host, port, *rest, **options):
    if host != {REBOUND!r}:
        return getaddrinfo(host, port, *rest, **options)
    return [answer for address in next(turns) for answer in getaddrinfo(address, port, type=socket.SOCK_STREAM)]
socket.getaddrinfo = bent
"""

LOOPBACK = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}

# In a process of its own, because Ray reads its authentication settings once.
_ASK_REPLICA = """
import sys
import grpc
from ray.serve.generated import serve_pb2, serve_pb2_grpc
metadata = [("authorization", "Bearer " + sys.argv[2])] if len(sys.argv) > 2 else []
with grpc.insecure_channel(sys.argv[1]) as channel:
    stub = serve_pb2_grpc.ASGIServiceStub(channel)
    try:
        stub.HandleRequest(serve_pb2.ASGIRequest(), timeout=5, metadata=metadata)
    except grpc.RpcError as error:
        print(error.code().name)
    else:
        print("answered")
"""


@dataclass(frozen=True)
class Edge:
    """A running instance and what is secret about it."""

    home: Home
    url: str
    key_file: Path
    key: str

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers={"X-API-Key": self.key}, timeout=30, trust_env=False, **options)

    @property
    def state(self) -> dict[str, Any]:
        state = self.home.instance()
        assert state is not None
        return state

    def processes(self) -> list[psutil.Process]:
        """Every process that the instance caused: the head's family, and whoever carries the mark."""
        head = psutil.Process(self.state["head"]["pid"])
        found = {process.pid: process for process in (head, *head.children(recursive=True), *self.home.processes())}
        return list(found.values())

    def replica(self) -> psutil.Process:
        (pid,) = (one["pid"] for one in self.home.json("status", "--json")["replicas"] if one["state"] == "RUNNING")
        return psutil.Process(pid)


def ask_raw(port: int, method: str, path: str, body: bytes = b"") -> bytes:
    """Whatever a port on loopback answers to one HTTP request; empty if it hangs up or says nothing for 3 s."""
    head = f"{method} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    answer = b""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=3) as raw:
        raw.sendall(head.encode() + body)
        while chunk := raw.recv(65536):
            answer += chunk
    return answer


def python(script: str, *arguments: str, **env: str) -> str:
    """The last line that the script prints, run without anything of ours in its environment."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, *arguments],
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout, done.stderr
    return done.stdout.strip().splitlines()[-1]


def ask_replica(port: int, *token: str) -> str:
    """What a replica's gRPC port on this machine says to a call, with a token or without."""
    return python(_ASK_REPLICA, f"127.0.0.1:{port}", *token)


def beyond_loopback(listening: list[tuple[str, int, str]]) -> list[tuple[str, int, str]]:
    """Those of the listeners that other machines may reach, at whichever address."""
    return [(address, port, name) for address, port, name in listening if address not in LOOPBACK]


@contextlib.contextmanager
def edge_up(home: Home) -> Iterator[Edge]:
    """From `up` to `down`; the key is random, so that wherever it is found it leaked."""
    key = secrets.token_hex(16)
    key_file = home.path / "service.keys"
    key_file.touch(mode=0o600)
    key_file.write_text(f"# of the tests\n{key}\n")
    port = free_port()
    (home.path / ".ray").mkdir()
    (home.path / ".ray" / "auth_token").write_text(STRAY_TOKEN)
    bent = home.path / "bent"
    bent.mkdir()
    (bent / "sitecustomize.py").write_text(_BENT_RESOLVER)
    try:
        done = home.run(
            *("up", "--port", str(port), "--api-key-file", str(key_file), "--allow-url", HOP),
            *("--imgsz", "64", "--replicas", "1"),
            PYTHONPATH=str(bent),
        )
        assert done.returncode == 0, done.stderr
        yield Edge(home, f"http://127.0.0.1:{port}", key_file, key)
    finally:
        left = home.clean()
    assert left == []
