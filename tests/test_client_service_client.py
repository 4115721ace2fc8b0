from __future__ import annotations

import gc
import io
import itertools
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from bent_service import INFO, Request, bent
from detectctl.client.service_client import Client
from detectctl.errors import (
    ImageTooLarge,
    NotReady,
    NotRunning,
    SourceUnreadable,
    Unauthorized,
    UnsupportedImage,
)
from detectctl.sources import Source, resolve
from detectctl.wire import Detection, DetectOptions, DrawOptions

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BUS = {"class": "bus", "coordinates": [10.0, 5.0, 90.0, 45.0], "confidence": 0.8734, "class_id": 5}


def picture(width: int = 100, height: int = 50, colour: str = "white", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(buffer, "PNG", **options)
    return buffer.getvalue()


def found(request: Request) -> None:
    request.found(BUS)


def files(folder: Path, count: int) -> list[Source]:
    for number in range(count):
        (folder / f"{number:04}.jpg").write_bytes(f"image {number}".encode())
    return list(resolve([str(folder)]))


def test_a_files_bytes_are_posted_and_the_answer_comes_back_as_data(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"image")
    with bent(found) as service, Client(service.url) as client:
        result = client.detect(Source("a.jpg", path=tmp_path / "a.jpg"))
    assert result.detections == (Detection("bus", (10.0, 5.0, 90.0, 45.0), 0.8734, 5),)
    assert (result.width, result.height, result.model.name) == (100, 50, "yolov8n")
    (request,) = service.requests
    assert (request.method, request.path, request.query, request.body) == ("POST", "/detect", [], b"image")
    assert request.headers["content-type"] == "application/octet-stream"
    assert "authorization" not in request.headers


def test_the_next_endpoint_is_asked_where_one_gives_no_answer(tmp_path: Path) -> None:
    """Then that one, as long as it answers."""
    (tmp_path / "a.png").write_bytes(b"image")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with bent(found, found) as service, Client(nobody, others=[service.url], api_key="secret") as client:
            for _ in range(2):
                assert client.detect(tmp_path / "a.png").detections
    assert [request.headers["authorization"] for request in service.requests] == ["Bearer secret"] * 2


def test_options_become_the_query() -> None:
    options = DetectOptions(confidence=0.5, iou=0.6, classes=("traffic light", "a&b=c"))
    with bent(found) as service, Client(service.url) as client:
        client.detect(Source("-", data=b"image"), options)
    assert sorted(service.requests[0].query) == [
        ("class", "a&b=c"),
        ("class", "traffic light"),
        ("conf", "0.5"),
        ("iou", "0.6"),
    ]


def test_a_url_is_left_to_the_service_whole() -> None:
    url = "http://image.host/a.jpg?x=1&y=ü#z"
    with bent(found) as service, Client(service.url) as client:
        client.detect(Source(url, url=url))
    (request,) = service.requests
    assert (request.method, request.query, request.body) == ("GET", [("image_url", url)], b"")


def test_fetch_client_downloads_without_the_key_and_posts_the_bytes() -> None:
    with (
        bent(lambda request: request.answer(200, b"image")) as host,
        bent(found) as service,
        Client(service.url, api_key="secret", fetch="client") as client,
    ):
        client.detect(f"{host.url}/a.jpg")
    assert "secret" not in str(host.requests[0].headers)
    assert host.requests[0].headers["user-agent"].startswith("detectctl/")
    assert service.requests[0].body == b"image"
    assert service.requests[0].headers["authorization"] == "Bearer secret"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"objects": [{"class": "bus"}], "image": {"width": 1, "height": 1}, "model": {}}',
        b'{"objects": null}',
    ],
)
def test_an_answer_of_another_shape_is_not_accepted(body: bytes) -> None:
    with (
        bent(lambda request: request.answer(200, body)) as service,
        Client(service.url) as client,
        pytest.raises(NotReady, match="does not answer like a detectctl service"),
    ):
        client.detect(Source("-", data=b"image"))


def test_info_and_labels_are_the_services_own() -> None:
    with bent(lambda request: request.answer(200, INFO.to_json())) as service, Client(service.url) as client:
        assert client.info() == INFO
        assert client.labels() == {0: "person"}
    assert [request.path for request in service.requests] == ["/info", "/info"]


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"hello": "world"}'])
def test_info_from_another_service_is_not_a_bug_of_ours(body: bytes) -> None:
    """Its answer is reported as what it is, exit code 4."""
    with bent(lambda request: request.answer(200, body)) as service, Client(service.url) as client:
        for ask in (client.info, client.labels):
            with pytest.raises(NotReady, match="does not answer like a detectctl service"):
                ask()


def test_ready_asks_once_and_says_which_deployment_answers() -> None:
    answer = {"status": "ready", "deployment": "0123abc"}
    with bent(lambda request: request.answer(200, answer)) as service, Client(service.url) as client:
        assert client.deployment() == "0123abc"
        assert client.ready()
    with bent(lambda request: request.answer(503, b"")) as service, Client(service.url) as client:
        assert not client.ready()
        assert len(service.requests) == 1
    assert not Client(service.url).ready()
    with bent(lambda request: request.answer(200, b"<html>")) as service, Client(service.url) as client:
        assert not client.ready()
        with pytest.raises(NotReady, match="does not answer like a detectctl service"):
            client.deployment()


def test_outcomes_come_in_the_order_of_the_sources_though_answers_do_not(tmp_path: Path) -> None:
    sources = files(tmp_path, 40)
    delays = itertools.cycle([0.03, 0.0, 0.01])

    def uneven(request: Request) -> None:
        time.sleep(next(delays))
        found(request)

    with bent(uneven) as service, Client(service.url) as client:
        outcomes = list(client.detect_all(sources))
    assert [outcome.source for outcome in outcomes] == sources
    assert {request.body for request in service.requests} == {source.read() for source in sources}
    assert all(outcome.result is not None and outcome.error is None for outcome in outcomes)


def test_an_outcome_comes_as_soon_as_it_is_known(tmp_path: Path) -> None:
    """The first two are handed out while the service still holds the third."""
    release = threading.Event()

    def hold_the_third(request: Request) -> None:
        if request.body == b"image 2":
            release.wait(10)
        found(request)

    with bent(hold_the_third) as service, Client(service.url, concurrency=2) as client:
        outcomes = client.detect_all(files(tmp_path, 3))
        first = [next(outcomes).source.name[-8:], next(outcomes).source.name[-8:]]
        assert not release.is_set()
        release.set()
        assert len(list(outcomes)) == 1
    assert first == ["0000.jpg", "0001.jpg"]


def test_one_bad_source_does_not_stop_the_rest(tmp_path: Path) -> None:
    def picky(request: Request) -> None:
        if request.body == b"image 1":
            request.fail(413, "image_too_large")
        else:
            found(request)

    files(tmp_path, 3)
    arguments = [str(tmp_path / "missing.jpg"), str(tmp_path)]
    with bent(picky) as service, Client(service.url) as client:
        outcomes = list(client.detect_all(resolve(arguments)))
    assert [type(outcome.error) for outcome in outcomes] == [
        SourceUnreadable,
        type(None),
        ImageTooLarge,
        type(None),
    ]


def test_without_a_service_a_thousand_sources_fail_once(tmp_path: Path) -> None:
    with bent(found) as service:
        pass
    with Client(service.url) as client, pytest.raises(NotRunning):
        list(client.detect_all(files(tmp_path, 1000)))


def test_a_wrong_key_is_reported_once_and_ends_the_work(tmp_path: Path) -> None:
    """No thread goes on with what was queued, also while the caller still holds the outcomes."""
    before = set(threading.enumerate())
    with bent(lambda request: request.fail(401, "unauthorized")) as service, Client(service.url) as client:
        outcomes = client.detect_all(files(tmp_path, 1000))
        with pytest.raises(Unauthorized):
            list(outcomes)
        for thread in set(threading.enumerate()) - before:
            if thread.name.startswith("in-order"):
                thread.join(timeout=20)
                assert not thread.is_alive()
        assert len(service.requests) < 200


def test_no_more_images_than_the_concurrency_are_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that count their living instances, read by 4 threads from 200 files, while the first answer is late."""

    class Counted(bytes):
        lock = threading.RLock()
        alive = most = 0

        def __del__(self) -> None:
            with Counted.lock:
                Counted.alive -= 1

    def read(source: Source) -> bytes:
        assert source.path is not None
        data = Counted(source.path.read_bytes())
        with Counted.lock:
            Counted.alive += 1
            Counted.most = max(Counted.most, Counted.alive)
        return data

    first = threading.Event()

    def late_first(request: Request) -> None:
        if not first.is_set():
            first.set()
            time.sleep(0.3)
        found(request)

    monkeypatch.setattr(Source, "read", read)
    with bent(late_first) as service, Client(service.url, concurrency=4) as client:
        assert len(list(client.detect_all(files(tmp_path, 200)))) == 200
    gc.collect()
    assert Counted.most <= 4
    assert Counted.most > 1
    assert Counted.alive == 0


def test_sources_are_taken_only_a_bounded_way_ahead(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"image")
    taken = 0

    def endless() -> Iterator[Source]:
        nonlocal taken
        while True:
            taken += 1
            yield Source("a", path=tmp_path / "a.jpg")

    with bent(found) as service, Client(service.url, concurrency=2) as client:
        outcomes = client.detect_all(endless())
        for _ in range(10):
            next(outcomes)
        assert taken <= 10 + 2 * 32 + 1


def test_a_slow_source_fails_at_its_deadline_and_the_rest_goes_on(tmp_path: Path) -> None:
    release = threading.Event()

    def stuck_first(request: Request) -> None:
        if request.body == b"image 0":
            release.wait(60)
        found(request)

    with bent(stuck_first) as service, Client(service.url, timeout_s=2, concurrency=2) as client:
        started = time.monotonic()
        outcomes = list(client.detect_all(files(tmp_path, 10)))
        assert 1.9 < time.monotonic() - started < 20
        release.set()
    assert [outcome.error is None for outcome in outcomes] == [False] + [True] * 9


def test_a_fallback_is_written_on_the_picture() -> None:
    def fallback(request: Request) -> None:
        request.found(fallback=True, reason="no such alias")

    bottoms = []
    for behaviour in (lambda request: request.found(), fallback):
        with bent(behaviour) as service, Client(service.url) as client:
            data, _ = client.annotate(Source("-", data=picture()), "png")
        bottoms.append(Image.open(io.BytesIO(data)).getpixel((99, 49)))
    assert bottoms[0] == (255, 255, 255)
    assert sum(bottoms[1]) < 150  # type: ignore[arg-type]


def test_boxes_of_another_size_of_picture_are_not_drawn() -> None:
    with (
        bent(lambda request: request.found(BUS, width=50, height=100)) as service,
        Client(service.url) as client,
        pytest.raises(UnsupportedImage) as caught,
    ):
        client.annotate(Source("-", data=picture()), "png")
    assert caught.value.why == "it has 100x50 pixels here, 50x100 in the service"


def test_fetch_client_draws_on_what_it_downloaded() -> None:
    with (
        bent(lambda request: request.answer(200, picture())) as host,
        bent(found) as service,
        Client(service.url, fetch="client") as client,
    ):
        data, result = client.annotate(host.url)
    assert data[:3] == b"\xff\xd8\xff"
    assert result is not None
    assert len(host.requests) == 1


def test_a_url_that_the_service_fetches_is_annotated_there_in_the_format_and_style_asked_for() -> None:
    def annotated(request: Request) -> None:
        request.answer(200, b"webp bytes", Content_Type="image/webp")

    url = "http://image.host/a.jpg"
    with bent(annotated) as service, Client(service.url) as client:
        drawing = DrawOptions(labels=False, line_width=3, quality=50)
        assert client.annotate(url, "webp", DetectOptions(confidence=0.5), drawing) == (
            b"webp bytes",
            None,
        )
        client.annotate(url, "webp")
    styled, plain = service.requests
    assert (styled.method, styled.path, styled.headers["accept"]) == ("GET", "/annotate", "image/webp")
    assert dict(styled.query) == {
        "image_url": url, "conf": "0.5", "labels": "false", "line_width": "3", "quality": "50",
    }  # fmt: skip
    assert plain.query == [("image_url", url)]


def test_asking_loads_neither_pillow_nor_httpx_nor_the_serving_stack() -> None:
    """Importing the client in a fresh interpreter; drawing imports Pillow when something is drawn."""
    code = (
        "import sys, detectctl.client.service_client, detectctl.client.formats, detectctl.sources\n"
        "heavy = {'PIL', 'httpx', 'ray', 'torch', 'ultralytics', 'wandb', 'openvino', 'numpy', 'cv2', 'rich'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
