"""The listeners of an instance: who can reach them, and what they answer without the token."""

from __future__ import annotations

import contextlib
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from edge_service import LOOPBACK, STRAY_TOKEN, ask_raw, ask_replica, beyond_loopback, python
from installed import listening

if TYPE_CHECKING:
    from edge_service import Edge

pytestmark = pytest.mark.cluster

# Ray's own client: without the token, with a wrong one, with the right one.
_ASK_GCS = """
import sys
from ray._raylet import GcsClient
try:
    GcsClient(address=sys.argv[1]).internal_kv_keys(b"", None, timeout=5)
except BaseException as error:
    print(type(error).__name__, str(error)[:200])
else:
    print("answered")
"""


def _listening(edge: Edge) -> list[tuple[str, int, str]]:
    """Address, port and process of every TCP listener of the instance."""
    return listening(edge.processes())


def test_only_one_listener_is_not_on_loopback_and_it_wants_the_token(edge: Edge) -> None:
    """All listen on loopback but Serve's gRPC between deployments, which answers nothing without the token."""
    listening = _listening(edge)
    assert len(listening) > 15
    service = int(edge.url.rpartition(":")[2])
    assert service in {port for _, port, _ in listening}
    others = beyond_loopback(listening)
    assert all(name.startswith("ray::ServeRep") for _, _, name in others), others
    assert len(others) <= 1
    for _, port, _ in others:
        assert ask_replica(port) == "UNAUTHENTICATED"
        assert ask_replica(port, "0" * 64) == "UNAUTHENTICATED"
        assert ask_replica(port, Path(edge.state["temp_dir"], "token").read_text()) != "UNAUTHENTICATED"


def test_from_another_address_nothing_but_that_answers(edge: Edge) -> None:
    """A connection to the machine's own address is refused at every port that is on loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing; tells which address the machine would use
        outer = probe.getsockname()[0]
    if outer.startswith("127."):
        pytest.skip("this machine has no address but loopback")
    reached = []
    for address, port, name in _listening(edge):
        if address in LOOPBACK:
            with contextlib.suppress(OSError), socket.create_connection((outer, port), timeout=2):
                reached.append((port, name))
    assert reached == []


def test_rays_control_store_answers_only_with_the_token(edge: Edge) -> None:
    """GCS, which can run code, refuses requests without a token or with a wrong one."""
    (port,) = (port for _, port, name in _listening(edge) if name == "gcs_server")
    address = f"127.0.0.1:{port}"
    token_file = Path(edge.state["temp_dir"], "token")
    wrong = edge.home.path / "wrong-token"
    wrong.write_text("0" * 64)
    with_token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token_file)}
    assert "answered" not in python(_ASK_GCS, address, RAY_AUTH_MODE="disabled")
    assert "answered" not in python(_ASK_GCS, address, **with_token | {"RAY_AUTH_TOKEN_PATH": str(wrong)})
    assert python(_ASK_GCS, address, **with_token) == "answered"


def test_the_dashboard_answers_only_with_the_token(edge: Edge) -> None:
    """Serve's REST interface and the agent's HTTP interface answer 401 or 403 without the token."""
    dashboard = edge.state["dashboard_url"]
    path = f"{dashboard}/api/serve/applications/"
    token = Path(edge.state["temp_dir"], "token").read_text()
    with httpx.Client(trust_env=False, timeout=30) as client:
        for headers in ({}, {"Authorization": "Bearer " + "0" * 64}):
            assert client.get(path, headers=headers).status_code in {401, 403}
            assert client.put(path, headers=headers, json={"applications": []}).status_code in {401, 403}
        assert client.get(path, headers={"Authorization": f"Bearer {token}"}).status_code == 200


def test_no_port_gives_a_stranger_anything_to_command(edge: Edge) -> None:
    """Over plain HTTP, every port but the service's refuses, is not HTTP, or shows figures only."""
    service = int(edge.url.rpartition(":")[2])
    shown = {}
    for _, port, name in _listening(edge):
        if port == service:
            continue
        answer = ask_raw(port, "PUT", "/api/serve/applications/", b'{"applications": []}')
        if answer.startswith((b"HTTP/1.1 2", b"HTTP/1.0 2")):
            shown[name, port] = answer.partition(b"\r\n\r\n")[2]
    # Prometheus' exporters answer any request with their figures.
    assert [key for key, body in shown.items() if not body.lstrip().startswith(b"# HELP")] == []
    with edge.client() as client:
        assert client.get("/readyz").status_code == 200


def test_the_key_guards_the_replica_behind_haproxy_too(edge: Edge) -> None:
    """The replica's own port, which is open to local users, requires the key, too."""
    ports = [port for _, port, name in _listening(edge) if name.startswith("ray::ServeRep")]
    answers = [ask_raw(port, "GET", "/info") for port in ports]
    # The others speak gRPC, and hang up on HTTP/1.
    assert [answer.split()[1] for answer in answers if answer.startswith(b"HTTP/1.1 ")] == [b"401"]


def test_files_are_the_owners_alone(edge: Edge) -> None:
    """The instance's folders are 0700 and its token 0600: no other user can read sockets, logs or state."""
    temp_dir, state = Path(edge.state["temp_dir"]), edge.home.state / "default"

    def mode(path: Path) -> int:
        return stat.S_IMODE(path.stat().st_mode)

    assert mode(temp_dir) == mode(state) == 0o700
    assert mode(temp_dir / "token") == mode(state / "instance.json") == 0o600

    def reachable(folder: Path) -> list[Path]:
        """The paths below `folder`, without those in a folder that only its owner may enter."""
        found = []
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                found += [] if mode(path) == 0o700 else reachable(path)
            elif mode(path) & 0o077:
                found.append(path)
        return found

    dropped = edge.home.cache / "base" / "yolov8n.pt"  # the tests put it there, as a user would
    assert reachable(edge.home.state) == []
    assert reachable(edge.home.cache) == [dropped]


def test_nothing_of_the_users_own_ray_is_touched(edge: Edge) -> None:
    """An existing `~/.ray` is neither used nor changed, and usage statistics are off."""
    (stray,) = (edge.home.path / ".ray").iterdir()
    assert stray.read_text() == STRAY_TOKEN
    environ: dict[str, Any] = edge.replica().environ()
    assert environ["RAY_USAGE_STATS_ENABLED"] == "0"
    assert environ["RAY_AUTH_MODE"] == "token"
    token = Path(edge.state["temp_dir"], "token").read_text()
    assert token not in environ.values()
    assert token != STRAY_TOKEN
