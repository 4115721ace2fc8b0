"""HAProxy with the configuration that Serve writes for it and the wrapper edits; Ray itself does not run."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import subprocess
import sys
import time
import uuid
from typing import TYPE_CHECKING

import httpx
import pytest

from detectctl.hosts.local import haproxy, ports
from installed import free_port, wait_until
from raw_server import RawServer, always, answer

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator
    from pathlib import Path

# In a process of its own, because Ray reads its settings from the environment when it is imported.
_WRITE_CONFIGURATION = """
import sys
from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
from ray.serve.config import HTTPOptions
port, replica = map(int, sys.argv[1:])
backend = BackendConfig(
    name="app", path_prefix="/", app_name="detectctl", servers=[ServerConfig("replica", "127.0.0.1", replica)]
)
options = HTTPOptions(host="127.0.0.1", port=port)
HAProxyApi(
    HAProxyConfig(http_options=options, has_received_routes=True, is_head=True, timeout_server_s=1), {"app": backend}
)._generate_config_file_internal()
"""


@pytest.fixture(scope="module")
def replica() -> Iterator[RawServer]:
    """Answers its health check; to all else it does what the path says."""

    async def handler(head: str, writer: asyncio.StreamWriter) -> None:
        path = head.split()[1]
        if path == "/nonsense":
            writer.write(b"nonsense\r\n\r\n")
        elif path != "/silent":
            await always(answer(b"{}", headers=["Content-Type: application/json"]))(head, writer)

    with RawServer(handler) as server:
        yield server


@pytest.fixture(scope="module")
def prepared(replica: RawServer, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """The folder with the wrapper and the configuration that Serve wrote, and the service's port."""
    folder = tmp_path_factory.mktemp("ha") / "in"
    port = free_port()
    env = os.environ | haproxy.prepare(folder, ports.choose(), "127.0.0.1", port)
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _WRITE_CONFIGURATION, str(port), str(replica.port)],
        env=env,
        check=True,
        timeout=120,
    )
    return folder, port


@pytest.fixture(scope="module")
def written(prepared: tuple[Path, int]) -> str:
    """The configuration as Serve wrote it."""
    return (prepared[0] / "haproxy.cfg").read_text()


@pytest.fixture(scope="module")
def ingress(prepared: tuple[Path, int], written: str) -> Iterator[str]:
    """The URL of a running HAProxy."""
    folder, port = prepared
    assert " mode 666 " in written
    with subprocess.Popen([folder / "haproxy", "-db", "-f", folder / "haproxy.cfg"], cwd=folder) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            with httpx.Client(trust_env=False) as client:
                wait_until(lambda: _answers(client, url))
            yield url
        finally:
            process.kill()


def _answers(client: httpx.Client, url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return client.get(f"{url}/fine").status_code == 200
    return False


def _ask(url: str, path: str, *ids: str) -> httpx.Response:
    return httpx.get(url + path, headers=[("X-Request-ID", one) for one in ids], trust_env=False, timeout=30)


@pytest.mark.parametrize(
    ("path", "status", "code"), [("/nonsense", 502, "bad_gateway"), ("/silent", 504, "gateway_timeout")]
)
def test_its_own_errors_have_our_form_and_a_request_id(
    ingress: str, replica: RawServer, path: str, status: int, code: str
) -> None:
    """JSON with the contract's code, `Retry-After`, and the id that the replica was given before it failed."""
    failed = _ask(ingress, path)
    assert failed.status_code == status
    assert failed.json()["error"]["code"] == code
    assert failed.headers["retry-after"] == "1"
    assert failed.headers["cache-control"] == "no-store"
    request_id = failed.headers["x-request-id"]
    assert uuid.UUID(request_id)
    asked = next(head for head in reversed(replica.requests) if head.startswith(f"GET {path} "))
    assert f"x-request-id: {request_id}" in asked.lower()
    assert _ask(ingress, path).headers["x-request-id"] != request_id
    assert _ask(ingress, path, "mine-1").headers["x-request-id"] == "mine-1"


@pytest.mark.parametrize(("ids", "kept"), [((), False), (("a",), True), (("a", "b"), True), (("",), False),
                                           (("two words",), False), (("x" * 129,), False)])  # fmt: skip
def test_every_answer_has_one_request_id(ingress: str, replica: RawServer, ids: tuple[str, ...], kept: bool) -> None:
    """The caller's own if it is one short word, else a new one; the same for the replica."""
    reply = _ask(ingress, "/fine", *ids)
    (request_id,) = reply.headers.get_list("x-request-id")
    assert (request_id == ids[0] if ids else False) is kept
    assert kept or uuid.UUID(request_id)
    asked = [head for head in replica.requests if head.startswith("GET /fine ")][-1].lower()
    assert [line for line in asked.splitlines() if line.startswith("x-request-id:")] == [f"x-request-id: {request_id}"]


@pytest.mark.slow
def test_headers_that_trickle_are_not_waited_for(ingress: str) -> None:
    """408 after 10 s, although a header came every second and the connection was never silent."""
    begun = time.monotonic()
    with socket.create_connection(("127.0.0.1", int(ingress.rpartition(":")[2])), timeout=30) as raw:
        raw.sendall(b"GET /fine HTTP/1.1\r\nHost: localhost\r\n")
        while not select.select([raw], [], [], 1)[0]:
            assert time.monotonic() - begun < 60
            raw.sendall(b"X: y\r\n")
        assert raw.recv(65536).startswith(b"HTTP/1.1 408 ")
    assert time.monotonic() - begun > 9


@pytest.mark.parametrize(
    ("known", "reworded"),
    [
        ("bind *:", "bind [::]:"),
        ("bind *:", "bind 127.0.0.1:1,:"),
        ("bind :", "bind  0.0.0.0:"),
        ("bind 127.0.0.1:", "bind 127.0.0.2:"),
        (" mode 666 ", " mode 0666 "),
        ("timeout client ", "timeout  client "),
        ("errorfile 503 ", "errorfile  503 "),
        ("log 127.0.0.1:514 ", "log 127.0.0.1 "),
    ],
)
def test_a_configuration_in_other_words_is_not_run(
    prepared: tuple[Path, int], written: str, tmp_path: Path, known: str, reworded: str
) -> None:
    """What a newer Ray writes might open more than we know; better no service than that."""
    bent = written.replace(known, reworded)
    assert bent != written
    for text, code in ((written, 0), (bent, 1)):
        (tmp_path / "haproxy.cfg").write_text(text)
        command: list[str | Path] = [prepared[0] / "haproxy", "-c", "-f", tmp_path / "haproxy.cfg"]
        checked = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
        assert checked.returncode == code, checked.stderr
    assert "detectctl does not know this configuration" in checked.stderr


def test_every_address_of_a_service_passes_its_own_check(
    written: str, prepared: tuple[Path, int], tmp_path: Path
) -> None:
    for number, host in enumerate(("0.0.0.0", "::", "::1", "localhost")):  # noqa: S104 - nothing listens
        folder = tmp_path / str(number)
        haproxy.prepare(folder, ports.choose(), host, prepared[1])
        (folder / "haproxy.cfg").write_text(written.replace(str(prepared[0]), str(folder)))
        command: list[str | Path] = [folder / "haproxy", "-c", "-f", folder / "haproxy.cfg"]
        checked = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
        assert checked.returncode == 0, checked.stderr
