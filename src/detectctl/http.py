"""HTTP as a caller: the one place where detectctl, outside a replica, asks a server for something and reads its answer.

`Server` is one origin that we talk to; `Downloads` gets files from anywhere. Neither tries again, and both
raise `NoAnswer`: the caller says what that means to a user.
"""

from __future__ import annotations

import contextlib
import json
import queue
import ssl
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urljoin, urlsplit

import urllib3
from urllib3 import exceptions as theirs
from urllib3.exceptions import HTTPError

import detectctl
from detectctl.addresses import masked
from detectctl.files import reason
from detectctl.headers import packings, retry_after_s
from detectctl.login import split_login
from detectctl.proxies import proxy_for
from detectctl.tls import trusting_context

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from urllib3 import BaseHTTPResponse, PoolManager

    from detectctl.login import Login
    from detectctl.waiting import Deadline

CONNECT_S = 5.0
MAX_REDIRECTS = 5
MAX_ANSWER_BYTES = 256 * 2**20
"""Of an answer that is held in memory: an endless stream must not fill it."""

_CHUNK_BYTES = 2**20
_ONCE: dict[str, Any] = {"retries": False, "redirect": False, "preload_content": False}
"""How urllib3 is asked: redirects are followed here if at all, because each hop may have another proxy."""
_HEADERS = {"User-Agent": f"detectctl/{detectctl.__version__}"}


class NoAnswer(Exception):
    """No whole answer came; its text fits into an error's `why`."""


class BadAddress(NoAnswer):
    """The URL, or that of a proxy, is malformed or of a kind that cannot be opened."""


class Unreachable(NoAnswer):
    """Nothing listens there, or the name is unknown."""


class Untrusted(NoAnswer):
    """The server could not prove its identity, or does not speak TLS."""


class TooSlow(NoAnswer):
    """Not within the time allowed."""


class BrokenOff(NoAnswer):
    """The connection ended in the middle, or the answer was not HTTP; another attempt may succeed."""


class TooLarge(NoAnswer):
    """More bytes than were allowed."""


class Refused(NoAnswer):
    """A download's server answered with another status than 200: `answer`, whose body is not read."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(f"HTTP {answer.status}")
        self.answer = answer


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer; names of headers are asked for in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def content_type(self) -> str:
        """Without its parameters, in lower case."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def retry_after_s(self) -> float | None:
        """Seconds that the server asks to be left alone, as a number or a date; None if it does not say."""
        if (value := self.headers.get("retry-after")) is None:
            return None
        return retry_after_s(value)

    def json(self) -> Any:
        """The body, or None if it is not JSON."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None


class Server:
    """One origin, asked directly: no proxy and no redirect, so a key in `headers` goes nowhere else.

    Safe to use from several threads. Close it, or use it in `with` through `contextlib.closing`.

    Args:
        url: `http://host:port` or `https://host:port`; a path in it comes before that of each question.
        headers: sent with every question.
        connections: kept open at most.

    Raises:
        BadAddress: `url` is none of these.
    """

    def __init__(self, url: str, *, headers: Mapping[str, str] | None = None, connections: int = 1) -> None:
        try:
            parts = urlsplit(url)
            is_origin = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
        except ValueError:
            is_origin = False
        if not is_origin or parts.query or parts.fragment or parts.username is not None:
            raise BadAddress("it must be http:// or https:// and a host, without a user, a query or a fragment")
        self._prefix = parts.path.rstrip("/")
        tls = {"ssl_context": trusting_context()} if parts.scheme == "https" else {}
        try:
            self._pool = urllib3.connection_from_url(f"{parts.scheme}://{parts.netloc}", maxsize=connections, **tls)
        except theirs.LocationValueError as error:
            raise BadAddress(str(error)) from error
        self._headers = {**_HEADERS, **(headers or {})}

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()

    def ask(
        self,
        method: str,
        path: str,
        deadline: Deadline,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """The answer, of whatever status.

        Raises:
            NoAnswer: none came, or not whole, or not in time.
        """
        target, headers = self._prefix + path, {**self._headers, **(headers or {})}
        try:
            response = self._pool.urlopen(method, target, body, headers, timeout=_timeout(deadline), **_ONCE)
            with contextlib.closing(response):  # and its connection, unless the last byte sent that back to the pool
                whole = b"".join(_chunks(response, deadline, MAX_ANSWER_BYTES))
        except HTTPError as error:
            raise _no_answer(error) from error
        return Answer(response.status, response.headers, whole)


class Downloads:
    """Files from anywhere: without any key of ours, through redirects, and through the proxies of the environment.

    `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` are honoured as everywhere, in capitals or not; `NO_PROXY`
    may also name networks. This machine is never asked through a proxy. A user name and password in a URL are sent to
    its own origin only, as HTTP's Basic or, if that asks for it, Digest authentication. At most `connections` are kept
    open for each host. Safe to use from several threads.
    """

    def __init__(self, *, connections: int = 1) -> None:
        self._connections = connections
        self._managers: dict[tuple[str, str | None], PoolManager] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close the connections."""
        with self._lock:
            for manager in self._managers.values():
                manager.clear()

    def head(self, url: str, deadline: Deadline) -> Answer:
        """What the server answers to `HEAD`, of whatever status; a redirect is not followed.

        Raises:
            NoAnswer: none came, or not in time.
        """
        proxy = proxy_for(url)
        try:
            manager = self._manager(urlsplit(url).scheme, proxy)
            response = manager.request("HEAD", url, headers=_HEADERS, timeout=_timeout(deadline), **_ONCE)
        except (HTTPError, ValueError) as error:
            raise _no_answer(error, proxy) from error
        response.close()
        return Answer(response.status, response.headers, b"")

    def stream(
        self, url: str, deadline: Deadline, *, max_bytes: int, stall_s: float = float("inf")
    ) -> Generator[bytes]:
        """The bytes at `url` (http or https) as they come; close the iterator to end the download early.

        There may be `max_bytes` of them, until `deadline`, and never `stall_s` seconds without one.

        Raises:
            Refused: the status is not 200.
            NoAnswer: no answer came, or not whole, or not in time.
        """
        steps: queue.SimpleQueue[bytes | BaseException | None] = queue.SimpleQueue()
        cancelled = threading.Event()

        def work() -> None:
            try:
                with contextlib.closing(self._open(url, deadline, max_bytes, stall_s)) as chunks:
                    for chunk in chunks:
                        if cancelled.is_set():
                            return
                        steps.put(chunk)
                steps.put(None)
            except BaseException as error:  # noqa: BLE001 - raised again where the bytes are asked for
                steps.put(error)

        # In a thread: looking a name up, and trying its addresses one after another, have no deadline of their own.
        threading.Thread(target=work, daemon=True, name=f"download {masked(url)}").start()
        try:
            while (step := steps.get(timeout=min(deadline.left_s, stall_s))) is not None:
                if isinstance(step, BaseException):
                    raise step
                yield step
        except queue.Empty:
            raise TooSlow(_TOO_SLOW) from None
        finally:
            cancelled.set()

    def _open(self, url: str, deadline: Deadline, max_bytes: int, stall_s: float) -> Generator[bytes]:
        login: Login | None = None
        for _ in range(MAX_REDIRECTS + 1):
            proxy = None
            try:
                url, login = split_login(url, login)
                scheme = _scheme(url)
                proxy = proxy_for(url)
                manager = self._manager(scheme, proxy)
                asked = urllib3.util.parse_url(url).url  # as it will stand in the request
                headers = _HEADERS | (login.headers(asked) if login else {})
                response = manager.request("GET", url, headers=headers, timeout=_timeout(deadline, stall_s), **_ONCE)
                with contextlib.closing(response):
                    if response.status == 401 and login and login.may_answer(response.headers):
                        continue
                    if location := response.get_redirect_location():
                        url = _following(url, location)
                        continue
                    if response.status != 200:
                        raise Refused(Answer(response.status, response.headers, b""))
                    packed = packings(response.headers.get("Content-Encoding", ""))
                    if unknown := set(packed).difference(response.CONTENT_DECODERS):
                        raise NoAnswer(f"its server used a compression that was not offered: {', '.join(unknown)}")
                    response.headers["Content-Encoding"] = ",".join(packed)  # urllib3 takes the rest for deflate
                    yield from _chunks(response, deadline, max_bytes)
                    return
            except (HTTPError, ValueError) as error:
                if isinstance(error, ValueError) and "@" in url:  # in whose text may be a part of a password
                    raise BadAddress(_MALFORMED_LOGIN) from None
                raise _no_answer(error, proxy) from error
        raise NoAnswer(f"its server redirected more than {MAX_REDIRECTS} times")

    def _manager(self, scheme: str, proxy: str | None) -> PoolManager:
        with self._lock:
            if (scheme, proxy) not in self._managers:
                options: dict[str, Any] = {"num_pools": 64, "maxsize": self._connections, "headers": _HEADERS}
                if scheme == "https":
                    options["ssl_context"] = trusting_context()
                if proxy and (login := urllib3.util.parse_url(proxy).auth):
                    options["proxy_headers"] = urllib3.make_headers(proxy_basic_auth=unquote(login))
                new = urllib3.ProxyManager(proxy, **options) if proxy else urllib3.PoolManager(**options)
                self._managers[scheme, proxy] = new
            return self._managers[scheme, proxy]


_PLAIN = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"})
"""How OpenSSL, by its version, calls an answer that is not TLS."""
_TOO_SLOW = "it took too long"
_MALFORMED_LOGIN = "it is malformed; in a password, signs such as / ? # @ must be percent-encoded"


def _scheme(url: str) -> str:
    """`http` or `https`; BadAddress or ValueError if it is not the URL of such a server."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"}:
        raise BadAddress("it is not an http:// or https:// URL")
    if parts.port == 0:  # a greater one than 65535 is a ValueError
        raise BadAddress("its port must be from 1 to 65535")
    return parts.scheme


def _following(url: str, location: str) -> str:
    """Where a redirect leads; a bad address there is no fault of the URL that was asked for."""
    try:
        following = urljoin(url, location)
        _scheme(following)
    except (ValueError, BadAddress):
        raise NoAnswer("its server redirects to what is not an http:// or https:// URL") from None
    return following


def _timeout(deadline: Deadline, stall_s: float = float("inf")) -> urllib3.Timeout:
    left = max(0.001, min(deadline.left_s, stall_s))
    return urllib3.Timeout(connect=min(CONNECT_S, left), read=left)


def _chunks(response: BaseHTTPResponse, deadline: Deadline, max_bytes: int) -> Generator[bytes]:
    """The body; a drip of bytes does not outlive the deadline, and an endless stream not `max_bytes`."""
    size = 0
    while chunk := response.read1(_CHUNK_BYTES):
        size += len(chunk)
        if size > max_bytes:
            raise TooLarge(f"it is larger than {max_bytes} bytes")
        yield chunk
        if deadline.passed:
            raise TooSlow(_TOO_SLOW)


_KINDS = {
    ValueError: BadAddress,
    theirs.SSLError: Untrusted,
    theirs.NewConnectionError: Unreachable,
    theirs.TimeoutError: TooSlow,
    theirs.ProtocolError: BrokenOff,
}


def _no_answer(error: HTTPError | ValueError, proxy: str | None = None) -> NoAnswer:
    cause: BaseException = error
    via = ""
    if isinstance(error, theirs.ProxyError):
        cause = error.original_error
        via = f"the proxy {urlsplit(proxy or '').netloc.rpartition('@')[2]} failed: "
    kind = next((ours for kind, ours in _KINDS.items() if isinstance(cause, kind)), NoAnswer)
    return kind(via + _innermost(cause))


def _innermost(error: BaseException) -> str:
    """The cause in its own words: the outer errors of urllib3 name its objects."""
    while deeper := error.__cause__ or error.__context__:
        error = deeper
    if isinstance(error, TimeoutError):
        return _TOO_SLOW
    if isinstance(error, ssl.SSLError) and error.reason in _PLAIN:
        return "it speaks http there, not https"
    return reason(error) if isinstance(error, OSError) else str(error) or type(error).__name__
