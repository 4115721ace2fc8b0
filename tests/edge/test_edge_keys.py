"""Keys of a real instance: required, rotated, used by our own client, and found nowhere else."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import psutil
import pytest

import edge_promises
from detectctl.keys import read_keys
from edge_service import ask_raw, ask_replica, beyond_loopback
from installed import Home, free_port, listening, wait_until
from raw_server import RawServer, always, answer

if TYPE_CHECKING:
    from edge_service import Edge

pytestmark = pytest.mark.cluster


def test_every_route_but_health_checks_and_page_wants_the_key(edge: Edge, bus_jpg: Path) -> None:
    """Both headers are accepted; without a key, or with another, every route but these is closed."""
    with httpx.Client(base_url=edge.url, trust_env=False, timeout=30) as client:
        for method, route in (
            ("GET", "/detect?image_url=http://127.0.0.1/"),
            ("POST", "/detect"),
            ("GET", "/annotate?image_url=http://127.0.0.1/"),
            ("POST", "/annotate"),
            ("GET", "/info"),
            ("GET", "/metrics"),
            ("GET", "/docs"),
            ("GET", "/openapi.json"),
            ("OPTIONS", "/detect"),
            ("GET", "/nowhere"),
        ):
            for headers in ({}, {"X-API-Key": "wrong-key-0123456789"}, {"Authorization": f"Basic {edge.key}"}):
                refused = client.request(method, route, headers=headers)
                assert refused.status_code == 401, (method, route)
                assert refused.json()["error"]["code"] == "unauthorized"
                assert refused.headers["www-authenticate"].startswith("Bearer")
                assert refused.headers["x-request-id"]
        for route in (
            "/healthz",
            "/readyz",
            "/",
            "/page/app.js",
            "/-/healthz",
            "/-/routes",
        ):  # the last two are HAProxy's
            assert client.get(route).status_code == 200
        assert client.get("/-/routes").json() == {"/": "detectctl"}
        for headers in ({"X-API-Key": edge.key}, {"Authorization": f"Bearer {edge.key}"}):
            assert client.get("/info", headers=headers).status_code == 200
            found = client.post("/detect", content=bus_jpg.read_bytes(), headers=headers)
            assert found.status_code == 200


def test_refusals_limits_headers_and_ids_are_as_promised(edge: Edge) -> None:
    """Those of a replica on a cluster are asked the same."""
    with httpx.Client(base_url=edge.url, trust_env=False, timeout=30) as client:
        edge_promises.assert_kept(client.request, edge.key)


def test_our_client_uses_the_instances_key_by_itself(edge: Edge, bus_jpg: Path, tmp_path: Path) -> None:
    """`detect` and `annotate` need no option to use a local instance."""
    assert edge.home.run("detect", str(bus_jpg)).returncode == 0
    assert edge.home.run("annotate", str(bus_jpg), "-o", str(tmp_path / "out.jpg")).returncode == 0


def test_our_client_gives_the_key_to_no_other_origin(edge: Edge, bus_jpg: Path) -> None:
    """Not to another `--url`, not to the target of a redirect, not to an image's server."""
    elsewhere = always(answer(b"{}", headers=["Content-Type: application/json"]))
    with RawServer(elsewhere) as other:
        redirect = always(answer(status="302 Found", headers=[f"Location: http://127.0.0.1:{other.port}/detect"]))
        with RawServer(redirect) as redirecting:
            edge.home.run("detect", str(bus_jpg), "--url", f"http://127.0.0.1:{other.port}", "--retries", "0")
            edge.home.run("detect", str(bus_jpg), "--url", f"http://127.0.0.1:{redirecting.port}", "--retries", "0")
            edge.home.run("detect", f"http://127.0.0.1:{other.port}/a.jpg", "--fetch", "client", "--retries", "0")
        seen = "".join(other.requests + redirecting.requests)
        assert len(other.requests) >= 2
        assert edge.key not in seen


def test_another_services_key_is_given_by_file(edge: Edge, bus_jpg: Path) -> None:
    """`--api-key-file` and its variable; without it the refusal is exit 7 and names the option."""
    refused = edge.home.run("detect", str(bus_jpg), "--url", edge.url)
    assert refused.returncode == 7
    assert "--api-key-file" in refused.stderr
    by_option = edge.home.run("detect", str(bus_jpg), "--url", edge.url, "--api-key-file", str(edge.key_file))
    by_variable = edge.home.run(
        "detect", str(bus_jpg), "--url", edge.url, DETECTCTL_DETECT_API_KEY_FILE=str(edge.key_file)
    )
    assert (by_option.returncode, by_variable.returncode) == (0, 0)
    assert edge.key not in by_option.stdout + by_option.stderr + refused.stderr


def test_keys_rotate_while_it_serves(edge: Edge) -> None:
    """A second key is accepted without a restart beside the first; once removed it is not accepted any more."""
    before = edge.replica().pid
    second = "second-key-0123456789"

    def status(key: str) -> int:
        return httpx.get(f"{edge.url}/info", headers={"X-API-Key": key}, trust_env=False, timeout=30).status_code

    original = edge.key_file.read_text()
    try:
        assert status(second) == 401
        edge.key_file.write_text(f"{original}{second}\n")
        assert (status(second), status(edge.key)) == (200, 200)
    finally:
        edge.key_file.write_text(original)
    assert (status(second), status(edge.key)) == (401, 200)
    assert edge.replica().pid == before


def _environments(own: set[int]) -> dict[int, bytes]:
    found = {}
    for pid in psutil.pids():
        if pid not in own:
            with contextlib.suppress(OSError):
                found[pid] = Path(f"/proc/{pid}/environ").read_bytes()
    return found


def test_the_key_is_found_nowhere(edge: Edge, bus_jpg: Path, tmp_path: Path) -> None:
    """After a full run: in no argument, environment, log, state, temporary file, status, info, error or dashboard."""
    edge.home.run("detect", str(bus_jpg))
    edge.home.run("annotate", str(bus_jpg), "-o", str(tmp_path / "out.png"))
    printed = [
        edge.home.run(*command)
        for command in (
            ("status",),
            ("status", "--json"),
            ("status", "--all", "--json"),
            ("logs", "--tail", "10000"),
            ("logs", "--tail", "10000", "--level", "debug", "--json"),
            ("detect", "missing.jpg", "--verbose"),
            ("detect", str(bus_jpg), "--format", "json", "--verbose"),
            ("up", "--port", "1", "--verbose"),
        )
    ]
    texts = {f"output of {done.args[1:]}": done.stdout + done.stderr for done in printed}
    token = Path(edge.state["temp_dir"], "token").read_text()
    with edge.client() as client:
        client.headers["X-API-Key"] = f"{edge.key}x"  # nearly right: an error must not repeat it
        texts["refusal"] = client.get("/info").text
        client.headers["X-API-Key"] = edge.key
        for route in ("/info", "/docs", "/openapi.json", "/readyz", "/healthz", "/nowhere", "/detect"):
            reply = client.get(route)
            texts[route] = reply.text + str(reply.headers)
    with httpx.Client(trust_env=False, headers={"Authorization": f"Bearer {token}"}, timeout=30) as dashboard:
        for route in (
            "/api/serve/applications/",
            "/api/version",
            "/nodes?view=summary",
            "/api/jobs/",
            "/logical/actors",
        ):
            texts[f"dashboard {route}"] = dashboard.get(edge.state["dashboard_url"] + route).text
    assert "detectctl" in texts["dashboard /api/serve/applications/"]
    for _, port, _ in listening(edge.processes()):
        texts[f"metrics {port}"] = ask_raw(port, "GET", "/metrics").decode(errors="replace")
    assert [where for where, text in texts.items() if edge.key in text] == []

    arguments = {pid: Path(f"/proc/{pid}/cmdline") for pid in psutil.pids()}
    blocks = dict.fromkeys(arguments, b"")
    for pid, path in arguments.items():
        with contextlib.suppress(OSError):
            blocks[pid] = path.read_bytes()
    secret = edge.key.encode()
    assert [pid for pid, block in blocks.items() if secret in block] == []
    environments = _environments({os.getpid()})
    assert len(environments) > 5
    assert [pid for pid, block in environments.items() if secret in block] == []

    folders = (edge.home.path, Path(edge.state["temp_dir"]), *Path("/dev/shm").glob("plasma*"))  # noqa: S108 - Ray's
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 30
    holders = [path for path in files if secret in _bytes(path)]
    assert holders == [edge.key_file]


def _bytes(path: Path) -> bytes:
    with contextlib.suppress(OSError):
        return path.read_bytes()
    return b""


def test_a_made_key_is_shown_once_and_opens(home: Home, bus_jpg: Path) -> None:
    """Beyond loopback `up` needs an option about keys, before anything starts; a generated key is then required."""
    port = str(free_port())
    outside = ("up", "--host", "0.0.0.0", "--port", port, "--imgsz", "64", "--replicas", "1")  # noqa: S104 - the claim
    refused = home.run(*outside)
    assert refused.returncode == 2
    for option in ("--api-key-file", "--generate-api-key", "--no-auth"):
        assert option in refused.stderr
    assert home.instance() is None

    made = home.json(*outside, "--generate-api-key", "--cors-origin", "https://app.example.org", "--no-docs", "--json")
    file = Path(made["api_key_file"])
    assert read_keys(file) == (made["api_key"],)
    assert file.stat().st_mode & 0o777 == 0o600
    assert made["api_key"] not in json.dumps(home.instance())
    again = home.run(*outside, "--generate-api-key", "--cors-origin", "https://app.example.org", "--no-docs", "--json")
    assert json.loads(again.stdout)["action"] == "unchanged"
    assert made["api_key"] not in again.stdout + again.stderr
    assert home.run("detect", str(bus_jpg)).returncode == 0

    origin = {"Origin": "https://app.example.org"}
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as client:
        key = {"X-API-Key": made["api_key"]}
        assert client.get("/info").status_code == 401
        for route in ("/docs", "/openapi.json"):
            assert client.get(route, headers=key).status_code == 404
        asked = client.options(
            "/detect",
            headers=origin | {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "X-API-Key"},
        )
        assert (asked.status_code, asked.headers["access-control-allow-origin"]) == (200, origin["Origin"])
        assert client.get("/info", headers=key | origin).headers["access-control-allow-origin"] == origin["Origin"]
        stranger = client.get("/info", headers=key | {"Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in stranger.headers

    # What can be reached from outside, at any address: the service, and replicas' ports that answer nobody.
    wait_until(lambda: home.run("status").returncode == 0)
    reachable = beyond_loopback(listening(home.processes()))
    others = [(number, name) for _, number, name in reachable if number != int(port)]
    assert len(others) < len(reachable)
    assert all(name.startswith("ray::ServeRep") for _, name in others), others
    assert {ask_replica(number) for number, _ in others} <= {"UNAUTHENTICATED"}
