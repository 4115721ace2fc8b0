"""HTTP as a caller: the one place where detectctl, outside a replica, asks a server for something and reads its answer.

`Server` is one origin that we have business with; `Downloads` gets files from anywhere. Neither tries again, and both
raise `NoAnswer`: what that means to a user is for the caller to say.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import queue
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urljoin, urlsplit

import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    InvalidHeader,
    LocationValueError,
    NewConnectionError,
    ProtocolError,
    ProxyError,
    ReadTimeoutError,
    SSLError,
)

import detectctl
from detectctl.files import reason
from detectctl.tls import trusting_context

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from urllib3 import BaseHTTPResponse, PoolManager

    from detectctl.waiting import Deadline

CONNECT_S = 5.0
MAX_REDIRECTS = 5
MAX_ANSWER_BYTES = 256 * 2**20
"""Of an answer that is held in memory: an endless stream must not fill it."""

_CHUNK_BYTES = 2**20
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
    """A download's server answered with another status than 200.

    Attributes:
        status: of HTTP.
        retry_after_s: how long it asks to be left alone; None if it does not say.
    """

    def __init__(self, status: int, retry_after_s: float | None) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole HTTP answer; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def content_type(self) -> str:
        """Without its parameters, in lower case."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def retry_after_s(self) -> float | None:
        """Seconds that the server asks to be left alone; None if it does not say."""
        return _retry_after_s(self.headers.get("retry-after"))

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
        BadAddress: `url` is malformed.
    """

    def __init__(self, url: str, *, headers: Mapping[str, str] | None = None, connections: int = 1) -> None:
        parts = urlsplit(url)
        self._prefix = parts.path.rstrip("/")
        tls = {"ssl_context": trusting_context()} if parts.scheme == "https" else {}
        try:
            self._pool = urllib3.connection_from_url(f"{parts.scheme}://{parts.netloc}", maxsize=connections, **tls)
        except LocationValueError as error:
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
        try:
            response = self._pool.urlopen(
                method,
                self._prefix + path,
                body=body,
                headers={**self._headers, **(headers or {})},
                redirect=False,
                retries=False,
                timeout=_timeout(deadline),
                preload_content=False,
            )
            whole = b"".join(_chunks(response, deadline, MAX_ANSWER_BYTES))
        except HTTPError as error:
            raise _no_answer(error) from error
        return Answer(response.status, {name.lower(): value for name, value in response.headers.items()}, whole)


class Downloads:
    """Files from anywhere: without any key of ours, through redirects, and through the proxies of the environment.

    `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` are honoured as everywhere, in capitals or not; this machine
    is never asked through a proxy. Safe to use from several threads.

    Args:
        connections: kept open at most, for each host.
    """

    def __init__(self, *, connections: int = 1) -> None:
        self._connections = connections
        self._managers: dict[tuple[str, str | None], PoolManager] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close the connections."""
        for manager in self._managers.values():
            manager.clear()

    def stream(
        self, url: str, deadline: Deadline, *, max_bytes: int = MAX_ANSWER_BYTES, stall_s: float = float("inf")
    ) -> Generator[bytes]:
        """The bytes at `url` as they come; close the iterator to end the download early.

        Args:
            url: http or https.
            deadline: for all of it.
            max_bytes: of the file.
            stall_s: it also ends after so many seconds without a byte.

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

        # In a thread: looking a name up, and trying its addresses one after another, know no deadline of their own.
        threading.Thread(target=work, daemon=True, name=f"download {url}").start()
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
        here = url
        for _ in range(MAX_REDIRECTS + 1):
            proxy = None
            try:
                scheme = urlsplit(here).scheme
                if scheme not in {"http", "https"}:
                    raise BadAddress("it is not an http:// or https:// URL")
                proxy = _proxy_for(here)
                response = self._manager(scheme, proxy).request(
                    "GET",
                    here,
                    redirect=False,  # followed here, because each hop may have another proxy
                    retries=False,
                    timeout=_timeout(deadline, stall_s),
                    preload_content=False,
                )
                location = response.get_redirect_location()
                if not location:
                    if response.status != 200:
                        response.close()
                        raise Refused(response.status, _retry_after_s(response.headers.get("Retry-After")))
                    yield from _chunks(response, deadline, max_bytes)
                    return
                response.close()
            except (HTTPError, ValueError) as error:
                raise _no_answer(error, proxy) from error
            here = urljoin(here, location)
        raise NoAnswer(f"its server redirected more than {MAX_REDIRECTS} times")

    def _manager(self, scheme: str, proxy: str | None) -> PoolManager:
        with self._lock:
            if (scheme, proxy) not in self._managers:
                self._managers[scheme, proxy] = self._new_manager(scheme, proxy)
            return self._managers[scheme, proxy]

    def _new_manager(self, scheme: str, proxy: str | None) -> PoolManager:
        options: dict[str, Any] = {"num_pools": 64, "maxsize": self._connections, "headers": _HEADERS}
        if scheme == "https":
            options["ssl_context"] = trusting_context()
        if proxy is None:
            return urllib3.PoolManager(**options)
        login = urllib3.util.parse_url(proxy).auth
        if login:
            options["proxy_headers"] = urllib3.make_headers(proxy_basic_auth=unquote(login))
        return urllib3.ProxyManager(proxy, **options)


_TOO_SLOW = "it took too long"


def _proxy_for(url: str) -> str | None:
    """The proxy that the environment names for this URL."""
    from urllib.request import getproxies, proxy_bypass

    parts = urlsplit(url)
    host = parts.hostname or ""
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or _is_this_machine(host) or proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _timeout(deadline: Deadline, stall_s: float = float("inf")) -> urllib3.Timeout:
    left = max(0.001, min(deadline.left_s, stall_s))
    return urllib3.Timeout(connect=min(CONNECT_S, left), read=left)


def _chunks(response: BaseHTTPResponse, deadline: Deadline, max_bytes: int) -> Generator[bytes]:
    """The body; a drip of bytes does not outlive the deadline, and an endless stream not `max_bytes`."""
    size = 0
    try:
        while chunk := response.read1(_CHUNK_BYTES):
            size += len(chunk)
            if size > max_bytes:
                raise TooLarge(f"it is larger than {max_bytes} bytes")
            yield chunk
            if deadline.passed:
                raise TooSlow(_TOO_SLOW)
    finally:
        response.close()  # its connection too, unless that went back to the pool with the last byte


def _no_answer(error: HTTPError | ValueError, proxy: str | None = None) -> NoAnswer:
    cause: BaseException = error.original_error if isinstance(error, ProxyError) else error
    why = _innermost(cause)
    if isinstance(error, ProxyError):
        why = f"the proxy {urlsplit(proxy or '').netloc.rpartition('@')[2]} failed: {why}"
    kinds: list[tuple[type[BaseException] | tuple[type[BaseException], ...], type[NoAnswer]]] = [
        ((LocationValueError, ValueError), BadAddress),
        (SSLError, Untrusted),
        (NewConnectionError, Unreachable),
        ((ConnectTimeoutError, ReadTimeoutError), TooSlow),
        (ProtocolError, BrokenOff),
    ]
    return next((ours for theirs, ours in kinds if isinstance(cause, theirs)), NoAnswer)(why)


def _innermost(error: BaseException) -> str:
    """The cause in its own words: the outer errors of urllib3 name its objects."""
    while error.__cause__ is not None or error.__context__ is not None:
        error = error.__cause__ or error.__context__ or error
    if isinstance(error, TimeoutError):
        return _TOO_SLOW
    return reason(error) if isinstance(error, OSError) else str(error) or type(error).__name__


def _retry_after_s(value: str | None) -> float | None:
    """Of the header: a number of seconds, or a date."""
    if value is None:
        return None
    try:
        return urllib3.Retry().parse_retry_after(value)
    except (InvalidHeader, ValueError, OverflowError):
        return 0.0
