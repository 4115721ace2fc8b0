from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import re
import socket
import ssl
import threading
import time
import traceback
import zlib
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING

import pytest

from bent_service import Request, bent
from detectctl.http import (
    Answer,
    BadAddress,
    BrokenOff,
    Downloads,
    NoAnswer,
    Refused,
    Server,
    TooLarge,
    TooSlow,
    Unreachable,
    Untrusted,
)
from detectctl.waiting import Deadline
from self_signed import untrusted_tls

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


def fine(request: Request) -> None:
    request.answer(200, b"fine")


def drip(request: Request) -> None:
    """A byte each 50 ms, for thirty seconds."""
    request.handler.send_response(200)
    request.handler.send_header("Content-Length", "600")
    request.handler.end_headers()
    for _ in range(600):
        request.handler.wfile.write(b"x")
        time.sleep(0.05)


def hang(_: Request) -> None:
    time.sleep(30)


def reset(request: Request) -> None:
    request.reset()


def cut_short(request: Request) -> None:
    request.handler.send_response(200)
    request.handler.send_header("Content-Length", "100")
    request.handler.end_headers()
    request.handler.wfile.write(b"half")
    request.handler.close_connection = True


def redirect(url: str) -> Callable[[Request], None]:
    return lambda request: request.answer(302, b"", Location=url)


def ask(url: str, *, timeout_s: float = 30) -> Answer:
    with contextlib.closing(Server(url)) as server:
        return server.ask("GET", "/", Deadline.after(timeout_s))


def download(url: str, *, timeout_s: float = 30, stall_s: float = 30, max_bytes: int = 1000) -> bytes:
    with contextlib.closing(Downloads()) as downloads:
        return b"".join(downloads.stream(url, Deadline.after(timeout_s), max_bytes=max_bytes, stall_s=stall_s))


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.mark.parametrize("get", [ask, download])
@pytest.mark.parametrize("slow", [hang, drip])
def test_a_slow_answer_does_not_outlive_the_deadline(
    get: Callable[..., object], slow: Callable[[Request], None]
) -> None:
    with bent(slow) as service:
        started = time.monotonic()
        with pytest.raises(TooSlow):
            get(service.url, timeout_s=0.5)
        assert 0.4 <= time.monotonic() - started < 10


@pytest.mark.parametrize("get", [ask, download])
@pytest.mark.parametrize("trouble", [reset, cut_short])
def test_an_answer_that_breaks_off_is_no_answer(get: Callable[..., object], trouble: Callable[[Request], None]) -> None:
    with bent(trouble) as service, pytest.raises(BrokenOff):
        get(service.url)


@pytest.mark.parametrize("get", [ask, download])
def test_a_closed_port_is_reported_in_the_systems_words(get: Callable[..., object], closed_port: int) -> None:
    with pytest.raises(Unreachable, match=r"^Connection refused$"):
        get(f"http://127.0.0.1:{closed_port}")


def test_a_connection_is_used_again() -> None:
    peers = []

    def note(request: Request) -> None:
        peers.append(request.handler.client_address)
        fine(request)

    with bent(note) as service, contextlib.closing(Server(service.url)) as server:
        for _ in range(3):
            server.ask("GET", "/", Deadline.after(30))
    assert len(set(peers)) == 1


def test_an_answer_of_any_status_is_an_answer() -> None:
    with bent(lambda request: request.answer(404, {"a": 1}, Retry_After="7")) as service:
        answer = ask(service.url)
    assert (answer.status, answer.content_type, answer.json(), answer.retry_after_s) == (
        404,
        "application/json",
        {"a": 1},
        7,
    )


def test_an_endless_answer_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detectctl.http.MAX_ANSWER_BYTES", 100)
    with bent(lambda request: request.answer(200, b"x" * 101)) as service:
        with pytest.raises(TooLarge):
            ask(service.url)
        with pytest.raises(TooLarge):
            download(service.url, max_bytes=100)
        assert download(service.url, max_bytes=101) == b"x" * 101


@pytest.mark.parametrize(
    ("value", "shortest", "longest"),
    [(None, None, None), ("7", 7, 7), (" 7 ", 7, 7), ("0.5", 0.5, 0.5), ("soon", 0, 0), ("-1", 0, 0), ("", 0, 0)],
)
def test_retry_after_is_a_number_of_seconds(value: str | None, shortest: float | None, longest: float | None) -> None:
    headers = {} if value is None else {"retry-after": value}
    assert Answer(503, headers, b"").retry_after_s in {shortest, longest}


def test_retry_after_may_be_a_date() -> None:
    value = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    seconds = Answer(503, {"retry-after": value}, b"").retry_after_s
    assert seconds is not None
    assert 0 < seconds <= 60


def test_a_server_is_asked_directly_and_not_where_it_redirects_to(monkeypatch: pytest.MonkeyPatch) -> None:
    with bent(fine) as thief:
        for name in PROXY_VARIABLES[:3]:
            monkeypatch.setenv(name, thief.url)
        with bent(redirect(thief.url)) as service:
            assert ask(service.url).status == 302
    assert thief.requests == []


def test_a_download_follows_redirects() -> None:
    with bent(fine) as far, bent(redirect(far.url)) as near:
        assert download(f"{near.url}/a.jpg") == b"fine"


def test_a_circle_of_redirects_ends() -> None:
    with bent(redirect("/again")) as service, pytest.raises(NoAnswer, match="redirected more than 5 times"):
        download(service.url)
    assert len(service.requests) == 6


def test_a_redirect_to_what_is_not_http_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    with bent(redirect(f"file://{tmp_path}/secret")) as service, pytest.raises(NoAnswer, match="its server redirects"):
        download(service.url)


@pytest.mark.parametrize("location", ["ftp://127.0.0.1/a.jpg", "http://[::1/a.jpg", "http://127.0.0.1:99999/"])
def test_a_redirect_to_a_bad_address_is_no_fault_of_the_url(location: str) -> None:
    with bent(redirect(location)) as service, pytest.raises(NoAnswer, match="its server redirects to what") as caught:
        download(service.url)
    assert not isinstance(caught.value, BadAddress)


def test_another_status_than_200_is_a_refusal() -> None:
    with bent(lambda request: request.answer(503, b"", Retry_After="7")) as service, pytest.raises(Refused) as caught:
        download(service.url)
    assert (caught.value.answer.status, caught.value.answer.retry_after_s, str(caught.value)) == (503, 7, "HTTP 503")


@pytest.mark.parametrize("encoding", ["aws-chunked", "binary", "aws-chunked, gzip", "gzip", "deflate", "none"])
def test_a_download_is_unpacked_where_it_is_packed(encoding: str) -> None:
    body = (
        gzip.compress(b"fine") if "gzip" in encoding else zlib.compress(b"fine") if encoding == "deflate" else b"fine"
    )
    with bent(lambda request: request.answer(200, body, Content_Encoding=encoding)) as service:
        assert download(service.url) == b"fine"


def test_a_compression_that_cannot_be_undone_is_named() -> None:
    packed = bent(lambda request: request.answer(200, b"", Content_Encoding="aws-chunked, xz"))
    with packed as service, pytest.raises(NoAnswer, match=r"not offered: xz$"):
        download(service.url)


def test_silence_ends_a_download_before_its_deadline() -> None:
    with bent(hang) as service:
        started = time.monotonic()
        with pytest.raises(TooSlow):
            download(service.url, stall_s=0.5)
        assert time.monotonic() - started < 15


def test_a_hanging_name_lookup_ends_a_download_too(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    def lookup(*_: object, **__: object) -> None:
        released.wait(30)
        raise socket.gaierror(socket.EAI_AGAIN, "no answer")

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    started = time.monotonic()
    with pytest.raises(TooSlow):
        download("http://photos.invalid/a.jpg", timeout_s=0.5)
    assert time.monotonic() - started < 15
    released.set()


@pytest.mark.parametrize("way", ["a download's iterator is closed", "an answer is too large"])
def test_the_server_is_hung_up_on_when(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()

    def pour(request: Request) -> None:
        request.handler.send_response(200)
        request.handler.end_headers()
        try:
            while True:
                request.handler.wfile.write(b"x" * 65536)
        except ConnectionError:
            ended.set()
            raise

    monkeypatch.setattr("detectctl.http.MAX_ANSWER_BYTES", 100)
    with bent(pour) as service, contextlib.closing(Server(service.url)) as server:
        if way == "an answer is too large":
            with pytest.raises(TooLarge) as caught:
                server.ask("GET", "/", Deadline.after(60))
            assert caught.tb is not None  # what was read from is still referred to, and not closed for that reason
        else:
            downloads = Downloads()
            with contextlib.closing(downloads.stream(service.url, Deadline.after(60), max_bytes=1 << 40)) as chunks:
                next(chunks)
        assert ended.wait(20)


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_a_download_goes_through_the_proxy_of_the_environment(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name and password reach the proxy alone, in a header."""
    with bent(fine) as proxy:
        monkeypatch.setenv(variable, proxy.url.replace("://", "://us%40er:pw@"))
        assert download("http://photos.invalid/a.jpg") == b"fine"
    (request,) = proxy.requests
    assert request.handler.path == "http://photos.invalid/a.jpg"
    assert base64.b64decode(request.headers["proxy-authorization"].split()[1]) == b"us@er:pw"


def test_https_goes_through_a_tunnel_and_what_the_proxy_says_is_reported_without_its_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with bent(fine) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("://", "://user:pw@"))
        with pytest.raises(NoAnswer) as caught:
            download("https://photos.invalid/a.jpg")
    assert f"the proxy {proxy.url.removeprefix('http://')} " in str(caught.value)
    assert "501" in str(caught.value)  # this one does not know CONNECT
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "value", "host"),
    [
        ("NO_PROXY", "photos.invalid", "photos.invalid"),
        ("no_proxy", ".invalid", "photos.invalid"),
        ("NO_PROXY", "*", "photos.invalid"),
        ("NO_PROXY", "a.example, *.invalid", "photos.invalid"),
        ("NO_PROXY", "photos.invalid:81", "photos.invalid:81"),
        ("no_proxy", "10.0.0.0/8,0.0.0.0/8", "0.0.0.1"),
        ("NO_PROXY", "0.0.0.1", "0.0.0.1"),
        ("NO_PROXY", "[100::1]", "[100::1]"),
        ("NO_PROXY", "100::/64", "[100::1]"),
    ],
)
def test_no_proxy_names_hosts_and_networks_that_are_asked_directly(
    variable: str, value: str, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hosts here lead nowhere: what is asked directly has no answer."""
    with bent(fine) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        assert download(f"http://{host}/a.jpg") == b"fine"
        monkeypatch.setenv(variable, value)
        with pytest.raises(NoAnswer):
            download(f"http://{host}/a.jpg", timeout_s=2)
        monkeypatch.setenv(variable, "10.0.0.0/8, other.invalid, photos.invalid:82")
        assert download(f"http://{host}/a.jpg") == b"fine"
    assert len(proxy.requests) == 2


@pytest.mark.parametrize("variable", ["https_proxy", "HTTPS_PROXY", "all_proxy"])
def test_a_tunnel_is_asked_for_with_the_proxys_own_password(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    heads: list[bytes] = []

    def serve(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            heads.append(connection.recv(10_000))
            connection.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, args=(server,))
        thread.start()
        monkeypatch.setenv(variable, f"http://us%40er:pw@127.0.0.1:{server.getsockname()[1]}")
        with pytest.raises(NoAnswer, match="407") as caught:
            download("https://user:geheim@photos.invalid/a.jpg")
        thread.join(timeout=10)
    assert heads[0].startswith(b"CONNECT photos.invalid:443 HTTP/1.")
    assert base64.b64encode(b"us@er:pw") in heads[0]
    assert base64.b64encode(b"user:geheim") not in heads[0]
    assert "pw" not in str(caught.value)


LOGIN = "Basic " + base64.b64encode("us@er:gehe:im/ß".encode()).decode()
WITH_LOGIN = "://us%40er:gehe:im%2F%C3%9F@"


def test_a_user_name_and_password_in_a_url_reach_its_server_and_no_other() -> None:
    """Along a redirect to the same origin, too; a request line never has them."""
    with bent(fine) as other, bent(redirect("/b"), redirect(other.url), fine) as host:
        assert download(host.url.replace("://", WITH_LOGIN) + "/a.jpg?x=1") == b"fine"
    assert [request.headers.get("authorization") for request in host.requests] == [LOGIN, LOGIN]
    assert [request.handler.path for request in host.requests] == ["/a.jpg?x=1", "/b"]
    assert "authorization" not in other.requests[0].headers


def test_a_proxy_is_told_no_password_in_its_request_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with bent(fine) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        assert download(f"http{WITH_LOGIN}photos.invalid/a.jpg") == b"fine"
    assert proxy.requests[0].handler.path == "http://photos.invalid/a.jpg"
    assert proxy.requests[0].headers["authorization"] == LOGIN


@pytest.mark.parametrize("rest", [', qop="auth", opaque="o"', ""], ids=["qop", "old"])
def test_a_camera_that_wants_digest_authentication_gets_it(rest: str) -> None:
    """By RFC 7616's formula, worked out here by hand."""

    def md5(text: str) -> str:
        return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()

    def camera(request: Request) -> None:
        sent = request.headers.get("authorization", "")
        if not sent.startswith("Digest "):
            newer = 'Basic realm="cam", Digest realm="cam", algorithm=SHA-512-256, nonce="n1"'
            request.answer(401, b"", WWW_Authenticate=f'{newer}, Digest realm="cam", nonce="n0"{rest}')
            return
        given = {name: value.strip('"') for name, value in re.findall(r'(\w+)=("[^"]*"|[^,]*)', sent)}
        middle = f"{given['nc']}:{given['cnonce']}:auth:" if rest else ""
        wanted = md5(f"{md5('admin:cam:geheim')}:n0:{middle}{md5('GET:/a%20b.jpg?c=1')}")
        good = given["response"] == wanted and given["uri"] == request.handler.path == "/a%20b.jpg?c=1"
        request.answer(200 if good else 401, b"fine")

    with bent(camera) as host:
        assert download(host.url.replace("://", "://admin:geheim@") + "/a b.jpg?c=1") == b"fine"
        with pytest.raises(Refused, match="401"):
            download(host.url.replace("://", "://admin:falsch@") + "/a b.jpg?c=1")
    assert len(host.requests) == 4


@pytest.mark.parametrize(
    "url",
    [
        "http://user:geheim@host:99999/a.jpg",
        "http://user:geheim/x@host/a.jpg",
        "http://user:geheim#x@host/a.jpg",
        "http://user:geheim@[::1/a.jpg",
        "http://user:geheim@/a.jpg",
        "ftp://user:geheim@host/a.jpg",
    ],
)
def test_a_malformed_url_is_told_without_its_password(url: str) -> None:
    with pytest.raises(NoAnswer) as caught:
        download(url)
    told = "".join(traceback.format_exception(caught.value.with_traceback(None)))
    assert "geheim" not in told


def test_each_redirect_has_its_own_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """From a far host, through the proxy, to this machine, which is never asked through one."""
    with bent(fine) as here, bent(redirect(here.url)) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        assert download("http://photos.invalid/a.jpg") == b"fine"
    assert [len(here.requests), len(proxy.requests)] == [1, 1]


@pytest.mark.parametrize("proxy", ["ftp://127.0.0.1:9", "socks5://127.0.0.1:9", "http://127.0.0.1:99999"])
def test_a_proxy_that_cannot_be_used_is_a_bad_address(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy)
    with pytest.raises(BadAddress):
        download("http://photos.invalid/a.jpg")


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://", "No host"),
        ("http://host:99999/a.jpg", "Port out of range 0-65535"),
        ("http://host:0/a@2.jpg", "its port must be from 1 to 65535"),
        ("http://[::1/a.jpg", "Invalid IPv6 URL"),
        ("ftp://host/a.jpg", "it is not an http"),
        ("a.jpg", "it is not an http"),
    ],
)
def test_a_malformed_url_is_a_bad_address(url: str, why: str) -> None:
    with pytest.raises(BadAddress, match=why):
        download(url)


def test_https_asked_of_a_server_without_it_is_told_in_words() -> None:
    with bent(fine) as service, pytest.raises(Untrusted, match="it speaks http there, not https"):
        download(service.url.replace("http:", "https:"))


def test_a_server_with_an_untrusted_certificate_gets_no_request(tmp_path: Path) -> None:
    """TLS is verified: the server sees a handshake fail, and nothing after it."""
    context = untrusted_tls(tmp_path)
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
        with pytest.raises(Untrusted, match="CERTIFICATE_VERIFY_FAILED"):
            ask(f"https://127.0.0.1:{server.getsockname()[1]}")
        thread.join(timeout=10)
    assert failures == ["TLSV1_ALERT_UNKNOWN_CA"]
