from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from bent_service import Request, bent
from detectctl.client.service_client import Client
from detectctl.errors import BadUrl, FetchFailed, FetchTimeout, ImageTooLarge
from detectctl.sources import Source
from detectctl.waiting import Deadline

if TYPE_CHECKING:
    from collections.abc import Callable


def fine(request: Request) -> None:
    request.answer(200, b"fine")


def reset(request: Request) -> None:
    request.reset()


def unavailable(request: Request) -> None:
    request.answer(503, b"later", Retry_After="0")


def download(url: str, *, timeout_s: float = 30) -> bytes:
    with Client("http://127.0.0.1:1", fetch="client") as client:
        return client._bytes(Source.of(url), Deadline.after(timeout_s))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses of milliseconds: what is tested is whether it is tried again."""
    monkeypatch.setattr("detectctl.client.service_client.FIRST_PAUSE_S", 0.005)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("trouble", [unavailable, reset])
def test_a_download_is_tried_again(trouble: Callable[[Request], None]) -> None:
    with bent(trouble, fine) as service:
        assert download(service.url) == b"fine"


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("status", [404, 403, 200])
def test_a_download_that_was_refused_or_is_empty_is_not_tried_again(status: int) -> None:
    with bent(lambda request: request.answer(status, b"")) as service, pytest.raises(FetchFailed, match="downloaded"):
        download(service.url)
    assert len(service.requests) == 1


def test_a_download_that_takes_too_long_is_reported_as_that() -> None:
    release = threading.Event()

    def hang(_: Request) -> None:
        release.wait(30)

    with bent(hang) as service:
        with pytest.raises(FetchTimeout):
            download(service.url, timeout_s=0.5)
        release.set()


def test_more_than_any_service_accepts_is_not_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detectctl.client.service_client.MAX_FILE_BYTES", 100)
    with bent(lambda request: request.answer(200, b"x" * 101)) as service, pytest.raises(ImageTooLarge):
        download(service.url)
    assert len(service.requests) == 1


@pytest.mark.parametrize("url", ["http://", "http://host:99999/a.jpg", "http://[::1/a.jpg"])
def test_a_malformed_image_url_is_a_bad_url(url: str) -> None:
    with pytest.raises(BadUrl):
        download(url)


def test_an_image_host_that_is_not_there_is_a_failed_download(closed_port: int) -> None:
    with pytest.raises(FetchFailed) as caught:
        download(f"http://127.0.0.1:{closed_port}/a.jpg")
    assert caught.value.why == "Connection refused"
