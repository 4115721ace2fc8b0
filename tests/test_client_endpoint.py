from __future__ import annotations

import itertools
import socket
import ssl
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from bent_service import Request, bent
from detectctl.client.endpoint import Endpoint, ImageHosts
from detectctl.errors import (
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
    UsageError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def fine(request: Request) -> None:
    request.answer(200, b"fine")


def reset(request: Request) -> None:
    request.reset()


def plain_502(request: Request) -> None:
    request.answer(502, b"<h1>Bad Gateway</h1>\n", Content_Type="text/html")


def failing(status: int, code: str, **headers: str) -> Callable[[Request], None]:
    return lambda request: request.fail(status, code, **headers)


def drip(request: Request) -> None:
    """A byte each 50 ms, for ten seconds."""
    request.handler.send_response(200)
    request.handler.send_header("Content-Length", "200")
    request.handler.end_headers()
    for _ in range(200):
        request.handler.wfile.write(b"x")
        time.sleep(0.05)


def hang(request: Request) -> None:
    time.sleep(1.5)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses of milliseconds: what is tested is whether it is tried again."""
    monkeypatch.setattr("detectctl.client.endpoint.FIRST_PAUSE_S", 0.005)


def ask(
    url: str, *, timeout_s: float = 5, retries: int = 4, key: str | None = None, body: bytes | None = None
) -> bytes:
    endpoint = Endpoint(url, api_key=key, retries=retries, connections=1)
    try:
        return endpoint.ask("POST", "/detect", deadline=time.monotonic() + timeout_s, body=body).body
    finally:
        endpoint.close()


def download(url: str, *, timeout_s: float = 5) -> bytes:
    hosts = ImageHosts(retries=4, connections=1)
    try:
        return hosts.download(url, deadline=time.monotonic() + timeout_s)
    finally:
        hosts.close()


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port where nobody listens, and nobody else can begin to."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        yield reserved.getsockname()[1]


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
    assert caught.value.why == f"the service answered {status} {code} (request req-7)"
    assert len(service.requests) == 1


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("retries", [0, 2])
def test_it_gives_up_after_so_many_retries_and_says_what_came_last(retries: int) -> None:
    with bent(failing(500, "internal_error")) as service, pytest.raises(InternalError, match="it is internal_error"):
        ask(service.url, retries=retries)
    assert len(service.requests) == retries + 1


@pytest.mark.parametrize("as_date", [False, True])
def test_retry_after_is_honoured(as_date: bool) -> None:
    seconds = 2 if as_date else 1  # a date has whole seconds, so up to one is lost
    value = format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True) if as_date else "1"
    with bent(failing(503, "overloaded", Retry_After=value), fine) as service:
        started = time.monotonic()
        assert ask(service.url) == b"fine"
    assert 0.95 <= time.monotonic() - started < 4


def test_a_retry_after_beyond_the_deadline_is_not_waited_for() -> None:
    with bent(failing(503, "overloaded", Retry_After="60")) as service:
        started = time.monotonic()
        with pytest.raises(Overloaded):
            ask(service.url, timeout_s=2)
    assert time.monotonic() - started < 1


@pytest.mark.usefixtures("quick")
def test_a_service_that_says_when_to_come_back_is_asked_until_the_deadline() -> None:
    """A full queue costs no retries, unless there are to be none."""
    full = failing(503, "overloaded", Retry_After="0")
    with bent(full, full, full, fine) as service:
        assert ask(service.url, retries=1) == b"fine"
    with bent(full) as service, pytest.raises(Overloaded):
        ask(service.url, retries=0)
    assert len(service.requests) == 1


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


@pytest.mark.parametrize("slow", [hang, drip])
def test_a_slow_answer_does_not_outlive_the_deadline(slow: Callable[[Request], None]) -> None:
    with bent(slow) as service:
        started = time.monotonic()
        with pytest.raises(DeadlineExceeded, match="in time"):
            ask(service.url, timeout_s=0.5)
        assert 0.4 <= time.monotonic() - started < 1.2
    assert len(service.requests) == 1


def test_closing_ends_the_waiting_for_another_attempt() -> None:
    with bent(failing(503, "overloaded", Retry_After="20")) as service:
        endpoint = Endpoint(service.url, api_key=None, retries=4, connections=1)
        problems: list[DetectctlError] = []

        def wait() -> None:
            try:
                endpoint.ask("GET", "/detect", deadline=time.monotonic() + 60)
            except DetectctlError as error:
                problems.append(error)

        waiting = threading.Thread(target=wait)
        waiting.start()
        while not service.requests:
            time.sleep(0.01)
        endpoint.close()
        waiting.join(timeout=5)
    assert [type(problem) for problem in problems] == [Overloaded]


def test_nothing_at_the_endpoint_is_said_at_once(closed_port: int) -> None:
    started = time.monotonic()
    with pytest.raises(NotRunning) as caught:
        ask(f"http://127.0.0.1:{closed_port}")
    assert time.monotonic() - started < 1  # four retries take at least 1.5 s
    assert caught.value.why == "Connection refused"
    assert caught.value.hint == "see what runs: `detectctl status`"


def test_one_that_is_known_to_be_there_is_waited_for_from_the_start(closed_port: int) -> None:
    """A command begun while an instance's ingress is away is not told that nothing runs."""
    endpoint = Endpoint(f"http://127.0.0.1:{closed_port}", api_key=None, retries=4, connections=1, patient=True)
    started = time.monotonic()
    with pytest.raises(NotRunning):
        endpoint.ask("GET", "/", deadline=started + 1)
    endpoint.close()
    assert time.monotonic() - started > 0.25  # the first two pauses take at least 0.3 s and always fit


def test_an_endpoint_that_is_gone_for_a_moment_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two servers on the same port, a connection is refused."""
    with bent(lambda request: request.answer(200, b"first", Connection="close")) as service:
        endpoint = Endpoint(service.url, api_key=None, retries=4, connections=1)
        assert endpoint.ask("GET", "/", deadline=time.monotonic() + 5).body == b"first"
    port = int(service.url.rpartition(":")[2])
    answered: list[bytes] = []

    def again() -> None:
        answered.append(endpoint.ask("GET", "/", deadline=time.monotonic() + 10).body)

    waiting = threading.Thread(target=again)
    waiting.start()
    time.sleep(0.1)
    with socket.create_server(("127.0.0.1", port)) as server:
        connection, _ = server.accept()
        with connection:
            connection.recv(1000)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nsecond")
            waiting.join(timeout=5)
    endpoint.close()
    assert answered == [b"second"]


@pytest.mark.usefixtures("quick")
def test_a_proxys_plain_text_is_quoted() -> None:
    with bent(plain_502) as service, pytest.raises(NotReady) as caught:
        ask(service.url)
    assert caught.value.what == f"{service.url} answered 502"
    assert caught.value.why == "it said '<h1>Bad Gateway</h1>'"


def test_a_status_without_our_json_still_means_what_it_means() -> None:
    def too_large(request: Request) -> None:
        request.answer(413, b"Request Entity Too Large")

    with bent(too_large) as service, pytest.raises(ImageTooLarge):
        ask(service.url)


def test_another_servers_404_names_the_endpoint_as_the_likely_mistake() -> None:
    with bent(lambda request: request.answer(404, b"")) as service, pytest.raises(NotReady) as caught:
        ask(service.url)
    assert caught.value.hint == "check that --url is a detectctl service"


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
        "http://host/?a=b",
        "http://[::1",
    ],
)
def test_an_endpoint_that_is_no_endpoint_is_a_usage_error_without_its_password(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        Endpoint(url, api_key=None, retries=0, connections=1)
    assert "pw" not in f"{caught.value.what} {caught.value.why}"


def test_a_connection_is_used_again() -> None:
    peers = []

    def note(request: Request) -> None:
        peers.append(request.handler.client_address)
        fine(request)

    with bent(note) as service:
        endpoint = Endpoint(service.url, api_key=None, retries=0, connections=1)
        for _ in range(3):
            endpoint.ask("GET", "/", deadline=time.monotonic() + 5)
        endpoint.close()
    assert len(set(peers)) == 1


def test_proxies_in_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch, closed_port: int) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{closed_port}")
    with bent(fine) as service:
        assert ask(service.url) == b"fine"
        assert download(service.url) == b"fine"


def test_a_download_follows_redirects() -> None:
    with bent(fine) as far, bent(lambda request: request.answer(302, b"", Location=far.url)) as near:
        assert download(f"{near.url}/a.jpg") == b"fine"


def test_a_circle_of_redirects_ends() -> None:
    with bent(lambda request: request.answer(302, b"", Location="/again")) as service, pytest.raises(FetchFailed):
        download(service.url)
    assert len(service.requests) == 6


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("trouble", [plain_502, reset])
def test_a_download_is_tried_again(trouble: Callable[[Request], None]) -> None:
    with bent(trouble, fine) as service:
        assert download(service.url) == b"fine"


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("status", [404, 403, 200])
def test_a_download_that_was_refused_or_is_empty_is_not_tried_again(status: int) -> None:
    with bent(lambda request: request.answer(status, b"")) as service, pytest.raises(FetchFailed, match="downloaded"):
        download(service.url)
    assert len(service.requests) == 1


@pytest.mark.parametrize("slow", [hang, drip])
def test_a_download_does_not_outlive_the_deadline(slow: Callable[[Request], None]) -> None:
    with bent(slow) as service:
        started = time.monotonic()
        with pytest.raises(FetchTimeout):
            download(service.url, timeout_s=0.5)
        assert time.monotonic() - started < 1.2


def test_an_endless_download_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detectctl.client.endpoint.MAX_FILE_BYTES", 100)
    with bent(lambda request: request.answer(200, b"x" * 101)) as service, pytest.raises(ImageTooLarge):
        download(service.url)


@pytest.mark.parametrize("url", ["http://", "http://host:99999/a.jpg"])
def test_a_malformed_image_url_is_a_bad_url(url: str) -> None:
    with pytest.raises(BadUrl):
        download(url)


def test_an_image_host_that_is_not_there_is_a_failed_download(closed_port: int) -> None:
    with pytest.raises(FetchFailed) as caught:
        download(f"http://127.0.0.1:{closed_port}/a.jpg")
    assert caught.value.why == "Connection refused"


def test_an_endpoint_with_a_certificate_that_nobody_signed_gets_no_key(tmp_path: Path) -> None:
    """TLS is verified, in one attempt: the server sees a handshake fail, and no request."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "detectctl test")])
    now = datetime.now(UTC)
    certificate = x509.CertificateBuilder(
        name, name, key.public_key(), 1, now - timedelta(hours=1), now + timedelta(hours=1)
    ).sign(key, hashes.SHA256())
    pem = tmp_path / "server.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    pem.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    failures: list[str] = []

    def serve(server: socket.socket) -> None:
        connection, _ = server.accept()
        connection.settimeout(10)
        try:
            context.wrap_socket(connection, server_side=True).close()
        except ssl.SSLError as error:
            failures.append(error.reason)
        finally:
            connection.close()

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, args=(server,))
        thread.start()
        with pytest.raises(NotReady, match="no secure connection") as caught:
            ask(f"https://127.0.0.1:{server.getsockname()[1]}", key="secret")
        thread.join(timeout=10)
    assert "CERTIFICATE_VERIFY_FAILED" in str(caught.value.why)
    assert failures == ["TLSV1_ALERT_UNKNOWN_CA"]
