"""Base models: accepted by their bytes, from any source; without a network the error says what to do instead."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from base_models import import_base
from detectctl.errors import ModelCorrupt, ModelError, ModelNotFound, RegistryUnreachable, UsageError
from detectctl.registry import assets as release
from detectctl.registry.base_names import BASE_NAMES
from detectctl.registry.base_weights import KNOWN, base_model, kept_bases
from detectctl.registry.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from detectctl.progress import Progress

NOWHERE = "http://127.0.0.1:9"
MODEL = b"a checkpoint"
OTHER = b"another checkpoint"


@dataclass
class Assets:
    """A mirror: `files` by path, `redirects` by path; a file given as None is accepted and never answered.

    `headers` go with every answer.
    """

    files: dict[str, bytes | int | None] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    url: str = ""
    released: threading.Event = field(default_factory=threading.Event)

    def publish(self, model: str, data: bytes, **other: object) -> None:
        """List `MODEL.pt` as GitHub's REST interface does, among others; `other` replaces keys of its entry."""
        url, entries = f"{self.url}/ultralytics/assets/releases/download/v8.4.0", []
        for file, content in (("yolo11n.pt", b"x"), (f"{model}.pt", data), ("notes.txt", b"y")):
            self.files[f"/ultralytics/assets/releases/download/v8.4.0/{file}"] = content
            entries.append(
                {
                    "url": f"{self.url}/repos/ultralytics/assets/releases/assets/1",
                    "name": file,
                    "state": "uploaded",
                    "content_type": "application/octet-stream",
                    "size": len(content),
                    "digest": f"sha256:{_sha256(content)}",
                    "browser_download_url": f"{url}/{file}",
                }
                | (other if content is data else {})
            )
        listing = {"tag_name": "v8.4.0", "name": "v8.4.0", "draft": False, "assets": entries}
        self.files[LISTING] = json.dumps(listing).encode()

    def mirror(self, name: str, data: bytes) -> None:
        """Have `NAME.pt`, and beside it what `sha256sum` prints."""
        self.files |= {f"/{name}.pt": data, f"/{name}.pt.sha256": f"{_sha256(data)}  {name}.pt\n".encode()}


LISTING = "/repos/ultralytics/assets/releases/tags/v8.4.0"


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


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
            else:
                self.send_response(data if isinstance(data, int) else 200)
                for name, value in site.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(b"" if isinstance(data, int) else data)

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


@pytest.fixture
def github(assets: Assets, monkeypatch: pytest.MonkeyPatch) -> Assets:
    """The release as GitHub lists it; `assets-url` is not set."""
    monkeypatch.setattr(release, "API_URL", assets.url)
    return assets


def test_what_is_known_is_a_base_model() -> None:
    assert set(BASE_NAMES) >= KNOWN.keys()


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
    assert "yolov8s.pt" in caught.value.what.split()
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
    assert release.STALL_S <= 15  # so that 20 s are kept
    monkeypatch.setattr(release, "STALL_S", 1.0)
    assets.files["/yolov8s.pt"] = None
    began = time.monotonic()
    with pytest.raises(RegistryUnreachable):
        base_model("yolov8s", store, timeout_s=60, assets_url=assets.url)
    assert time.monotonic() - began < 15
    assert list((store.cache / "tmp").iterdir()) == []


def test_a_hanging_name_lookup_ends_too(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stall time also bounds what has no timeout of its own, such as a name lookup."""
    monkeypatch.setattr(release, "STALL_S", 1.0)
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


def test_a_release_is_verified_by_its_own_listing(store: Store, github: Assets) -> None:
    """GitHub's digest of the file; recorded, so that the second time asks nobody."""
    github.publish("yolo26n-seg", MODEL)
    first = base_model("yolo26n-seg", store, timeout_s=60)
    assert (first.checkpoint.read_bytes(), first.sha256) == (MODEL, _sha256(MODEL))
    assert (first.name, first.source, first.version) == ("yolo26n-seg", "base", None)
    assert github.asked == [LISTING, "/ultralytics/assets/releases/download/v8.4.0/yolo26n-seg.pt"]
    github.files.clear()
    assert base_model("yolo26n-seg", store, timeout_s=60) == first
    assert len(github.asked) == 2
    assert kept_bases(store) == {"yolo26n-seg": first.sha256}


def test_several_that_need_it_at_once_download_it_once(store: Store, github: Assets) -> None:
    """The others wait, and find it stored and recorded."""
    github.publish("yolo26n", MODEL)
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(lambda _: base_model("yolo26n", Store(store.cache), timeout_s=60), range(4)))
    assert {one.sha256 for one in found} == {_sha256(MODEL)}
    assert len(github.asked) == 2


def test_a_mirror_is_verified_by_the_file_beside(store: Store, assets: Assets) -> None:
    assets.mirror("rtdetr-l", MODEL)
    assert base_model("rtdetr-l", store, timeout_s=60, assets_url=assets.url).sha256 == _sha256(MODEL)
    assert base_model("rtdetr-l", store, timeout_s=60, assets_url=NOWHERE).sha256 == _sha256(MODEL)


def test_bytes_that_the_listing_does_not_promise_are_no_model(store: Store, github: Assets) -> None:
    """They are neither stored nor recorded."""
    github.publish("yolo26n", MODEL)
    github.files["/ultralytics/assets/releases/download/v8.4.0/yolo26n.pt"] = OTHER[: len(MODEL)]
    with pytest.raises(ModelCorrupt, match="yolo26n is not the file it should be"):
        base_model("yolo26n", store, timeout_s=60)
    assert store.list() == ()
    github.publish("yolo26n", MODEL)
    assert base_model("yolo26n", store, timeout_s=60).sha256 == _sha256(MODEL)


@pytest.mark.parametrize("source", ["release", "mirror"])
def test_a_name_keeps_its_bytes(store: Store, github: Assets, source: str) -> None:
    """Pruned here and replaced there: an error with both digests and the way out, and nothing is downloaded."""
    url = github.url if source == "mirror" else None
    serve = github.mirror if source == "mirror" else github.publish
    serve("yolo26n", MODEL)
    base_model("yolo26n", store, timeout_s=60, assets_url=url)
    store.prune((), {})
    serve("yolo26n", OTHER)
    github.asked.clear()
    with pytest.raises(ModelCorrupt, match="yolo26n has changed since it was first used here") as caught:
        base_model("yolo26n", store, timeout_s=60, assets_url=url)
    assert _sha256(MODEL) in str(caught.value.why)
    assert _sha256(OTHER) in str(caught.value.why)
    assert len(github.asked) == 1
    folder = store.cache / "base"
    folder.mkdir()
    (folder / "old.pt").write_bytes(MODEL)
    assert base_model("yolo26n", store, timeout_s=60, assets_url=url).checkpoint.read_bytes() == MODEL
    store.prune((), {})
    (folder / "old.pt").unlink()
    (record,) = (store.cache / "references").iterdir()
    assert str(record) in str(caught.value.hint)
    record.unlink()
    assert base_model("yolo26n", store, timeout_s=60, assets_url=url).checkpoint.read_bytes() == OTHER


def test_the_drop_folder_needs_a_digest_where_none_is_known(store: Store) -> None:
    """What the error asks for is what then serves."""
    folder = store.cache / "base"
    folder.mkdir()
    (folder / "yolo26n.pt").write_bytes(MODEL)
    with pytest.raises(RegistryUnreachable) as caught:
        base_model("yolo26n", store, timeout_s=5, assets_url=NOWHERE)
    assert f"put yolo26n.pt and yolo26n.pt.sha256 into {folder}" in str(caught.value.hint)
    (folder / "yolo26n.pt.sha256").write_text(f"{_sha256(MODEL)} *yolo26n.pt\n")
    assert base_model("yolo26n", store, timeout_s=5, assets_url=NOWHERE).sha256 == _sha256(MODEL)


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"digest": None}, ModelNotFound, "no sha256 to verify yolo26n.pt"),
        ({"digest": "md5:00"}, ModelNotFound, "no sha256 to verify yolo26n.pt"),
        ({"name": "yolo26n.onnx"}, ModelNotFound, "release v8.4.0 of ultralytics/assets has no yolo26n.pt"),
        ({"size": None}, RegistryUnreachable, "not a release as GitHub lists it"),
    ],
)
def test_a_listing_without_the_file_or_its_digest_is_said(
    store: Store, github: Assets, change: dict[str, object], error: type[ModelError], says: str
) -> None:
    github.publish("yolo26n", MODEL, **change)
    with pytest.raises(error) as caught:
        base_model("yolo26n", store, timeout_s=60)
    assert says in f"{caught.value.what}\n{caught.value.why}"
    assert "--model PATH.pt" in str(caught.value.hint)


@pytest.mark.parametrize("page", [b"<html>Log in</html>", b"[]", b'{"assets": null}', b'{"message": "hello"}'])
def test_another_answer_than_a_listing_is_said(store: Store, github: Assets, page: bytes) -> None:
    """Such as a captive portal's."""
    github.files[LISTING] = page
    with pytest.raises(RegistryUnreachable, match=r"yolo26n\.pt could not be looked up") as caught:
        base_model("yolo26n", store, timeout_s=60)
    assert caught.value.why == "the answer is not a release as GitHub lists it"


def test_githubs_limit_is_named(store: Store, github: Assets) -> None:
    """GitHub answers 60 questions an hour without an account, and says so in headers."""
    github.files[LISTING] = 403
    github.headers = {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1700000000"}
    with pytest.raises(RegistryUnreachable) as caught:
        base_model("yolo26n", store, timeout_s=60)
    until = time.strftime("%H:%M", time.localtime(1_700_000_000))
    assert caught.value.why == f"HTTP 403: GitHub answers no more questions from this address until {until}"
    github.headers = {"X-RateLimit-Remaining": "0"}
    with pytest.raises(RegistryUnreachable, match="could not be downloaded") as caught:
        base_model("yolo26n", store, timeout_s=60)
    assert str(caught.value.why).endswith("from this address")


@pytest.mark.parametrize("beside", [404, b"", b"<html>Log in</html>", f"{'0' * 64}\n{'1' * 64}\n".encode()])
def test_a_mirror_without_a_digest_is_told_how_to_give_one(store: Store, assets: Assets, beside: bytes | int) -> None:
    assets.files |= {"/yolo26n.pt": MODEL, "/yolo26n.pt.sha256": beside}
    with pytest.raises(ModelNotFound, match=r"yolo26n\.pt\.sha256") as caught:
        base_model("yolo26n", store, timeout_s=60, assets_url=assets.url)
    assert "sha256sum yolo26n.pt > yolo26n.pt.sha256" in str(caught.value.hint)
    assert store.list() == ()


def test_a_mirrors_password_is_not_shown(store: Store, assets: Assets) -> None:
    """Not in any of the errors that name the mirror."""
    url = assets.url.replace("//", "//user:geheim@")
    for name in ("yolov8n", "yolo26n"):
        with pytest.raises(ModelNotFound) as caught:
            base_model(name, store, timeout_s=60, assets_url=url)
        assert "geheim" not in f"{caught.value.what}\n{caught.value.why}\n{caught.value.hint}"
    with pytest.raises(UsageError) as wrong:
        base_model("yolo26n", store, timeout_s=60, assets_url=url.replace("http:", "ftp:"))
    assert "geheim" not in wrong.value.what
