"""HAProxy with the configuration that Serve writes and the wrapper edits, and no HAProxy where that text is new."""

from __future__ import annotations

import contextlib
import os
import re
import runpy
import select
import socket
import subprocess
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from bent_ray import bend
from detectctl.hosts.local import haproxy, ports
from faults.scene import PlainHome
from installed import free_port, wait_until
from raw_server import RawServer, always, answer

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator
    from concurrent.futures import Future
    from pathlib import Path

    from installed import Home

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
def chosen() -> ports.Ports:
    return ports.choose()


@pytest.fixture(scope="module")
def prepared(replica: RawServer, chosen: ports.Ports, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """The folder with the wrapper and the configuration that Serve wrote, and the service's port."""
    folder = tmp_path_factory.mktemp("ha") / "in"
    port = free_port()
    env = os.environ | haproxy.prepare(folder, chosen, "127.0.0.1", port)
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


@pytest.fixture(scope="module")
def trickling(ingress: str) -> Iterator[Future[tuple[bytes, float]]]:
    """A caller whose headers never end, beside all others: the answer, and after how many seconds it came."""
    with ThreadPoolExecutor(1) as thread:
        yield thread.submit(_trickle, int(ingress.rpartition(":")[2]))


def _trickle(port: int) -> tuple[bytes, float]:
    begun = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=30) as raw:
        raw.sendall(b"GET /fine HTTP/1.1\r\nHost: localhost\r\n")
        while not select.select([raw], [], [], 1)[0]:
            assert time.monotonic() - begun < 60
            raw.sendall(b"X: y\r\n")
        return raw.recv(65536), time.monotonic() - begun


def _answers(client: httpx.Client, url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return client.get(f"{url}/fine").status_code == 200
    return False


def _ask(url: str, path: str, *ids: str) -> httpx.Response:
    return httpx.get(url + path, headers=[("X-Request-ID", one) for one in ids], trust_env=False, timeout=30)


@pytest.mark.usefixtures("trickling")
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


BENDS = {
    "statistics on every IPv6 address": ("bind *:{{ config.stats_port }}", "bind [::]:{{ config.stats_port }}"),
    "statistics on two addresses": ("bind *:", "bind 127.0.0.1:1,:"),
    "metrics on every address": ("bind :{{", "bind 0.0.0.0:{{"),
    "service with options": ("{{ config.frontend_port }}", "{{ config.frontend_port }} accept-proxy"),
    "one more listener": ("listen stats", "listen more\n  bind 10.0.0.1:9\nlisten stats"),
    "another mode of the admin socket": (" mode 666 ", " mode 0666 "),
    "an admin socket on the network": ("stats socket {{ config.socket_path }}", "stats socket ipv4@*:9999"),
    "an admin socket in other words": ("    stats socket {{ config.socket_path }}", "\tstats  socket ipv4@*:9999"),
    "a listener behind a tab": ("listen stats", "listen more\n\tbind *:9\nlisten stats"),
    "another time limit": ("timeout client ", "timeout  client "),
    "another error file": ("errorfile 503 ", "errorfile  503 "),
    "another log": ("log {{ config.log_target }}", "log 10.0.0.1:514"),
    "another answer while there is no application": ("return status 404", "return status 410"),
}
"""What of Ray's template → what a newer Ray might have in its place."""


def test_the_template_is_known(chosen: ports.Ports, tmp_path: Path) -> None:
    """Otherwise every service would run behind Serve's own proxy."""
    for host in ("127.0.0.1", "0.0.0.0", "::", "::1", "localhost"):  # noqa: S104 - nothing listens
        assert haproxy.obstacle(tmp_path, tmp_path / "cache", chosen, host, free_port()) is None
    assert list(tmp_path.iterdir()) == [tmp_path / "cache"]


def test_a_text_that_went_well_is_not_tried_again(
    chosen: ports.Ports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But any other text is, another wrapper's too; what did not go well is not kept."""
    tried: list[str] = []
    render = haproxy._render

    def counted(template: str, *rest: Any) -> str:
        tried.append(template)
        return render(template, *rest)

    def ask() -> str | None:
        return haproxy.obstacle(tmp_path, tmp_path / "cache", chosen, "127.0.0.1", free_port())

    monkeypatch.setattr(haproxy, "_render", counted)
    assert (ask(), ask(), len(tried)) == (None, None, 1)
    with monkeypatch.context() as other_wrapper:
        other_wrapper.setattr(haproxy, "_EDIT", haproxy._EDIT + "# another\n")
        assert (ask(), len(tried)) == (None, 2)
    _with_template(monkeypatch, *BENDS["another log"])
    assert None not in {ask(), ask()}
    assert len(tried) == 4


@pytest.mark.parametrize("bend", BENDS)
def test_another_text_is_an_obstacle(
    bend: str, chosen: ports.Ports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a newer Ray writes might open more than we know; better no HAProxy than that."""
    _with_template(monkeypatch, *BENDS[bend])
    obstacle = haproxy.obstacle(tmp_path, tmp_path / "cache", chosen, "127.0.0.1", free_port())
    assert obstacle is not None
    assert "detectctl does not know" in obstacle


@pytest.mark.parametrize(
    ("known", "reworded", "why"),
    [
        ("haproxy_fmt", "haproxy_text", "No filter named 'haproxy_text'"),
        ("{%- endif %}", "{%- fi %}", "TemplateSyntaxError"),
    ],
)
def test_a_template_that_cannot_be_filled_in_is_an_obstacle(
    known: str, reworded: str, why: str, chosen: ports.Ports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _with_template(monkeypatch, known, reworded)
    assert why in str(haproxy.obstacle(tmp_path, tmp_path / "cache", chosen, "127.0.0.1", free_port()))


def test_a_template_of_another_name_is_an_obstacle(
    chosen: ports.Ports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runpy, "run_path", lambda _: {})
    assert "HAPROXY_CONFIG_TEMPLATE" in str(
        haproxy.obstacle(tmp_path, tmp_path / "cache", chosen, "127.0.0.1", free_port())
    )


def _with_template(monkeypatch: pytest.MonkeyPatch, known: str, reworded: str) -> None:
    run = runpy.run_path

    def bent(path: str) -> dict[str, Any]:
        text = run(path)["HAPROXY_CONFIG_TEMPLATE"]
        assert known in text
        return {"HAPROXY_CONFIG_TEMPLATE": text.replace(known, reworded)}

    monkeypatch.setattr(runpy, "run_path", bent)


def test_serve_itself_fills_the_template_in_alike(written: str, chosen: ports.Ports, tmp_path: Path) -> None:
    """As far as the wrapper looks: what is judged before the start is what HAProxy is given after it."""
    words = "bind |stats socket |log |errorfile |timeout client |http-request return status 404"
    seen = re.compile(f"^ *(?:{words}).*", re.MULTILINE)
    (port,) = re.findall(r"bind 127[.]0[.]0[.]1:(\d+)", written)

    def looked_at(text: str) -> set[str]:
        # Folders differ, and how long HAProxy waits is not looked at.
        return {re.sub(r"/\S+|(?<=timeout client ).*", "…", line) for line in seen.findall(text)}

    assert looked_at(haproxy._render(haproxy._template(), tmp_path, chosen, int(port))) == looked_at(written)


@pytest.mark.parametrize(
    ("known", "reworded"), [("bind *:", "bind [::]:"), (" mode 666 ", " mode 0666 "), ("log 127", "log 10.127")]
)
def test_the_wrapper_starts_no_haproxy_with_another_text(
    prepared: tuple[Path, int], written: str, tmp_path: Path, known: str, reworded: str
) -> None:
    """Also where what Serve writes changes later."""
    bent = written.replace(known, reworded)
    assert bent != written
    for text, code in ((written, 0), (bent, 1)):
        (tmp_path / "haproxy.cfg").write_text(text)
        command: list[str | Path] = [prepared[0] / "haproxy", "-c", "-f", tmp_path / "haproxy.cfg"]
        checked = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
        assert checked.returncode == code, checked.stderr
    assert "detectctl does not know" in checked.stderr


def test_it_writes_no_line_for_each_request(prepared: tuple[Path, int], written: str, tmp_path: Path) -> None:
    """Serve would read each, for metrics that a head of our own does not collect."""
    config = tmp_path / "haproxy.cfg"
    config.write_text(written)
    assert "metrics.sock" in written
    subprocess.run(["/bin/sh", prepared[0] / "haproxy.edit", config], check=True)
    assert set(re.findall(r"^ *log .*", config.read_text(), re.MULTILINE)) == {"    log global"}


@pytest.mark.slow
@pytest.mark.parametrize("files", [512, 1024])
def test_it_starts_within_the_limit_of_open_files(tmp_path: Path, files: int) -> None:
    """It would not with more connections than it can have descriptors for, and says how many it took."""
    port = free_port()
    code = f"""
import os, resource, runpy, sys
resource.setrlimit(resource.RLIMIT_NOFILE, ({files}, {files}))
from pathlib import Path
from detectctl.hosts.local import haproxy, ports
folder = Path(sys.argv.pop())
os.environ |= haproxy.prepare(folder, ports.choose(), "127.0.0.1", {port})
{_WRITE_CONFIGURATION}
os.execv(folder / "haproxy", [folder / "haproxy", "-db", "-f", folder / "haproxy.cfg"])
"""
    socket_file = tmp_path / "in" / "admin.sock"
    command = [sys.executable, "-W", "ignore", "-c", code, str(port), str(free_port()), str(tmp_path / "in")]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        try:
            wait_until(lambda: socket_file.exists() or process.poll() is not None)
            assert process.poll() is None, process.communicate()[1]
            with socket.socket(socket.AF_UNIX) as admin:
                admin.connect(str(socket_file))
                admin.sendall(b"show info\n")
                info = admin.makefile().read()
        finally:
            process.kill()
    assert f"Maxconn: {(files - 128) * 2 // 5}\n" in info


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


@pytest.mark.cluster
@pytest.mark.slow
# Long: what begins so ends in the same way.
@pytest.mark.long  # each of the obstacles above leads here
@pytest.mark.parametrize("cause", ["another Ray", "no HAProxy"])
def test_without_a_haproxy_that_is_known_serves_own_proxy_serves(
    home: Home, bus_jpg: Path, photo_server: str, tmp_path: Path, cause: str
) -> None:
    """The text of its template is new, or Ray has none for this machine: a slower service, and `up` warns of the first.

    Bytes and URLs are answered, and errors are ours; so is what the proxy says itself, while the first replica loads.
    """
    ray = str(bend(tmp_path, *BENDS["another mode of the admin socket"]))
    pythonpath = ray if cause == "another Ray" else PlainHome(home.path).env["PYTHONPATH"]
    arguments = ("up", "--port", str(free_port()), "--replicas", "1", "--allow-url", "127.0.0.1")
    url = f"http://127.0.0.1:{arguments[2]}"
    early = []
    with home.start(*arguments, PYTHONPATH=pythonpath) as process:
        while process.poll() is None:
            with contextlib.suppress(httpx.TransportError):
                early.append(httpx.get(f"{url}/readyz", timeout=30))
            time.sleep(0.1)
        assert process.stderr is not None
        said = process.stderr.read()
    assert process.returncode == 0, said
    assert ("lower throughput: this version of Ray writes a configuration" in said) == (cause == "another Ray")
    unready = [one for one in early if one.status_code != 200]
    assert {one.status_code for one in unready} == {503}
    assert {one.json()["error"]["code"] for one in unready} == {"unavailable"}
    assert {one.headers["Retry-After"] for one in unready} == {"1"}

    assert any("ray::ProxyActor" in " ".join(process.cmdline()) for process in home.processes())
    assert not any("haproxy" in process.name() for process in home.processes())
    state = home.instance()
    assert state is not None
    assert state["haproxy"] is False
    posted = httpx.post(f"{url}/detect", content=bus_jpg.read_bytes(), timeout=60)
    assert posted.json()["status"] == "found"
    fetched = httpx.get(f"{url}/detect", params={"image_url": f"{photo_server}/bus.jpg"}, timeout=60)
    assert fetched.json() == posted.json()
    refused = httpx.post(f"{url}/detect", content=b"no image", timeout=60)
    assert (refused.status_code, refused.json()["error"]["code"]) == (415, "unsupported_image")
    assert refused.headers["X-Request-ID"]

    # Updated by a detectctl whose Ray is the known one: the instance stays what it was started as.
    updated = home.run(*arguments, "--conf", "0.5")
    assert updated.returncode == 0, updated.stderr
    assert httpx.post(f"{url}/detect", content=bus_jpg.read_bytes(), timeout=60).json()["status"] == "found"
    assert home.run("down").returncode == 0
    assert home.instance() is None


def test_headers_that_trickle_are_not_waited_for(trickling: Future[tuple[bytes, float]]) -> None:
    """408 after 10 s, although a header came every second and the connection was never silent."""
    answered, seconds = trickling.result()
    assert answered.startswith(b"HTTP/1.1 408 ")
    assert seconds > 9
