"""The table of hostile URLs against the real service, with real listeners in place of the forbidden targets."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from detectctl.serving.body import UPLOAD_S
from edge_service import HOP, REBOUND, REBOUND_TO, Edge
from hostile_urls import HOSTILE, LISTEN_AT
from raw_server import RawServer, always, answer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future

    from slow_upload import Answer

pytestmark = pytest.mark.cluster

LONGEST_S = 11.0


@pytest.fixture(scope="module")
def forbidden() -> Iterator[RawServer]:
    """Listeners on IPv4 and IPv6 loopback that would give an image to any client that reaches them."""
    with RawServer(always(answer(b"secret")), hosts=LISTEN_AT) as server:
        yield server


def _ask(edge: Edge, urls: list[str], workers: int = 8) -> list[tuple[str, int, str, float]]:
    """URL, status, error code and seconds of each request."""

    def one(url: str) -> tuple[str, int, str, float]:
        begun = time.monotonic()
        reply = client.get("/detect", params={"image_url": url})
        return url, reply.status_code, reply.json()["error"]["code"], time.monotonic() - begun

    with edge.client() as client, ThreadPoolExecutor(workers) as threads:
        return list(threads.map(one, urls))


def test_no_hostile_url_reaches_its_target(edge: Edge, forbidden: RawServer) -> None:
    """Each URL of the table gets its own error in time, and no listener sees a connection."""
    assert len(HOSTILE) >= 60
    # An empty parameter is refused as a parameter before anybody reads it as a URL.
    wanted = {hostile.at(forbidden.port): hostile.code if hostile.url else "bad_parameter" for hostile in HOSTILE}
    replies = _ask(edge, list(wanted))
    assert [(url, code) for url, _, code, _ in replies if code != wanted[url]] == []
    assert max(seconds for *_, seconds in replies) < LONGEST_S
    assert forbidden.connections == 0


def test_the_listeners_can_be_reached(forbidden: RawServer) -> None:
    """The proof that the test above can fail: a client that is not stopped reaches every listener."""
    with RawServer(always(answer(b"secret")), hosts=LISTEN_AT) as server:

        async def knock(host: str) -> None:
            _, writer = await asyncio.open_connection(host, server.port)
            writer.close()
            await writer.wait_closed()

        for host in LISTEN_AT:
            asyncio.run(knock(host))
        deadline = time.monotonic() + 5
        while server.connections < len(LISTEN_AT) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert server.connections == len(LISTEN_AT)


def test_the_instances_own_insides_cannot_be_reached(edge: Edge) -> None:
    """Dashboard, HAProxy's statistics and the service itself are as forbidden as any internal target."""
    listening = [
        connection.laddr.port
        for process in edge.processes()
        for connection in process.net_connections("tcp")
        if connection.status == "LISTEN"
    ]
    assert len(listening) > 10
    replies = _ask(edge, [f"http://127.0.0.1:{port}/" for port in listening])
    assert {code for _, _, code, _ in replies} == {"url_not_allowed"}


def test_redirects_into_forbidden_space_are_refused(edge: Edge, forbidden: RawServer) -> None:
    """A permitted server cannot redirect the service to a forbidden target, at the first hop or at the fifth."""
    hops = [one for one in HOSTILE if "://" in one.url and one.url.isprintable() and not one.url.startswith(" ")]
    hops = [one for one in hops if len(one.url) < 8000]  # a longer header line is refused as such
    assert len(hops) > 100

    async def redirect(head: str, writer: asyncio.StreamWriter) -> None:
        index, _, left = head.split()[1].strip("/").partition("/")
        location = f"/{index}/{int(left) - 1}".encode() if int(left) else hops[int(index)].at(forbidden.port).encode()
        writer.write(b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: " + location + b"\r\n\r\n")

    with RawServer(redirect, hosts=[HOP]) as hop:
        urls = [f"http://{HOP}:{hop.port}/{index}/{4 if index % 10 == 0 else 0}" for index in range(len(hops))]
        replies = _ask(edge, urls)
        assert [(url, code) for url, _, code, _ in replies if code != "url_not_allowed"] == []
        assert len(hop.requests) >= len(hops)
    assert max(seconds for *_, seconds in replies) < LONGEST_S
    assert forbidden.connections == 0


def test_a_name_that_changes_its_answer_gains_nothing(edge: Edge) -> None:
    """Each connection goes to an address that was checked and permitted, or is not made."""
    reached: list[str] = []

    async def note(head: str, writer: asyncio.StreamWriter) -> None:
        reached.append(writer.get_extra_info("sockname")[0])
        redirects = head.split()[1] == "/redirect"
        location = [f"Location: http://{REBOUND}:{server.port}/"] if redirects else []
        writer.write(answer(b"secret", "302 Found" if redirects else "200 OK", [*location, "Connection: close"]))
        await writer.drain()
        writer.close()

    with RawServer(note, hosts=[HOP, "127.0.0.1", "::1"]) as server:
        turns = 3 * len(REBOUND_TO)
        by_name = [_ask(edge, [f"http://{REBOUND}:{server.port}/"])[0][2] for _ in range(turns)]
        redirected = [_ask(edge, [f"http://{HOP}:{server.port}/redirect"])[0][2] for _ in range(turns)]
    # One in four is permitted, and what comes then is not an image; the proof that the name is looked up, and bent.
    for codes in (by_name, redirected):
        assert Counter(codes) == {"unsupported_image": turns // 4, "url_not_allowed": turns * 3 // 4}
    assert set(reached) == {HOP}
    assert server.connections == len(reached) == turns // 4 + turns + turns // 4


async def _silent(_head: str, _writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(60)


async def _drip_headers(_head: str, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        writer.write(b"HTTP/1.1 200 OK\r\n")
        for number in range(60):
            writer.write(f"X-{number}: 1\r\n".encode())
            await writer.drain()
            await asyncio.sleep(1)


async def _drip_body(_head: str, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n")
        for _ in range(60):
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(1)


async def _endless(_head: str, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while not writer.is_closing():
            writer.write(bytes(65536))
            await writer.drain()


async def _round(_head: str, writer: asyncio.StreamWriter) -> None:
    writer.write(answer(status="302 Found", headers=["Location: /"]))


async def _elsewhere(_head: str, writer: asyncio.StreamWriter) -> None:
    writer.write(answer(status="302 Found", headers=["Location: ftp://example.org/"]))


def test_slow_and_endless_servers_are_left_in_time(edge: Edge) -> None:
    """Silence, dripping headers, a dripping body, an endless one and a redirect loop all end within 11 s."""
    cases = {
        _silent: {"fetch_timeout"},
        _drip_headers: {"fetch_timeout"},
        _drip_body: {"fetch_timeout"},
        _endless: {"image_too_large"},
        _round: {"fetch_failed"},
        _elsewhere: {"url_not_allowed"},
    }
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(RawServer(handler, hosts=[HOP])) for handler in cases]
        replies = _ask(edge, [f"http://{HOP}:{server.port}/" for server in servers])
    for (url, _, code, seconds), codes in zip(replies, cases.values(), strict=True):
        assert code in codes, (url, code)
        assert seconds < LONGEST_S


def test_errors_tell_nothing_of_the_inside(edge: Edge, forbidden: RawServer) -> None:
    """An open port and a closed one, an internal name that exists and one that does not, get the same answer."""
    with RawServer(always(b""), hosts=["127.0.0.1"]) as gone:
        closed = gone.port
    with edge.client() as client:
        words = [
            client.get("/detect", params={"image_url": f"http://{host}/"}).json()["error"]["message"]
            for host in (f"localhost:{forbidden.port}", f"localhost:{closed}", "localhost", "nobody", "nobody.internal")
        ]
    assert words[0].replace(str(forbidden.port), "") == words[1].replace(str(closed), "")
    assert (
        len({message.replace("nobody.internal", "localhost").replace("nobody", "localhost") for message in words[2:]})
        == 1
    )
    assert "127.0.0.1" not in words[0]


def test_uploads_that_trickle_end_in_time(slow_uploads: list[Future[Answer]]) -> None:
    """408 after the 30 s that the service gives a body, although a byte of it came every 0.2 s.

    They began with the first attack, in another file.
    """
    for upload in slow_uploads:
        answer = upload.result()
        assert answer.status == 408
        assert '"code":"request_timeout"' in answer.text
        assert "x-request-id:" in answer.text.lower()
        assert UPLOAD_S <= answer.seconds < 3 * UPLOAD_S
