"""The fetcher against servers that are slow, endless, large, broken or as they should be."""

from __future__ import annotations

import asyncio
import datetime as dt
import gzip
import ipaddress
import socket
import ssl
import threading
import time
import tracemalloc
import zlib
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from detectctl import __version__
from detectctl.errors import FetchFailed, FetchTimeout, ImageTooLarge, RequestError, UnsupportedImage, UrlNotAllowed
from detectctl.serving.fetch import FLOOD_SLACK_BYTES, Fetcher, _CountingHandler
from detectctl.serving.url_policy import UrlPolicy
from raw_server import Handler, RawServer, always, answer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("each_event_loop")

LOOPBACK = UrlPolicy(allow=("127.0.0.0/8",))
LIMIT = 1_000_000
TLS = ssl.create_default_context()
"""Made once: loading all authorities takes longer than most tests."""


async def to_loopback(_host: str) -> Sequence[str]:
    return ["127.0.0.1"]


@asynccontextmanager
async def fetching(policy: UrlPolicy = LOOPBACK, **options: Any) -> AsyncIterator[Fetcher]:
    defaults = {"max_bytes": LIMIT, "connect_s": 1, "total_s": 2, "resolve": to_loopback, "tls": TLS}
    fetcher = Fetcher(policy, **{**defaults, **options})
    try:
        yield fetcher
    finally:
        await fetcher.close()


def fetch(port: int, path: str = "/", *, host: str = "127.0.0.1", scheme: str = "http", **options: Any) -> bytes:
    async def once() -> bytes:
        async with fetching(**options) as fetcher:
            return await fetcher.fetch(f"{scheme}://{host}:{port}{path}")

    return asyncio.run(once())


def fails(handler: Handler, error: type[RequestError], **options: Any) -> tuple[str, float]:
    """The error of a fetch from a server with this handler, and the seconds until it came."""
    with RawServer(handler) as server:
        begin = time.monotonic()
        with pytest.raises(error) as caught:
            fetch(server.port, **options)
        assert type(caught.value) is error
        return f"{caught.value.what}: {caught.value.why}", time.monotonic() - begin


def pieces(first: bytes, piece: Callable[[], bytes], *, pause_s: float = 0) -> Handler:
    """A handler that sends `first`, then pieces until the client hangs up."""

    async def handler(_head: str, writer: asyncio.StreamWriter) -> None:
        writer.write(first)
        while True:
            writer.write(piece())
            await writer.drain()
            await asyncio.sleep(pause_s)

    return handler


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - it changes in the server's thread
            await asyncio.sleep(0.01)


# --- as it should be -------------------------------------------------------------------------------------------------


def test_a_photograph_arrives_whole(bus_jpg: Path) -> None:
    """The caller gets what the server sends; the request identifies its sender and carries nothing else."""
    with RawServer(always(answer(bus_jpg.read_bytes()))) as server:
        assert fetch(server.port, "/a%2Fb/bus ü.jpg?sig=x%3D&y") == bus_jpg.read_bytes()
        request, *headers = server.requests[0].strip().split("\r\n")
        assert request == "GET /a%2Fb/bus%20%C3%BC.jpg?sig=x%3D&y HTTP/1.1"
        assert sorted(headers) == [
            "Accept-Encoding: identity",
            "Accept: image/*, */*;q=0.5",
            f"Host: 127.0.0.1:{server.port}",
            f"User-Agent: detectctl/{__version__}",
        ]


def test_an_allowed_name_is_opened_and_kept_in_the_request() -> None:
    """The connection goes to the name's address, the Host header keeps the name."""
    with RawServer(always(answer(b"image"))) as server:
        policy = UrlPolicy(allow=("pics.example",))
        assert fetch(server.port, host="pics.example", policy=policy) == b"image"
        assert f"Host: pics.example:{server.port}\r\n" in server.requests[0]


@pytest.mark.parametrize("host", ["intranet", "db.internal", "nas.local"])
def test_whether_an_internal_name_exists_is_not_revealed(host: str) -> None:
    """It is refused as an internal address is, without a lookup; behind a redirect, too."""

    async def ask_nobody(asked: str) -> Sequence[str]:
        raise AssertionError(asked)

    hop = answer(b"", "302 Found", [f"Location: http://{host}/"])
    with RawServer(always(hop)) as server:
        with pytest.raises(UrlNotAllowed, match=f"may not open http://{host}"):
            fetch(server.port, host=host, resolve=ask_nobody)
        with pytest.raises(UrlNotAllowed):
            fetch(server.port)
        assert len(server.requests) == 1


def test_the_system_resolver_finds_localhost() -> None:
    """By default names are looked up by the system."""
    with RawServer(always(answer(b"image")), hosts=["127.0.0.1", "::1"]) as server:
        assert fetch(server.port, host="localhost", policy=UrlPolicy(allow=("localhost",)), resolve=None) == b"image"


def test_ipv6_is_reached() -> None:
    """An IPv6 literal that is permitted is opened."""
    with RawServer(always(answer(b"image")), hosts=["::1"]) as server:
        assert fetch(server.port, host="[::1]", policy=UrlPolicy(allow=("::1/128",))) == b"image"


def test_the_second_address_is_tried_when_the_first_is_dead() -> None:
    """Of a name's dead and living addresses the living one is used."""

    async def two(_host: str) -> Sequence[str]:
        return ["127.0.0.7", "127.0.0.1"]

    with RawServer(always(answer(b"image"))) as server:
        assert fetch(server.port, host="two.example", resolve=two) == b"image"


def test_five_redirects_are_followed() -> None:
    """Five redirects, relative and absolute and of each kind, lead to the image."""
    kinds = iter(["301 Moved", "302 Found", "303 See Other", "307 Temporary Redirect", "308 Permanent Redirect"])

    async def handler(head: str, writer: asyncio.StreamWriter) -> None:
        left = int(head.split()[1].rsplit("/", maxsplit=1)[-1])
        if left == 0:
            writer.write(answer(b"image"))
            return
        location = f"http://127.0.0.1:{server.port}/x/{left - 1}" if left % 2 else str(left - 1)
        writer.write(answer(b"moved", status=next(kinds), headers=[f"Location: {location}"]))

    with RawServer(handler) as server:
        assert fetch(server.port, "/x/5") == b"image"
        assert [head.split()[1] for head in server.requests] == [f"/x/{left}" for left in (5, 4, 3, 2, 1, 0)]


def test_connections_are_kept_per_host() -> None:
    """Ten fetches one after the other share a connection; another name at the same address gets its own."""

    async def ten(port: int) -> None:
        async with fetching() as fetcher:
            for index in range(10):
                await fetcher.fetch(f"http://a.example:{port}/{index}")
            assert server.connections == 1
            await fetcher.fetch(f"http://b.example:{port}/")
            assert server.connections == 2

    with RawServer(always(answer(b"image"))) as server:
        asyncio.run(ten(server.port))


def test_a_connection_that_the_server_closed_meanwhile_costs_nothing() -> None:
    """A kept connection that is dead when it is needed again is replaced, without an error."""

    async def handler(_head: str, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(b"image"))
        await writer.drain()
        writer.close()  # without having said so

    async def five(port: int) -> None:
        async with fetching() as fetcher:
            for _ in range(5):
                assert await fetcher.fetch(f"http://127.0.0.1:{port}/") == b"image"

    with RawServer(handler) as server:
        asyncio.run(five(server.port))


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [
        ("gzip", gzip.compress),
        ("x-gzip", gzip.compress),
        ("GZIP", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", lambda data: zlib.compress(data, wbits=-15)),
        ("aws-chunked,gzip", gzip.compress),
        ("gzip, utf-8", gzip.compress),
    ],
)
def test_a_compressed_answer_is_unpacked(encoding: str, pack: Callable[[bytes], bytes]) -> None:
    """A server that compresses although it was asked not to is understood."""
    body = bytes(range(256)) * 1000
    with RawServer(always(answer(pack(body), headers=[f"Content-Encoding: {encoding}"]))) as server:
        assert fetch(server.port) == body


@pytest.mark.parametrize("encoding", ["aws-chunked", "identity", "", "binary", "UTF-8", "none, aws-chunked", "x-new"])
def test_an_encoding_that_is_none_is_ignored(encoding: str) -> None:
    """As uploaders leave them on stored objects, and as browsers read them."""
    with RawServer(always(answer(b"image", headers=[f"Content-Encoding: {encoding}"]))) as server:
        assert fetch(server.port) == b"image"


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "aws-chunked, br"])
def test_a_compression_that_cannot_be_undone_is_named(encoding: str) -> None:
    said, _ = fails(always(answer(b"image", headers=[f"Content-Encoding: {encoding}"])), FetchFailed)
    assert said.endswith(f"not offered: {encoding.removeprefix('aws-chunked, ')}")


@pytest.mark.parametrize(
    ("status", "value", "seconds"),
    [
        ("429 Too Many Requests", "7", 7),
        ("503 Busy", "0.2", 1),
        ("503 Busy", "Wed, 21 Oct 2015 07:28:00 GMT", 0),
        ("503 Busy", "soon", 0),
        ("404 Not Found", None, None),
    ],
)
def test_when_to_come_back_is_passed_on(status: str, value: str | None, seconds: int | None) -> None:
    headers = [] if value is None else [f"Retry-After: {value}"]
    with RawServer(always(answer(b"", status=status, headers=headers))) as server:
        with pytest.raises(FetchFailed) as caught:
            fetch(server.port)
        assert caught.value.retry_after_s == seconds
        assert (value is None) != ("asks to come back" in str(caught.value.why))


@pytest.mark.parametrize(
    ("body", "media", "said"),
    [
        (b"<!doctype html><title>Sign in</title>", "text/html; charset=utf-8", "an HTML page (text/html)"),
        (b'{"error": "gone"}', "application/json", "JSON (application/json)"),
        (b"<svg/>", "image/svg+xml", "an SVG drawing (image/svg+xml)"),
        (b"%PDF-1.7", "", "a PDF document (no type)"),
        (b"Access denied", "text/plain", "text (text/plain)"),
    ],
)
def test_a_page_in_place_of_an_image_is_told_as_that(body: bytes, media: str, said: str) -> None:
    handler = always(answer(body, headers=[f"Content-Type: {media}"] if media else []))
    what, _ = fails(handler, UnsupportedImage)
    assert what.endswith(f"is not an image: its server sent {said}")


def test_an_image_is_read_whatever_its_server_calls_it(bus_jpg: Path) -> None:
    with RawServer(always(answer(bus_jpg.read_bytes(), headers=["Content-Type: text/html"]))) as server:
        assert fetch(server.port) == bus_jpg.read_bytes()


def test_nothing_in_place_of_an_image_is_a_failure_of_its_server() -> None:
    assert fails(always(answer(b"")), FetchFailed)[0].endswith("its server sent nothing")


@pytest.mark.parametrize(("path", "told"), [("/a#1.jpg", True), ("/a%231.jpg", False)])
def test_a_file_that_is_not_found_may_have_a_number_sign_in_its_name(path: str, told: bool) -> None:
    with RawServer(always(answer(b"", status="404 Not Found"))) as server:
        with pytest.raises(FetchFailed) as caught:
            fetch(server.port, path)
        assert ("as %23" in str(caught.value.why)) == told


def test_chunked_and_unmarked_bodies_arrive() -> None:
    """A body in chunks, and one that ends with the connection, arrive whole."""
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nima\r\n2\r\nge\r\n0\r\n\r\n"

    async def unmarked(_head: str, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.0 200 OK\r\n\r\nimage")
        writer.close()

    for handler in (always(chunked), unmarked):
        with RawServer(handler) as server:
            assert fetch(server.port) == b"image"


def test_cookies_are_not_kept() -> None:
    """Many cookies do no harm, and none is sent back, neither after a redirect nor later."""
    cookies = [f"Set-Cookie: c{index}={'x' * 200}; Path=/" for index in range(50)]

    async def handler(head: str, writer: asyncio.StreamWriter) -> None:
        if head.startswith("GET /first"):
            writer.write(answer(status="302 Found", headers=[*cookies, "Location: /second"]))
        else:
            writer.write(answer(b"image", headers=cookies))

    async def twice(port: int) -> None:
        async with fetching() as fetcher:
            for _ in range(2):
                # By name: of addresses, no cookies would be kept in any case.
                assert await fetcher.fetch(f"http://pics.example:{port}/first") == b"image"

    with RawServer(handler) as server:
        asyncio.run(twice(server.port))
        assert len(server.requests) == 4
        assert not any("cookie" in head.lower() for head in server.requests)


# --- one download for many -------------------------------------------------------------------------------------------


@asynccontextmanager
async def gated(body: bytes = b"image", status: str = "200 OK") -> AsyncIterator[tuple[RawServer, Callable[[], None]]]:
    """A server that answers only once the gate is opened."""
    gate = asyncio.Event()
    inner: list[asyncio.AbstractEventLoop] = []

    async def handler(_head: str, writer: asyncio.StreamWriter) -> None:
        inner.append(asyncio.get_running_loop())
        await gate.wait()
        writer.write(answer(body, status=status))

    with RawServer(handler) as server:

        def open_gate() -> None:
            inner[0].call_soon_threadsafe(gate.set)

        yield server, open_gate


def test_eight_callers_share_one_download() -> None:
    """Eight concurrent fetches of a URL, in two spellings, are one request; the next one later is another."""

    async def eight() -> None:
        async with gated() as (server, open_gate), fetching() as fetcher:
            urls = [f"http://127.0.0.1:{server.port}/a", f"HTTP://127.0.0.1:{server.port}/a#part"] * 4
            callers = [asyncio.create_task(fetcher.fetch(url)) for url in urls]
            await until(lambda: len(server.requests) > 0)
            open_gate()
            assert await asyncio.gather(*callers) == [b"image"] * 8
            assert len(server.requests) == 1
            assert await fetcher.fetch(urls[0]) == b"image"
            assert len(server.requests) == 2

    asyncio.run(eight())


def test_different_urls_are_different_downloads() -> None:
    """A query makes another URL."""

    async def two(port: int) -> None:
        async with fetching() as fetcher:
            await asyncio.gather(*(fetcher.fetch(f"http://127.0.0.1:{port}/?{index}") for index in range(2)))

    with RawServer(always(answer(b"image"))) as server:
        asyncio.run(two(server.port))
        assert len(server.requests) == 2


def test_a_caller_that_leaves_does_not_end_the_others_download() -> None:
    """The first of three callers is cancelled; the others get the image of the same one request."""

    async def three() -> None:
        async with gated() as (server, open_gate), fetching() as fetcher:
            url = f"http://127.0.0.1:{server.port}/"
            first, *others = [asyncio.create_task(fetcher.fetch(url)) for _ in range(3)]
            await until(lambda: len(server.requests) > 0)
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            open_gate()
            assert await asyncio.gather(*others) == [b"image"] * 2
            assert len(server.requests) == 1

    asyncio.run(three())


def test_a_download_that_nobody_waits_for_is_not_joined() -> None:
    """A caller that arrives at the very moment when all others have left starts a new download."""

    async def leave() -> None:
        async with gated() as (server, open_gate), fetching() as fetcher:
            url = f"http://127.0.0.1:{server.port}/"
            callers = [asyncio.create_task(fetcher.fetch(url)) for _ in range(2)]
            await until(lambda: len(server.requests) > 0)
            for caller in callers:
                caller.cancel()
            await asyncio.wait(callers)
            late = asyncio.create_task(fetcher.fetch(url))
            await until(lambda: len(server.requests) == 2)
            open_gate()
            assert await late == b"image"
            assert fetcher._flights == {}

    asyncio.run(leave())


def test_a_download_that_nobody_waits_for_is_cut() -> None:
    """When the last caller has left, the server's connection is closed long before the time limit."""

    async def leave(port: int) -> None:
        async with fetching(total_s=60) as fetcher:
            callers = [asyncio.create_task(fetcher.fetch(f"http://127.0.0.1:{port}/")) for _ in range(2)]
            await until(lambda: len(server.requests) > 0)
            for caller in callers:
                caller.cancel()
            await until(lambda: server.open_connections == 0)

    with RawServer(DRIPS["body"]) as server:
        asyncio.run(leave(server.port))


def test_a_failure_reaches_every_caller() -> None:
    """Every caller of a download that fails gets its error."""

    async def eight() -> None:
        async with gated(status="500 Oops") as (server, open_gate), fetching() as fetcher:
            callers = [asyncio.create_task(fetcher.fetch(f"http://127.0.0.1:{server.port}/")) for _ in range(8)]
            await until(lambda: len(server.requests) > 0)
            open_gate()
            outcomes = await asyncio.gather(*callers, return_exceptions=True)
            assert [type(outcome) for outcome in outcomes] == [FetchFailed] * 8
            assert len(server.requests) == 1
            assert fetcher._flights == {}

    asyncio.run(eight())


# --- too slow --------------------------------------------------------------------------------------------------------


DRIPS = {
    "body": pieces(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", lambda: b"x", pause_s=0.05),
    "chunks": pieces(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", lambda: b"1\r\nx\r\n", pause_s=0.05),
    "headers": pieces(b"HTTP/1.1 200 OK\r\nX-A: ", lambda: b"x", pause_s=0.05),
    "status line": pieces(b"HTTP/1.1 200 ", lambda: b"x", pause_s=0.05),
    "early hints": pieces(b"", lambda: b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", pause_s=0.05),
}


@pytest.mark.parametrize("drip", DRIPS)
def test_a_slow_drip_ends_with_the_total_limit(drip: str) -> None:
    """However busy a connection is, the whole fetch ends at its limit, and the connection is closed."""
    with RawServer(DRIPS[drip]) as server:
        begin = time.monotonic()
        with pytest.raises(FetchTimeout):
            fetch(server.port, total_s=0.6)
        assert 0.5 < time.monotonic() - begin < 3
        asyncio.run(until(lambda: server.open_connections == 0))


def test_silence_ends_with_the_total_limit() -> None:
    """A server that accepts the request and sends nothing is given up in time."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        begin = time.monotonic()
        with pytest.raises(FetchTimeout):
            fetch(silent.getsockname()[1], total_s=0.6)
        assert 0.5 < time.monotonic() - begin < 3


def test_slow_redirects_share_one_limit() -> None:
    """The limit holds for all hops together, not for each."""

    async def handler(_head: str, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.3)
        writer.write(answer(status="302 Found", headers=["Location: /"]))

    _, seconds = fails(handler, FetchTimeout, total_s=0.7)
    assert 0.6 < seconds < 3.5


def test_a_host_that_does_not_answer_ends_with_the_connect_limit() -> None:
    """A SYN that is never answered waits no longer than `connect_s`."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]
        try:
            for filler in fillers:  # a full backlog drops further SYNs
                filler.setblocking(False)
                filler.connect_ex(("127.0.0.1", port))
            begin = time.monotonic()
            with pytest.raises(FetchTimeout):
                fetch(port, connect_s=0.4, total_s=20)
            assert 0.3 < time.monotonic() - begin < 5
        finally:
            for filler in fillers:
                filler.close()


def test_tls_that_never_speaks_ends_with_the_connect_limit() -> None:
    """A server that sends nothing during the TLS handshake is given up after `connect_s`."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        begin = time.monotonic()
        with pytest.raises(FetchTimeout):
            fetch(silent.getsockname()[1], scheme="https", connect_s=0.4, total_s=20)
        assert 0.3 < time.monotonic() - begin < 5


def test_slow_lookups_block_nothing_else_and_end_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the system's resolver hangs, the loop goes on, other fetches are served, and the caller gets its answer."""
    lookup = socket.getaddrinfo
    over = threading.Event()

    def hanging(host: str, *arguments: Any, **options: Any) -> Any:
        if host == "slow.example":
            assert over.wait(20)
            raise socket.gaierror("gave up")
        return lookup(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", hanging)

    async def beside(port: int) -> None:
        async with fetching(UrlPolicy(allow=("localhost",)), total_s=2, resolve=None) as fetcher:
            slow = [asyncio.create_task(fetcher.fetch(f"http://slow.example:{port}/{index}")) for index in range(12)]
            await asyncio.sleep(0.05)
            # More lookups hang than the loop's own executor has threads on a small machine.
            assert await asyncio.to_thread(str, 1) == "1"
            assert await fetcher.fetch(f"http://localhost:{port}/") == b"image"
            outcomes = await asyncio.gather(*slow, return_exceptions=True)
            assert {type(outcome) for outcome in outcomes} == {FetchTimeout}
            over.set()

    with RawServer(always(answer(b"image")), hosts=["127.0.0.1", "::1"]) as server:
        asyncio.run(beside(server.port))


# --- too large -------------------------------------------------------------------------------------------------------


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def test_the_limit_is_exact() -> None:
    """A body of exactly the limit arrives, one byte more does not."""
    with RawServer(always(answer(b"x" * LIMIT))) as server:
        assert len(fetch(server.port)) == LIMIT
    with RawServer(
        always(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"x" * LIMIT) + chunk(b""))
    ) as server:
        assert len(fetch(server.port)) == LIMIT
    fails(always(answer(b"x" * (LIMIT + 1))), ImageTooLarge)


ENDLESS = {
    "unmarked": pieces(b"HTTP/1.1 200 OK\r\n\r\n", lambda: b"x" * 65536),
    "chunks": pieces(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", lambda: chunk(b"x" * 65536)),
    "promised": pieces(f"HTTP/1.1 200 OK\r\nContent-Length: {10**15}\r\n\r\n".encode(), lambda: b"x" * 65536),
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_endless_bodies_end_at_the_limit(kind: str) -> None:
    """An endless body is given up as soon as it is over the limit, and its connection closed."""
    with RawServer(ENDLESS[kind]) as server:
        begin = time.monotonic()
        with pytest.raises(ImageTooLarge):
            fetch(server.port, total_s=10)
        assert time.monotonic() - begin < 2
        asyncio.run(until(lambda: server.open_connections == 0))


def test_a_promised_size_over_the_limit_is_not_waited_for() -> None:
    """A Content-Length over the limit is enough to refuse, before any body comes."""
    silent = pieces(f"HTTP/1.1 200 OK\r\nContent-Length: {LIMIT + 1}\r\n\r\n".encode(), lambda: b"", pause_s=0.05)
    _, seconds = fails(silent, ImageTooLarge, total_s=20)
    assert seconds < 5


def test_a_gzip_bomb_costs_no_more_than_the_limit() -> None:
    """A hundred megabytes in a hundred kilobytes are refused with little more than the limit in memory."""
    bomb = gzip.compress(b"\0" * 100_000_000)
    assert len(bomb) < LIMIT
    with RawServer(always(answer(bomb, headers=["Content-Encoding: gzip"]))) as server:
        tracemalloc.start()
        try:
            with pytest.raises(ImageTooLarge):
                fetch(server.port)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 8 * LIMIT


def test_compressed_bytes_are_limited_as_they_arrive() -> None:
    """An endless stream that unpacks to nothing ends at the limit, too."""
    empty_blocks = b"\x00\x00\x00\xff\xff" * 13107
    begin = gzip.compress(b"")[:10]
    endless = pieces(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + begin, lambda: empty_blocks)
    fails(endless, ImageTooLarge, total_s=10)


HEADERS = {
    "endless lines": pieces(b"HTTP/1.1 200 OK\r\n", lambda: b"X-A: b\r\n" * 1000),
    "one endless line": pieces(b"HTTP/1.1 200 OK\r\nX-A: ", lambda: b"b" * 65536),
    "an endless name": pieces(b"HTTP/1.1 200 OK\r\n", lambda: b"b" * 65536),
    "an endless status": pieces(b"HTTP/1.1 200 ", lambda: b"b" * 65536),
    "many": always(answer(b"image", headers=[f"X-{index}: a" for index in range(10_000)])),
    "many cookies": always(answer(b"image", headers=[f"Set-Cookie: c{index}=a" for index in range(10_000)])),
    "a long one": always(answer(b"image", headers=[f"X-A: {'a' * 100_000}"])),
    "endless trailers": pieces(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", lambda: b"X-A: b\r\n" * 1000
    ),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_header_bombs_are_refused(kind: str) -> None:
    """Endless or oversized headers end the fetch at once, in little memory."""
    tracemalloc.start()
    try:
        _, seconds = fails(HEADERS[kind], FetchFailed, total_s=10)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert seconds < 3
    assert peak < 8 * LIMIT


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
FLOODS = {
    "early hints": pieces(b"", lambda: b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 1000),
    "a chunk extension": pieces(CHUNKED + b"5;", lambda: b"a" * 65536),
    "chunks of a byte": pieces(CHUNKED, lambda: b"1\r\nx\r\n" * 10_000),
    "empty lines": pieces(b"", lambda: b"\r\n" * 30_000),
}


@pytest.mark.parametrize("kind", FLOODS)
def test_floods_without_content_are_aborted(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What HTTP lets a server repeat for ever ends soon, in little memory, and other tasks get their turn.

    Bytes are counted, not seconds: uvloop takes 8 MB of a flood without a turn for others, 1.6 s of CPU and more.
    """
    arrived: list[int] = []
    take = _CountingHandler.data_received

    def count(self: Any, data: bytes) -> None:
        arrived.append(len(data))
        take(self, data)

    monkeypatch.setattr(_CountingHandler, "data_received", count)
    with RawServer(FLOODS[kind]) as server:
        with pytest.raises(FetchFailed) as caught:
            fetch(server.port, max_bytes=20 * LIMIT, total_s=60)
        asyncio.run(until(lambda: server.open_connections == 0))
    assert type(caught.value) is FetchFailed  # not that it took too long
    assert 0 < sum(arrived) < 5 * FLOOD_SLACK_BYTES


def test_small_chunks_and_many_requests_are_not_a_flood() -> None:
    """A megabyte in chunks of 16 bytes arrives, and so does the hundredth image on one connection."""
    body = b"".join(chunk(b"0123456789abcdef") for _ in range(LIMIT // 16)) + chunk(b"")

    async def handler(head: str, writer: asyncio.StreamWriter) -> None:
        hint = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
        writer.write(CHUNKED + body if "/chunks" in head else hint * 8 + answer(b"x" * 10_000))

    async def many(port: int) -> None:
        async with fetching(total_s=10) as fetcher:
            assert len(await fetcher.fetch(f"http://127.0.0.1:{port}/chunks")) == LIMIT
            for index in range(100):
                assert len(await fetcher.fetch(f"http://127.0.0.1:{port}/{index}")) == 10_000

    with RawServer(handler) as server:
        asyncio.run(many(server.port))
        assert server.connections == 1


# --- broken ----------------------------------------------------------------------------------------------------------


BROKEN = {
    "not HTTP": always(b"SSH-2.0-OpenSSH_9.9\r\n"),
    "negative length": always(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"),
    "two lengths": always(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nimage!"),
    "bad chunk": always(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nimage"),
    "bad gzip": always(answer(b"image", headers=["Content-Encoding: gzip"])),
    "cut gzip": always(answer(gzip.compress(b"image")[:-6], headers=["Content-Encoding: gzip"])),
    "brotli": always(answer(b"image", headers=["Content-Encoding: br"])),
    "gzip twice": always(answer(gzip.compress(gzip.compress(b"image")), headers=["Content-Encoding: gzip, gzip"])),
    "not found": always(answer(b"image", status="404 Not Found")),
    "error": always(answer(b"image", status="500 Internal Server Error")),
    "no content": always(b"HTTP/1.1 204 No Content\r\n\r\n"),
    "partial": always(answer(b"image", status="206 Partial Content", headers=["Content-Range: bytes 0-4/10"])),
    "not modified": always(b"HTTP/1.1 304 Not Modified\r\n\r\n"),
    "switching": always(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"),
    "redirect to nowhere": always(answer(status="302 Found")),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_answers_are_the_server_s_failure(kind: str) -> None:
    """Anything but a whole 200 answer is a 502, at once."""
    _, seconds = fails(BROKEN[kind], FetchFailed, total_s=20)
    assert seconds < 5


def test_an_incomplete_body_is_not_an_image() -> None:
    """Fewer bytes than promised are an error, not a shorter image."""

    async def handler(_head: str, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nima")
        await writer.drain()
        writer.close()

    fails(handler, FetchFailed)


def test_redirect_loops_end() -> None:
    """A loop is given up after five redirects."""
    with RawServer(always(answer(status="302 Found", headers=["Location: /"]))) as server:
        with pytest.raises(FetchFailed, match="could not be downloaded") as caught:
            fetch(server.port)
        assert "5 times" in str(caught.value.why)
        assert len(server.requests) == 6


def test_a_closed_port_and_an_unknown_name_are_failures_without_addresses() -> None:
    """The error names no address that the caller did not give."""

    async def unknown(_host: str) -> Sequence[str]:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    with socket.create_server(("127.0.0.1", 0)) as reserved:
        closed = reserved.getsockname()[1]
    for resolve in (to_loopback, unknown):
        with pytest.raises(FetchFailed) as caught:
            fetch(closed, host="some.example", resolve=resolve)
        assert "127.0.0.1" not in f"{caught.value.what} {caught.value.why} {caught.value.hint}"


# --- TLS -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A throwaway certificate for pics.example and 127.0.0.1, with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "detectctl test")])
    now = dt.datetime.now(dt.UTC)
    names = [x509.DNSName("pics.example"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + signed.public_bytes(serialization.Encoding.PEM)
    )
    return path


@pytest.fixture
def server_tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def test_tls_asks_for_the_name_and_proves_it(certificate: Path, server_tls: ssl.SSLContext) -> None:
    """SNI and Host carry the name although the connection goes to an address; connections are kept here too."""

    async def twice(port: int) -> None:
        async with fetching(tls=ssl.create_default_context(cafile=certificate)) as fetcher:
            for index in range(2):
                assert await fetcher.fetch(f"https://pics.example:{port}/{index}") == b"image"

    with RawServer(always(answer(b"image")), tls=server_tls) as server:
        asyncio.run(twice(server.port))
        assert server.server_names == ["pics.example"]
        assert f"Host: pics.example:{server.port}\r\n" in server.requests[0]


@pytest.mark.parametrize("host", ["other.example", "127.0.0.2"])
def test_a_certificate_for_another_name_is_refused(host: str, certificate: Path, server_tls: ssl.SSLContext) -> None:
    """A server with a trusted certificate for another name gets no request."""
    with RawServer(always(answer(b"image")), hosts=["127.0.0.1", "127.0.0.2"], tls=server_tls) as server:
        with pytest.raises(FetchFailed) as caught:
            fetch(server.port, host=host, scheme="https", tls=ssl.create_default_context(cafile=certificate))
        assert "identity" in str(caught.value.why)
        assert server.requests == []


def test_an_unknown_authority_is_refused(server_tls: ssl.SSLContext) -> None:
    """By default only public authorities are trusted."""
    with RawServer(always(answer(b"image")), tls=server_tls) as server:
        with pytest.raises(FetchFailed):
            fetch(server.port, host="pics.example", scheme="https", tls=None)
        assert server.requests == []


def test_plain_http_at_a_tls_port_and_the_other_way_round(certificate: Path, server_tls: ssl.SSLContext) -> None:
    """The wrong protocol counts as the server's failure."""
    with RawServer(always(answer(b"image")), tls=server_tls) as server, pytest.raises(FetchFailed):
        fetch(server.port)

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(answer(status="400 Bad Request"))
        writer.close()

    async def to_plain() -> None:
        server = await asyncio.start_server(refuse, "127.0.0.1", 0)
        async with server, fetching(tls=ssl.create_default_context(cafile=certificate)) as fetcher:
            with pytest.raises(FetchFailed):
                await fetcher.fetch(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/")

    asyncio.run(to_plain())


def test_https_never_leads_to_http(certificate: Path, server_tls: ssl.SSLContext) -> None:
    """A redirect from https to http is refused even to a permitted host, which gets no request."""
    with RawServer(always(answer(b"image"))) as plain:
        moved = answer(status="302 Found", headers=[f"Location: http://pics.example:{plain.port}/"])
        with RawServer(always(moved), tls=server_tls) as server, pytest.raises(UrlNotAllowed):
            fetch(server.port, host="pics.example", scheme="https", tls=ssl.create_default_context(cafile=certificate))
        assert plain.connections == 0


def test_http_may_lead_to_https(certificate: Path, server_tls: ssl.SSLContext) -> None:
    """The redirect from http to https, which most sites have, is followed."""
    with RawServer(always(answer(b"image")), tls=server_tls) as server:
        moved = answer(status="301 Moved", headers=[f"Location: https://pics.example:{server.port}/"])
        with RawServer(always(moved)) as plain:
            tls = ssl.create_default_context(cafile=certificate)
            assert fetch(plain.port, host="pics.example", tls=tls) == b"image"


# --- life ------------------------------------------------------------------------------------------------------------


def test_closing_closes_connections() -> None:
    """After `close` no connection is left; closing a fetcher that never fetched does nothing."""

    async def once(port: int) -> None:
        async with fetching() as fetcher:
            await fetcher.fetch(f"http://127.0.0.1:{port}/")
            assert server.open_connections == 1
        await until(lambda: server.open_connections == 0)
        async with fetching():
            pass

    with RawServer(always(answer(b"image"))) as server:
        asyncio.run(once(server.port))
