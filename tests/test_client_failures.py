from __future__ import annotations

import itertools
import json
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest

from bent_service import Request, bent
from detectctl.client.service_client import Client
from detectctl.errors import (
    REQUEST_ERRORS,
    BadUrl,
    DeadlineExceeded,
    DetectctlError,
    FetchFailed,
    FetchTimeout,
    ImageTooLarge,
    InternalError,
    NotReady,
    NotRunning,
    Overloaded,
    RequestError,
    Unauthorized,
    UnsupportedImage,
    UsageError,
)
from detectctl.sources import Source
from detectctl.waiting import Deadline
from detectctl.wire import error_body

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def fine(request: Request) -> None:
    request.answer(200, b"fine")


def reset(request: Request) -> None:
    request.reset()


def plain_502(request: Request) -> None:
    request.answer(502, b"<h1>Bad Gateway</h1>\n", Content_Type="text/html")


def failing(status: int, code: str, **headers: str) -> Callable[[Request], None]:
    return lambda request: request.fail(status, code, **headers)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses of milliseconds: what is tested is whether it is tried again."""
    monkeypatch.setattr("detectctl.client.service_client.FIRST_PAUSE_S", 0.005)


def ask(
    url: str, *, timeout_s: float = 30, retries: int = 4, key: str | None = None, body: bytes | None = None
) -> bytes:
    with Client(url, api_key=key, retries=retries) as client:
        return client._ask("POST", "/detect", Deadline.after(timeout_s), body=body).body


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    "trouble",
    [failing(503, "overloaded"), failing(500, "internal_error"), plain_502, reset],
    ids=["503", "500", "502 of a proxy", "reset"],
)
def test_what_may_pass_is_tried_again_with_the_same_body(trouble: Callable[[Request], None]) -> None:
    with bent(trouble, trouble, fine) as service:
        assert ask(service.url, body=b"image") == b"fine"
    assert [request.body for request in service.requests] == [b"image"] * 3


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (413, "image_too_large", ImageTooLarge),
        (401, "unauthorized", Unauthorized),
        (502, "fetch_failed", FetchFailed),
        (504, "fetch_timeout", FetchTimeout),
        (418, "from_the_future", RequestError),
    ],
)
def test_an_answer_about_the_request_is_raised_at_once_as_what_it_is(
    status: int, code: str, kind: type[RequestError]
) -> None:
    with bent(failing(status, code, X_Request_ID="req-7")) as service, pytest.raises(RequestError) as caught:
        ask(service.url)
    assert type(caught.value) is kind
    assert caught.value.what == f"it is {code}"
    assert (caught.value.code, caught.value.request_id) == (code, "req-7")
    assert len(service.requests) == 1


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("code", "hint"),
    [
        ("image_too_large", "the service's own hint"),
        ("unsupported_image", "the service's own hint"),
        ("unauthorized", "give the service's key: `--api-key-file FILE`"),
        ("not_found", "give the service's own address, without a route: `--url http://HOST:PORT`"),
        ("fetch_failed", "check the URL; or download it yourself: `--fetch client`"),
    ],
)
def test_the_services_error_is_raised_again_with_one_hint(code: str, hint: str) -> None:
    """What and why as the replica said them; one remedy, the client's where the service's is about HTTP."""
    sent = REQUEST_ERRORS[code]("what failed", why="the cause", hint="the service's own hint")
    answering = bent(lambda request: request.answer(sent.status, error_body(sent)))
    with answering as service, pytest.raises(type(sent)) as caught:
        ask(service.url)
    assert (caught.value.what, caught.value.why, caught.value.hint) == ("what failed", "the cause", hint)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("retries", [0, 2])
def test_it_gives_up_after_so_many_retries_and_says_what_came_last(retries: int) -> None:
    with bent(failing(500, "internal_error")) as service, pytest.raises(InternalError, match="it is internal_error"):
        ask(service.url, retries=retries)
    assert len(service.requests) == retries + 1


def test_retry_after_is_honoured() -> None:
    with bent(failing(503, "overloaded", Retry_After="1"), fine) as service:
        started = time.monotonic()
        assert ask(service.url) == b"fine"
    assert time.monotonic() - started >= 1


def test_a_retry_after_beyond_the_deadline_is_not_waited_for() -> None:
    with bent(failing(503, "overloaded", Retry_After="60")) as service:
        started = time.monotonic()
        with pytest.raises(Overloaded):
            ask(service.url, timeout_s=50)
    assert time.monotonic() - started < 10


@pytest.mark.usefixtures("quick")
def test_a_service_that_says_when_to_come_back_is_asked_until_the_deadline() -> None:
    """A full queue costs no retries, unless there are to be none."""
    full = failing(503, "overloaded", Retry_After="0")
    with bent(full, full, full, fine) as service:
        assert ask(service.url, retries=1) == b"fine"
    with bent(full) as service, pytest.raises(Overloaded):
        ask(service.url, retries=0)
    assert len(service.requests) == 1


@pytest.mark.usefixtures("quick")
def test_an_images_server_that_says_when_to_come_back_is_asked_again_within_the_retries() -> None:
    """It may say so for ever, which the service itself does not."""
    busy = failing(502, "fetch_failed", Retry_After="0")
    with bent(busy, busy, fine) as service:
        assert ask(service.url, retries=2) == b"fine"
    with bent(busy) as service, pytest.raises(FetchFailed):
        ask(service.url, retries=2)
    assert len(service.requests) == 3


def test_the_pause_that_an_images_server_asks_for_is_kept() -> None:
    with bent(failing(502, "fetch_failed", Retry_After="1"), fine) as service:
        started = time.monotonic()
        assert ask(service.url) == b"fine"
        assert time.monotonic() - started >= 1
    with bent(failing(502, "fetch_failed", Retry_After="60")) as service, pytest.raises(FetchFailed):
        ask(service.url, timeout_s=50)
    assert len(service.requests) == 1


@pytest.mark.usefixtures("quick")
def test_a_rate_limiter_in_front_of_the_service_is_waited_for() -> None:
    with bent(lambda request: request.answer(429, b"slow down", Retry_After="0"), fine) as service:
        assert ask(service.url) == b"fine"


def test_pauses_grow() -> None:
    times: list[float] = []

    def note(request: Request) -> None:
        times.append(time.monotonic())
        request.fail(503, "overloaded")

    with bent(note) as service, pytest.raises(Overloaded):
        ask(service.url, retries=3)
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert pauses[0] >= 0.1
    assert pauses[1] >= 0.2
    assert pauses[2] >= 0.4


def test_an_answer_that_does_not_come_in_time_is_reported_as_that() -> None:
    release = threading.Event()

    def hang(_: Request) -> None:
        release.wait(30)

    with bent(hang) as service:
        with pytest.raises(DeadlineExceeded, match="in time"):
            ask(service.url, timeout_s=0.5)
        release.set()
    assert len(service.requests) == 1


def test_closing_ends_the_waiting_for_another_attempt() -> None:
    with bent(failing(503, "overloaded", Retry_After="20")) as service:
        client = Client(service.url)
        problems: list[DetectctlError] = []

        def wait() -> None:
            try:
                client._ask("GET", "/detect", Deadline.after(60))
            except DetectctlError as error:
                problems.append(error)

        waiting = threading.Thread(target=wait)
        waiting.start()
        while not service.requests:
            time.sleep(0.01)
        client.close()
        waiting.join(timeout=20)
    assert [type(problem) for problem in problems] == [Overloaded]


def test_nothing_at_the_endpoint_is_reported_at_once(closed_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detectctl.client.service_client.FIRST_PAUSE_S", 20.0)
    started = time.monotonic()
    with pytest.raises(NotRunning) as caught:
        ask(f"http://127.0.0.1:{closed_port}")
    assert time.monotonic() - started < 9  # one retry would come after 10 s at the earliest
    assert caught.value.why == "Connection refused"
    assert caught.value.hint == "see what is running: `detectctl status`"


def test_one_that_is_known_to_be_there_is_waited_for_from_the_start(closed_port: int) -> None:
    """A command that starts while the ingress restarts does not report that nothing is running."""
    client = Client(f"http://127.0.0.1:{closed_port}", wait_for_restart=True)
    started = time.monotonic()
    with pytest.raises(NotRunning):
        client._ask("GET", "/", Deadline.after(1))
    client.close()
    assert time.monotonic() - started > 0.25  # the first two pauses take at least 0.3 s and always fit


def test_an_endpoint_that_is_gone_for_a_moment_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two servers on the same port, a connection is refused."""
    with bent(lambda request: request.answer(200, b"first", Connection="close")) as service:
        client = Client(service.url)
        assert client._ask("GET", "/", Deadline.after(5)).body == b"first"
    port = int(service.url.rpartition(":")[2])
    answered: list[bytes] = []

    def again() -> None:
        answered.append(client._ask("GET", "/", Deadline.after(30)).body)

    refused = threading.Event()

    def pause(shortest: float, _: float) -> float:
        refused.set()
        return shortest

    monkeypatch.setattr("detectctl.client.service_client.random.uniform", pause)
    waiting = threading.Thread(target=again)
    waiting.start()
    assert refused.wait(10)
    with socket.create_server(("127.0.0.1", port)) as server:
        connection, _ = server.accept()
        with connection:
            connection.recv(1000)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nsecond")
            waiting.join(timeout=20)
    client.close()
    assert answered == [b"second"]


def test_a_host_that_cannot_be_looked_up_is_a_usage_error_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        ask("http://a..b")
    assert "label empty" in str(caught.value.why)  # as Python says it, which differs between its versions


@pytest.mark.usefixtures("quick")
def test_the_words_of_a_proxys_page_are_quoted() -> None:
    """Without its HTML, which would fill the terminal."""
    with bent(plain_502) as service, pytest.raises(NotReady) as caught:
        ask(service.url)
    assert caught.value.what == f"{service.url} answered 502"
    assert caught.value.why == "it said 'Bad Gateway'"


def test_a_status_without_our_json_still_means_what_it_means() -> None:
    def too_large(request: Request) -> None:
        request.answer(413, b"Request Entity Too Large")

    with bent(too_large) as service, pytest.raises(ImageTooLarge):
        ask(service.url)


def test_another_servers_404_names_the_endpoint_as_the_likely_mistake() -> None:
    with bent(lambda request: request.answer(404, b"")) as service, pytest.raises(NotReady) as caught:
        ask(service.url)
    assert caught.value.hint == "check that `--url` is a detectctl service"


@pytest.mark.parametrize("error", [{"code": 404, "message": "gone"}, {"code": "gone", "message": None}])
def test_another_servers_json_is_not_taken_for_an_error_of_ours(error: dict[str, object]) -> None:
    """Many APIs have `error.code` and `error.message`, of other types; printing those failed."""
    body = json.dumps({"error": error}).encode()
    with bent(lambda request: request.answer(404, body)) as service, pytest.raises(NotReady) as caught:
        ask(service.url)
    assert caught.value.what == f"{service.url} answered 404"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_the_key_goes_to_the_endpoint_and_follows_no_redirect(status: int) -> None:
    with bent(fine) as thief:
        with bent(lambda request: request.answer(status, b"", Location=f"{thief.url}/steal")) as service:  # noqa: SIM117 - in order
            with pytest.raises(NotReady, match=f"answered {status}"):
                ask(service.url, key="secret")
        assert service.requests[0].headers["authorization"] == "Bearer secret"
        assert thief.requests == []


def test_a_path_before_the_routes_is_kept() -> None:
    with bent(fine) as service:
        ask(f"{service.url}/vision/v1/")
    assert service.requests[0].path == "/vision/v1/detect"


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8000",
        "ftp://host",
        "http://",
        "http://host:99999",
        "http://user:pw@host",
        "http://host/?key=pw",
        "http://host/#pw",
        "http://[::1",
        "http://exa mple",
    ],
)
def test_an_endpoint_that_is_no_endpoint_is_a_usage_error_without_its_password(url: str) -> None:
    """The error repeats the URL, unless it may hold a secret."""
    with pytest.raises(UsageError) as caught:
        Client(url)
    assert "pw" not in f"{caught.value.what} {caught.value.why}"
    assert ("pw" in url) != (url in caught.value.what)


def unavailable(request: Request) -> None:
    request.answer(503, b"later", Retry_After="0")


def download(url: str, *, timeout_s: float = 30) -> bytes:
    with Client("http://127.0.0.1:1", fetch="client") as client:
        return client._bytes(Source.of(url), Deadline.after(timeout_s))


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("trouble", [unavailable, reset])
def test_a_download_is_tried_again(trouble: Callable[[Request], None]) -> None:
    with bent(trouble, fine) as service:
        assert download(service.url) == b"fine"


def test_a_download_waits_as_long_as_its_server_asks_for() -> None:
    with bent(lambda request: request.answer(429, b"", Retry_After="1"), fine) as service:
        started = time.monotonic()
        assert download(service.url) == b"fine"
        assert time.monotonic() - started >= 1
    with bent(lambda request: request.answer(503, b"", Retry_After="3600")) as service:
        with pytest.raises(FetchFailed) as caught:
            download(service.url)
        assert caught.value.why == "its server answered 503, and asks to come back in 3600 s"
    assert len(service.requests) == 1


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("status", [404, 403, 200])
def test_a_download_that_was_refused_or_is_empty_is_not_tried_again(status: int) -> None:
    with bent(lambda request: request.answer(status, b"")) as service, pytest.raises(FetchFailed, match="downloaded"):
        download(service.url)
    assert len(service.requests) == 1


def test_a_password_in_a_url_is_told_to_nobody_but_its_server() -> None:
    """Neither to the service, nor in an error; one word says how to use it."""
    with bent(fine) as service, Client(service.url) as client:
        for ask in (client.detect, client.annotate):
            with pytest.raises(BadUrl) as caught:
                ask("http://user:geheim@camera/x.jpg")
            assert caught.value.what == "http://***@camera/x.jpg is not given to the service"
            assert caught.value.hint == "download it yourself: `--fetch client`"
    assert service.requests == []
    with bent(lambda request: request.answer(401, b"")) as host, pytest.raises(FetchFailed) as refused:
        download(host.url.replace("://", "://user:geheim@"))
    assert "geheim" not in f"{refused.value.what_and_why} {refused.value.hint}"
    assert "USER:PASSWORD@" in str(refused.value.hint)


def test_a_file_that_is_not_found_may_have_a_number_sign_in_its_name() -> None:
    with bent(lambda request: request.answer(404, b"")) as host:
        for name, told in (("a#1.jpg", True), ("a%231.jpg", False)):
            with pytest.raises(FetchFailed) as caught:
                download(f"{host.url}/{name}")
            assert ("as %23" in str(caught.value.why)) == told


@pytest.mark.parametrize(("body", "why"), [(b"<!doctype html>", "it is an HTML page"), (b'{"error": 1}', "it is JSON")])
def test_a_page_in_place_of_an_image_is_not_sent_to_the_service(tmp_path: Path, body: bytes, why: str) -> None:
    (tmp_path / "a.jpg").write_bytes(body)
    with bent(lambda request: request.answer(200, body)) as host, bent(fine) as service:
        for image in (f"{host.url}/a.jpg", tmp_path / "a.jpg", body):
            with Client(service.url, fetch="client") as client, pytest.raises(UnsupportedImage) as caught:
                client.detect(image)
            assert caught.value.why == why
    assert service.requests == []


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
