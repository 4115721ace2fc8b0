"""The fetcher against those who want it to open what it must not: real listeners stand for the forbidden targets."""

from __future__ import annotations

import asyncio
import socket
import ssl
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from detectctl.errors import BadUrl, RequestError, UrlNotAllowed
from detectctl.serving.fetch import Fetcher
from detectctl.serving.url_policy import UrlPolicy
from hostile_urls import HOSTILE, LISTEN_AT, REBOUND, Hostile
from raw_server import RawServer, always, answer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

HOP = "127.0.0.9"
TLS = ssl.create_default_context()
"""Made once: loading all authorities for each of hundreds of fetchers takes longer than the tests."""
ALLOW_HOP = UrlPolicy(allow=(f"{HOP}/32",))


class Watch:
    """Every TCP connection that this process tries, as the interpreter itself reports it."""

    def __init__(self) -> None:
        self.tried: list[Any] | None = None
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "socket.connect" and self.tried is not None and arguments[0].type & socket.SOCK_STREAM:
            self.tried.append(arguments[1])


_watch = Watch()  # an audit hook cannot be taken back, so there is one


@pytest.fixture
def tried() -> Iterator[list[Any]]:
    """The addresses of TCP connections tried during the test."""
    _watch.tried = []
    yield _watch.tried
    _watch.tried = None


@pytest.fixture(scope="module")
def forbidden() -> Iterator[RawServer]:
    """Listeners on IPv4 and IPv6 loopback that would give an image to whoever reaches them."""
    with RawServer(always(answer(b"secret")), hosts=LISTEN_AT) as server:
        yield server


@pytest.fixture(autouse=True)
def _untouched(forbidden: RawServer) -> Iterator[None]:
    before = forbidden.connections
    yield
    assert forbidden.connections == before, "a forbidden listener was reached"


async def attempt(url: str, policy: UrlPolicy, names: Mapping[str, Sequence[str]] | None = None) -> bytes:
    async def resolve(host: str) -> Sequence[str]:
        assert names is not None
        return names[host]

    lookup = resolve if names is not None else None
    fetcher = Fetcher(policy, max_bytes=1000, connect_s=2, total_s=3, resolve=lookup, tls=TLS)
    try:
        return await fetcher.fetch(url)
    finally:
        await fetcher.close()


def test_the_table_is_long_enough() -> None:
    """At least 60 URLs, no two the same."""
    assert len({hostile.url for hostile in HOSTILE}) == len(HOSTILE) >= 60


def _named(hostile: Hostile) -> str:
    return ascii(f"{hostile.trick}: {hostile.url[:60]}")


@pytest.mark.usefixtures("replica_event_loop")
@pytest.mark.parametrize("hostile", HOSTILE, ids=_named)
def test_hostile_urls_are_refused_before_any_connection(
    hostile: Hostile, forbidden: RawServer, tried: list[Any]
) -> None:
    """The answer has the right code and comes at once, and not one connection is tried."""
    _assert_refused(hostile, forbidden, tried)


@pytest.mark.parametrize("hostile", HOSTILE[::12], ids=_named)
def test_so_they_are_on_the_standard_event_loop(hostile: Hostile, forbidden: RawServer, tried: list[Any]) -> None:
    _assert_refused(hostile, forbidden, tried)


def _assert_refused(hostile: Hostile, forbidden: RawServer, tried: list[Any]) -> None:
    begin = time.monotonic()
    with pytest.raises(RequestError) as caught:
        asyncio.run(attempt(hostile.at(forbidden.port), UrlPolicy()))
    assert caught.value.code == hostile.code
    assert time.monotonic() - begin < 2
    assert tried == []


@pytest.mark.usefixtures("each_event_loop")
def test_the_listeners_could_be_reached(tried: list[Any]) -> None:
    """The proof that the table can fail: with permission the same fetcher reaches such listeners, and is seen to."""
    with RawServer(always(answer(b"secret")), hosts=LISTEN_AT) as server:
        policy = UrlPolicy(allow=("127.0.0.0/8", "::1/128", "localhost"))
        for host in ("127.0.0.1", "127.0.0.2", "[::1]", "localhost", "[::ffff:127.0.0.1]"):
            assert asyncio.run(attempt(f"http://{host}:{server.port}/", policy)) == b"secret"
        assert server.connections == len(tried) == 5


@pytest.mark.usefixtures("each_event_loop")
@pytest.mark.parametrize("spelling", ["2130706433", "0x7f.1", "0177.0.0.1", "127.1", "0"])
def test_odd_spellings_are_hostile_indeed(spelling: str, forbidden: RawServer) -> None:
    """The system's resolver takes them for loopback, and an operator's permission for loopback does not open them."""
    (found,) = {entry[4][0] for entry in socket.getaddrinfo(spelling, 80, type=socket.SOCK_STREAM)}
    assert found in {"127.0.0.1", "0.0.0.0"}  # noqa: S104 - nothing binds here
    with pytest.raises(BadUrl):
        asyncio.run(attempt(f"http://{spelling}:{forbidden.port}/", UrlPolicy(allow=("0.0.0.0/0",))))


@pytest.mark.usefixtures("each_event_loop")
def test_redirects_into_forbidden_space_are_refused(forbidden: RawServer, tried: list[Any]) -> None:
    """Each URL of the table is refused as a `Location` too: 403, and the hop's server is the only one ever reached."""
    # An empty Location, a path or a bare word is a redirect to the hop itself; line ends cannot be in a header.
    hops = [
        hostile
        for hostile in HOSTILE
        if "://" in hostile.url and hostile.url.isprintable() and not hostile.url.startswith(" ")
    ]
    assert len(hops) > 100

    async def redirect(head: str, writer: asyncio.StreamWriter) -> None:
        location = hops[int(head.split()[1].strip("/"))].at(forbidden.port).encode()
        writer.write(b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: " + location + b"\r\n\r\n")

    async def follow_all(port: int) -> list[object]:
        fetcher = Fetcher(ALLOW_HOP, max_bytes=1000, connect_s=2, total_s=3, tls=TLS)
        found = [
            await asyncio.gather(fetcher.fetch(f"http://{HOP}:{port}/{index}"), return_exceptions=True)
            for index in range(len(hops))
        ]
        await fetcher.close()
        return [outcome for (outcome,) in found]

    with RawServer(redirect, hosts=[HOP]) as hop:
        outcomes = asyncio.run(follow_all(hop.port))
        # A header line longer than the limit is not a redirect at all.
        wrong = [
            (hostile.url[:80], outcome)
            for hostile, outcome in zip(hops, outcomes, strict=True)
            if not isinstance(outcome, UrlNotAllowed) and len(hostile.url) < 8000
        ]
        assert wrong == []
        assert set(tried) == {(HOP, hop.port)}


@pytest.mark.usefixtures("each_event_loop")
def test_the_last_of_several_redirects_is_checked_too(forbidden: RawServer) -> None:
    """Four permitted hops do not earn a fifth that is forbidden."""

    async def redirect(head: str, writer: asyncio.StreamWriter) -> None:
        left = int(head.split()[1].strip("/"))
        location = f"/{left - 1}" if left else f"http://localhost:{forbidden.port}/"
        writer.write(answer(status="307 Temporary Redirect", headers=[f"Location: {location}"]))

    with RawServer(redirect, hosts=[HOP]) as hop:
        with pytest.raises(UrlNotAllowed):
            asyncio.run(attempt(f"http://{HOP}:{hop.port}/4", ALLOW_HOP))
        assert len(hop.requests) == 5


@pytest.mark.usefixtures("each_event_loop")
@pytest.mark.parametrize(("name", "addresses"), REBOUND)
def test_names_that_lead_to_forbidden_addresses_are_refused(
    name: str, addresses: Sequence[str], forbidden: RawServer, tried: list[Any]
) -> None:
    """One forbidden address among several is enough."""
    with pytest.raises(UrlNotAllowed):
        asyncio.run(attempt(f"http://{name}:{forbidden.port}/", UrlPolicy(), {name: addresses}))
    assert tried == []


@pytest.mark.usefixtures("each_event_loop")
def test_a_name_is_looked_up_once_per_connection(forbidden: RawServer, tried: list[Any]) -> None:
    """The connection is made to the address that was checked; the next one is checked anew, and refused."""
    lookups = []

    async def rebinding(host: str) -> Sequence[str]:
        lookups.append(host)
        return [HOP] if len(lookups) == 1 else ["127.0.0.1"]

    async def twice(port: int) -> None:
        fetcher = Fetcher(ALLOW_HOP, max_bytes=1000, connect_s=2, total_s=3, resolve=rebinding, tls=TLS)
        try:
            url = f"http://rebinding.example:{port}/"
            assert await fetcher.fetch(url) == b"image"
            assert lookups == ["rebinding.example"]
            with pytest.raises(UrlNotAllowed):
                await fetcher.fetch(url)
        finally:
            await fetcher.close()

    async def image(_head: str, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(b"image", headers=["Connection: close"]))
        await writer.drain()
        writer.close()

    # The forbidden listener is at the same port, so that only the address tells them apart.
    with RawServer(image, hosts=[HOP, "127.0.0.3"]) as server:
        asyncio.run(twice(server.port))
        assert lookups == ["rebinding.example"] * 2
        assert tried == [(HOP, server.port)]


@pytest.mark.usefixtures("each_event_loop")
def test_a_redirect_is_looked_up_anew(forbidden: RawServer) -> None:
    """A redirect to the same name at another port is another connection, so its addresses are checked again."""
    answers = iter([[HOP], ["127.0.0.1"]])

    async def rebinding(_host: str) -> Sequence[str]:
        return next(answers)

    async def follow(port: int) -> None:
        fetcher = Fetcher(ALLOW_HOP, max_bytes=1000, connect_s=2, total_s=3, resolve=rebinding, tls=TLS)
        try:
            with pytest.raises(UrlNotAllowed):
                await fetcher.fetch(f"http://rebinding.example:{port}/")
        finally:
            await fetcher.close()

    location = f"Location: http://rebinding.example:{forbidden.port}/"
    with RawServer(always(answer(status="302 Found", headers=[location])), hosts=[HOP]) as hop:
        asyncio.run(follow(hop.port))
        assert len(hop.requests) == 1


@pytest.mark.usefixtures("each_event_loop")
def test_errors_do_not_tell_what_is_there(forbidden: RawServer) -> None:
    """A forbidden target is refused in the same words whether something listens or not, and no address is named."""
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        closed = reserved.getsockname()[1]
    words = []
    for port in (forbidden.port, closed):
        with pytest.raises(UrlNotAllowed) as caught:
            asyncio.run(attempt(f"http://inner.example:{port}/", UrlPolicy(), {"inner.example": ["127.0.0.1"]}))
        words.append(f"{caught.value.what} {caught.value.why} {caught.value.hint}".replace(str(port), "PORT"))
    assert words[0] == words[1]
    assert "127.0.0.1" not in words[0]


@pytest.mark.usefixtures("each_event_loop")
@pytest.mark.parametrize("url", ["http://127.0.0.1:{port}/", "http://example.org/", "file:///etc/passwd"])
def test_url_input_can_be_closed(url: str, forbidden: RawServer, tried: list[Any]) -> None:
    """With URL input off, nothing is opened, not even what is otherwise permitted."""
    policy = UrlPolicy(allow=("0.0.0.0/0",), enabled=False)
    with pytest.raises(UrlNotAllowed):
        asyncio.run(attempt(url.replace("{port}", str(forbidden.port)), policy))
    assert tried == []


@pytest.mark.usefixtures("each_event_loop")
def test_environment_sends_nothing_elsewhere(
    forbidden: RawServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """Proxies, netrc and cookies of the environment are not used."""
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine {HOP} login me password hunter2\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    for variable in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(variable, f"http://127.0.0.1:{forbidden.port}")
    with RawServer(always(answer(b"image")), hosts=[HOP]) as hop:
        assert asyncio.run(attempt(f"http://{HOP}:{hop.port}/", ALLOW_HOP)) == b"image"
        assert "authorization" not in hop.requests[0].lower()
