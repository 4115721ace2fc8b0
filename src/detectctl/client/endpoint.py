"""Requests that are tried again while that helps, within a deadline, and never carry the key elsewhere."""

from __future__ import annotations

import json
import random
import ssl
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    LocationParseError,
    LocationValueError,
    MaxRetryError,
    NewConnectionError,
    ProtocolError,
    ReadTimeoutError,
    SSLError,
)

import detectctl
from detectctl.errors import (
    REQUEST_ERRORS,
    BadUrl,
    DeadlineExceeded,
    DetectctlError,
    FetchFailed,
    FetchTimeout,
    ImageTooLarge,
    NotReady,
    NotRunning,
    RequestError,
    UsageError,
)
from detectctl.sources import MAX_FILE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from urllib3 import BaseHTTPResponse

FIRST_PAUSE_S = 0.2
"""Before the second attempt; doubles with each further one."""

_LONGEST_PAUSE_S = 3.2

CONNECT_TIMEOUT_S = 5.0

_HINTS = {
    "unauthorized": "give the service's key: --api-key-file FILE",
    "url_not_allowed": "download it yourself: --fetch client; or allow it: `detectctl up --allow-url HOST`",
    "image_too_large": "send a smaller image, or raise the limit: `detectctl up --max-image-bytes`",
    "overloaded": "try again later, lower --concurrency, or give the service more: `detectctl up --replicas`",
    "fetch_failed": "download it yourself: --fetch client",
    "fetch_timeout": "download it yourself: --fetch client",
    "internal_error": "read the service's log: `detectctl logs`",
}


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

    def json(self) -> Any:
        """The body, or None if it is not JSON."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None


class _TryAgain(Exception):
    """This attempt failed in a way that another may not.

    Args:
        problem: what to raise if there is no other attempt.
        pause_s: what the server asked for.
        counts: against the number of retries; a service that is away or full for a while is waited for instead.
    """

    def __init__(self, problem: DetectctlError, pause_s: float = 0.0, *, counts: bool = True) -> None:
        super().__init__(problem.what)
        self.problem = problem
        self.pause_s = pause_s
        self.counts = counts


class _Persistence:
    """Tries again, with growing and random pauses, until the deadline or until it is closed."""

    def __init__(self, retries: int) -> None:
        self._retries = retries
        self._closed = threading.Event()

    def close(self) -> None:
        self._closed.set()

    def run(self, attempt: Callable[[], Answer], *, deadline: float, retry: bool = True) -> Answer:
        """The first answer that `attempt` returns; raises the last problem, or what else `attempt` raises."""
        left = self._retries if retry else 0
        base = FIRST_PAUSE_S
        while True:
            try:
                return attempt()
            except _TryAgain as again:
                # Random, or all threads that one refusal hit come back together.
                pause = again.pause_s + base * random.uniform(0.5, 1.5)  # noqa: S311 - no secret
                if left == 0 or time.monotonic() + pause >= deadline or self._closed.wait(pause):
                    raise again.problem from again.__cause__
                left -= again.counts
                base = min(2 * base, _LONGEST_PAUSE_S)


class Endpoint:
    """The service's own address, asked directly: no proxy, no redirect, and so no way for the key to leave.

    Args:
        url: `http://host:port`, with a path if a proxy put one before the routes.
        api_key: sent with each request.
        retries: attempts after the first.
        connections: kept open at most.
        patient: whether a service that refuses connections is known to be there, and waited for from the start.

    Raises:
        UsageError: `url` is no such URL.
    """

    def __init__(self, url: str, *, api_key: str | None, retries: int, connections: int, patient: bool = False) -> None:
        parts = _endpoint_parts(url)
        self.url = url.rstrip("/")
        self._prefix = parts.path.rstrip("/")
        tls = {"ssl_context": _tls()} if parts.scheme == "https" else {}  # 40 ms of CPU that plain HTTP need not pay
        self._pool = urllib3.connection_from_url(f"{parts.scheme}://{parts.netloc}", maxsize=connections, **tls)
        self._key = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._persistence = _Persistence(retries)
        self._known = patient

    def close(self) -> None:
        """Close the connections and end all waiting."""
        self._persistence.close()
        self._pool.close()

    def ask(
        self,
        method: str,
        path: str,
        *,
        deadline: float,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        retry: bool = True,
    ) -> Answer:
        """The service's answer of status 200.

        500, 502, 503 and 504, resets and timeouts are tried again, unless the answer is about the image's own server.
        With retries at all, a service that is known to be there and refuses connections, and one that says when to come
        back, are asked again until the deadline: an update or a crash is over by then.

        Raises:
            NotRunning: nothing answers, and nothing is known to.
            NotReady: something else answers, or no answer came in time.
            RequestError: what the service answered instead.
        """

        def attempt() -> Answer:
            try:
                response = self._pool.urlopen(
                    method,
                    self._prefix + path,
                    body=body,
                    headers={**_own_headers(), **self._key, **(headers or {})},
                    redirect=False,
                    retries=False,
                    timeout=_timeout(deadline),
                    preload_content=False,
                )
                answer = _read(response, deadline)
            except HTTPError as error:
                raise self._unanswered(error, deadline) from error
            self._known = True
            if answer.status == 200:
                return answer
            problem = error_of(answer, self.url)
            if answer.status in {500, 502, 503, 504} and not isinstance(problem, (FetchFailed, FetchTimeout)):
                full = "retry-after" in answer.headers
                raise _TryAgain(problem, _retry_after(answer), counts=not full)
            raise problem

        return self._persistence.run(attempt, deadline=deadline, retry=retry)

    def _unanswered(self, error: HTTPError, deadline: float) -> Exception:
        """What to raise for a request that got no whole answer."""
        why = _reason(error)
        if isinstance(error, SSLError):
            return NotReady(f"no secure connection to {self.url}", why=why, hint="check --url and its certificate")
        if isinstance(error, NewConnectionError):
            gone = NotRunning(f"nothing answers at {self.url}", why=why, hint="see what runs: `detectctl status`")
            # Where nobody is known to be this is no hiccup, and nobody wants to wait to be told so.
            return _TryAgain(gone, counts=False) if self._known else gone
        if time.monotonic() >= deadline:
            return DeadlineExceeded(
                f"no answer from {self.url} in time", why=why, hint="see how it is: `detectctl status`; or --timeout 60"
            )
        return _TryAgain(NotReady(f"no answer from {self.url}", why=why, hint="see how it is: `detectctl status`"))


class ImageHosts:
    """Downloads of images from anywhere, without any key of ours."""

    def __init__(self, *, retries: int, connections: int) -> None:
        self._connections = connections
        self._persistence = _Persistence(retries)

    @cached_property
    def _pools(self) -> urllib3.PoolManager:
        return urllib3.PoolManager(num_pools=64, maxsize=self._connections, headers=_own_headers(), ssl_context=_tls())

    def close(self) -> None:
        """Close the connections and end all waiting."""
        self._persistence.close()
        if "_pools" in self.__dict__:  # else nothing was ever downloaded
            self._pools.clear()

    def download(self, url: str, *, deadline: float) -> bytes:
        """The bytes at `url`, through at most five redirects.

        Raises:
            BadUrl: malformed.
            FetchFailed: its server refused, failed or sent nothing.
            FetchTimeout: it was too slow.
            ImageTooLarge: more than any service takes.
        """

        def attempt() -> Answer:
            try:
                response = self._pools.request(
                    "GET",
                    url,
                    retries=urllib3.Retry(total=None, redirect=5, connect=0, read=0, status=0, other=0),
                    timeout=_timeout(deadline),
                    preload_content=False,
                )
                answer = _read(response, deadline)
            except (LocationParseError, LocationValueError) as error:
                raise BadUrl(f"{url} is no image's URL", why=str(error)) from error
            except HTTPError as error:
                raise _undownloaded(url, error, deadline) from error
            if answer.status == 200 and answer.body:
                return answer
            problem = FetchFailed(f"{url} cannot be downloaded", why=f"its server answered {answer.status}")
            if answer.status in {429, 500, 502, 503, 504}:
                raise _TryAgain(problem, _retry_after(answer))
            raise problem

        return self._persistence.run(attempt, deadline=deadline).body


def _undownloaded(url: str, error: HTTPError, deadline: float) -> Exception:
    cause = error.reason if isinstance(error, MaxRetryError) and error.reason is not None else error
    too_slow = isinstance(cause, (ConnectTimeoutError, ReadTimeoutError)) and not isinstance(cause, NewConnectionError)
    if too_slow or time.monotonic() >= deadline:
        slow = FetchTimeout(f"{url} was not downloaded in time", why=_reason(cause), hint="give it longer: --timeout")
        return slow if time.monotonic() >= deadline else _TryAgain(slow)
    failed = FetchFailed(f"{url} cannot be downloaded", why=_reason(cause))
    return _TryAgain(failed) if isinstance(cause, ProtocolError) else failed


def error_of(answer: Answer, endpoint: str) -> DetectctlError:
    """What an answer other than 200 means: the service's own words, or a guess at who else answered."""
    request_id = answer.headers.get("x-request-id")
    suffix = f" (request {request_id})" if request_id else ""
    data = answer.json()
    error = data.get("error") if isinstance(data, dict) else None
    if isinstance(error, dict) and isinstance(error.get("code"), str):
        code = error["code"]
        kind = REQUEST_ERRORS.get(code, RequestError)
        message = str(error.get("message") or code)
        return kind(message, why=f"the service answered {answer.status} {code}{suffix}", hint=_HINTS.get(code))
    if 300 <= answer.status < 400:
        return NotReady(
            f"{endpoint} answered {answer.status}",
            why=f"it redirects to {answer.headers.get('location', 'nowhere')}{suffix}, and redirects are not followed",
            hint="if that is the service, name it: --url",
        )
    text = " ".join(answer.body[:400].decode(errors="replace").split())[:200]
    by_status = {kind.status: kind for kind in REQUEST_ERRORS.values() if kind.status < 500}
    kind_by_status = by_status.get(answer.status)
    why = f"it said {text!r}{suffix}" if text else f"it said nothing more{suffix}"
    if kind_by_status is not None:
        return kind_by_status(f"{endpoint} answered {answer.status}", why=why, hint=_HINTS.get(kind_by_status.code))
    hint = "see how it is: `detectctl status`" if answer.status >= 500 else "check that --url is a detectctl service"
    return NotReady(f"{endpoint} answered {answer.status}", why=why, hint=hint)


def strange(answer: Answer, endpoint: str) -> NotReady:
    """For an answer of 200 that is not what the service answers."""
    return NotReady(
        f"{endpoint} does not answer like a detectctl service",
        why=f"it sent {len(answer.body)} bytes of {answer.content_type or 'no type'}",
        hint="check --url",
    )


def _endpoint_parts(url: str) -> Any:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable or parts.query or parts.fragment or parts.username is not None:
        raise UsageError(
            "the endpoint is no URL of a service",
            why="it has to be http:// or https://, a host, a port, and no user or query",
            hint="for example --url http://127.0.0.1:8000",
        )
    return parts


def _own_headers() -> dict[str, str]:
    return {"User-Agent": f"detectctl/{detectctl.__version__}"}


def _tls() -> ssl.SSLContext:
    """Trusts the system's authorities and certifi's: a company has its own, a slim container has none."""
    import certifi

    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context


def _timeout(deadline: float) -> urllib3.Timeout:
    left = max(0.001, deadline - time.monotonic())
    return urllib3.Timeout(connect=min(CONNECT_TIMEOUT_S, left), read=left)


def _read(response: BaseHTTPResponse, deadline: float) -> Answer:
    """The whole body; a drip of bytes does not outlive the deadline, and an endless stream not the memory."""
    chunks = []
    size = 0
    while chunk := response.read1(2**20):
        chunks.append(chunk)
        size += len(chunk)
        if size > MAX_FILE_BYTES:
            response.close()
            raise ImageTooLarge("the answer is too large", why=f"it is larger than {MAX_FILE_BYTES >> 20} MiB")
        if time.monotonic() >= deadline:
            response.close()
            raise ReadTimeoutError(None, None, "the answer came too slowly")  # type: ignore[arg-type]
    response.release_conn()
    return Answer(response.status, {name.lower(): value for name, value in response.headers.items()}, b"".join(chunks))


def _retry_after(answer: Answer) -> float:
    """Seconds that the server asks to be left alone: a number or a date."""
    value = answer.headers.get("retry-after", "")
    if value.isdecimal():
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0


def _reason(error: BaseException) -> str:
    """The innermost cause, in its own words: urllib3's outer ones name its objects."""
    while error.__cause__ is not None or error.__context__ is not None:
        error = error.__cause__ or error.__context__ or error
    if isinstance(error, TimeoutError):
        return "it took too long"
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
