"""Base models: accepted by their bytes, from any source; without a network the error says what to do instead."""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from base_models import import_base
from detectctl.errors import ModelCorrupt, ModelError, ModelNotFound, RegistryUnreachable, UsageError
from detectctl.registry import base_weights
from detectctl.registry.base_weights import KNOWN, base_model
from detectctl.registry.reference import BASE_NAMES
from detectctl.registry.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from detectctl.progress import Progress

NOWHERE = "http://127.0.0.1:9"


@dataclass
class Assets:
    """A mirror: `files` by path, `redirects` by path; a file given as None is accepted and never answered."""

    files: dict[str, bytes | int | None] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    url: str = ""
    released: threading.Event = field(default_factory=threading.Event)


@pytest.fixture
def assets() -> Iterator[Assets]:
    site = Assets()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            site.asked.append(self.path)
            data = site.files.get(self.path, 404)
            if self.path in site.redirects:
                self.send_response(302)
                self.send_header("Location", site.redirects[self.path])
                self.end_headers()
            elif data is None:
                site.released.wait(60)
            elif isinstance(data, int):
                self.send_error(data)
            else:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(data)

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            pass  # clients that stop reading are what is tested

    server = Server(("127.0.0.1", 0), Handler)
    site.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield site
    site.released.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def test_every_name_of_a_base_model_can_be_downloaded() -> None:
    """A reference that parses as a base model has a size and a digest to verify it by."""
    assert tuple(KNOWN) == BASE_NAMES


def test_it_is_downloaded_once(store: Store, assets: Assets, yolov8n_pt: Path) -> None:
    """The first call downloads, through redirects and with progress; the second needs no network."""
    assets.redirects["/release/yolov8n.pt"] = "/elsewhere"
    assets.files["/elsewhere"] = yolov8n_pt.read_bytes()
    reported: list[Progress] = []
    first = base_model("yolov8n", store, timeout_s=60, assets_url=f"{assets.url}/release/", report=reported.append)
    assert first.checkpoint.read_bytes() == yolov8n_pt.read_bytes()
    assert (first.name, first.version, first.source, first.fallback) == ("yolov8n", None, "base", False)
    assert first.sha256 == KNOWN["yolov8n"].sha256
    done = [progress.fraction or 0 for progress in reported]
    assert done == sorted(done)
    assert done[-1] == 1
    assert {progress.message for progress in reported} == {"downloading yolov8n"}
    assert base_model("yolov8n", store, timeout_s=60, assets_url=NOWHERE) == first
    assert assets.asked == ["/release/yolov8n.pt", "/elsewhere"]


def test_a_file_in_the_drop_folder_serves(store: Store, yolov8n_pt: Path) -> None:
    """Without a network, a file of any name in the cache's `base/` is recognised by its bytes."""
    folder = store.cache / "base"
    folder.mkdir()
    (folder / "wrong.pt").write_bytes(b"x" * KNOWN["yolov8n"].size)
    (folder / "downloaded (1).pt").write_bytes(yolov8n_pt.read_bytes())
    assert base_model("yolov8n", store, timeout_s=5, assets_url=NOWHERE).sha256 == KNOWN["yolov8n"].sha256


def test_a_damaged_copy_is_fetched_again(store: Store, assets: Assets, yolov8n_pt: Path) -> None:
    """A flipped byte in the store means another download, not a wrong model."""
    import_base(yolov8n_pt, store)
    path = store.open(KNOWN["yolov8n"].sha256).path
    path.write_bytes(b"x" + path.read_bytes()[1:])
    assets.files["/yolov8n.pt"] = yolov8n_pt.read_bytes()
    assert base_model("yolov8n", store, timeout_s=60, assets_url=assets.url).checkpoint == path
    assert path.read_bytes() == yolov8n_pt.read_bytes()


@pytest.mark.parametrize("change", ["flipped", "cut", "longer", "a web page"])
def test_wrong_bytes_are_no_model(store: Store, assets: Assets, yolov8n_pt: Path, change: str) -> None:
    """Whatever a mirror or a captive portal sends instead is refused and not stored."""
    data = yolov8n_pt.read_bytes()
    wrong = {"flipped": data[:-1] + b"x", "cut": data[:-1], "longer": data + b"x", "a web page": b"<html>Log in</html>"}
    assets.files["/yolov8n.pt"] = wrong[change]
    with pytest.raises(ModelCorrupt, match="yolov8n is not the file it should be"):
        base_model("yolov8n", store, timeout_s=60, assets_url=assets.url)
    assert store.list() == ()


@pytest.mark.parametrize(
    ("answer", "error", "why"),
    [(404, ModelNotFound, "HTTP 404"), (403, RegistryUnreachable, "HTTP 403"), (500, RegistryUnreachable, "HTTP 500")],
)
def test_a_refusing_server_is_named(
    store: Store, assets: Assets, answer: int, error: type[ModelError], why: str
) -> None:
    """The error holds the address, the status, and both ways to serve without it."""
    assets.files["/yolov8s.pt"] = answer
    with pytest.raises(error) as caught:
        base_model("yolov8s", store, timeout_s=60, assets_url=assets.url)
    assert f"{assets.url}/yolov8s.pt" in caught.value.what
    assert caught.value.why == why
    assert "--model PATH.pt" in str(caught.value.hint)
    assert str(store.cache / "base") in str(caught.value.hint)
    assert caught.value.exit_code == 5


@pytest.mark.parametrize("address", ["refused", "unknown host"])
def test_an_unreachable_server_is_reported_at_once(store: Store, address: str) -> None:
    """No listener and no such host both give an error well within 20 s that says what to do instead."""
    began = time.monotonic()
    with pytest.raises(RegistryUnreachable) as caught:
        base_model(
            "yolov8s", store, timeout_s=60, assets_url=NOWHERE if address == "refused" else "https://assets.invalid"
        )
    assert time.monotonic() - began < 20
    assert "--model PATH.pt" in str(caught.value.hint)


def test_silence_ends_before_the_deadline(store: Store, assets: Assets, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that accepts and then sends nothing is given up after the stall time, however long the deadline."""
    assert base_weights.STALL_S <= 15  # so that 20 s are kept
    monkeypatch.setattr(base_weights, "STALL_S", 1.0)
    assets.files["/yolov8s.pt"] = None
    began = time.monotonic()
    with pytest.raises(RegistryUnreachable):
        base_model("yolov8s", store, timeout_s=60, assets_url=assets.url)
    assert time.monotonic() - began < 15
    assert list((store.cache / "tmp").iterdir()) == []


def test_a_hanging_name_lookup_ends_too(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stall time also bounds what has no timeout of its own, such as a name lookup."""
    monkeypatch.setattr(base_weights, "STALL_S", 1.0)
    released = threading.Event()

    def lookup(*_: object, **__: object) -> None:
        released.wait(30)
        raise socket.gaierror(socket.EAI_AGAIN, "no answer")

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    began = time.monotonic()
    try:
        with pytest.raises(RegistryUnreachable):
            base_model("yolov8s", store, timeout_s=60, assets_url="http://assets.invalid")
        assert time.monotonic() - began < 15
    finally:
        released.set()


def test_an_address_that_is_none_is_a_usage_error(store: Store) -> None:
    """Only http and https addresses are fetched."""
    with pytest.raises(UsageError, match="file:///srv/assets"):
        base_model("yolov8s", store, timeout_s=5, assets_url="file:///srv/assets")
