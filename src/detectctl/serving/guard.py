"""Who may use the service, and what every answer tells browsers: a plain ASGI layer around the application."""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
from typing import TYPE_CHECKING, Final

from starlette.responses import JSONResponse

from detectctl.errors import HostNotKnown, RequestError, Unauthorized, UsageError
from detectctl.keys import key_digests
from detectctl.serving import below, page_files
from detectctl.serving.request_log import LOGGER
from detectctl.wire import error_body

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from detectctl.serving.service_config import ServiceConfig

OPEN_ROUTES: Final = frozenset({"/healthz", "/readyz", *page_files.FILES})
"""For load balancers, which have no key; their answers reveal nothing but that the service is there. So does the page
at `/`, which is the same at every service and asks for a key itself."""
METRICS: Final = "/metrics"


def open_routes(config: ServiceConfig) -> frozenset[str]:
    """The paths that anybody may ask."""
    return OPEN_ROUTES | {METRICS} if config.metrics_public else OPEN_ROUTES


# No answer is a page, except / and /docs, which have their own policies: so nothing may be run, framed or guessed at.
_HEADERS: Final = {
    b"x-content-type-options": b"nosniff",
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    b"referrer-policy": b"no-referrer",
    b"cache-control": b"no-store",
}

logger = logging.getLogger(LOGGER)


class KeyDigests:
    """The keys that are accepted now, of which only digests are known."""

    def __init__(self, digests: Iterable[str]) -> None:
        self.replace(digests)

    def replace(self, digests: Iterable[str]) -> None:
        """Accept these keys from now on: SHA-256, hex."""
        self._digests = tuple(bytes.fromhex(digest) for digest in digests)

    def accepts(self, key: bytes) -> bool:
        """Whether this is one of the keys; takes the same time for every key that is not one."""
        digest = hashlib.sha256(key).digest()
        # All are compared, as digests of one length: the time reveals nothing of how much of which key was right.
        return sum([hmac.compare_digest(digest, known) for known in self._digests]) > 0


class KeyRing(KeyDigests):
    """The keys in a file, which is read again whenever it has changed.

    While the file is missing or malformed, no key is accepted; so replace it in one step (mv). Only digests of the keys
    are kept in memory.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(())
        self._path = path
        self._seen: tuple[int, ...] | None = None

    def accepts(self, key: bytes) -> bool:
        """See `KeyDigests.accepts`."""
        self._refresh()
        return super().accepts(key)

    def _refresh(self) -> None:
        try:
            stat = self._path.stat()
            seen: tuple[int, ...] = (stat.st_mtime_ns, stat.st_size, stat.st_ino, stat.st_ctime_ns)
        except OSError:
            seen = ()
        if seen == self._seen:
            return
        try:
            self.replace(key_digests(self._path))
        except UsageError as error:
            self._digests = ()
            logger.error("no key is accepted: %s: %s", error.what, error.why)  # noqa: TRY400 - no traceback is needed
        else:
            logger.info("the key file has %d keys", len(self._digests))
        self._seen = seen


class Guard:
    """Requires a key, where there is a key ring, and adds the security headers to every answer.

    Args:
        app: what is guarded.
        keys: None accepts every caller.
        refused: called with ASGI's scope and the error code of each refused request, for its log line.
        own_host: where there is no key ring, the one `Host` beside localhost and addresses that is accepted; None
            accepts any.
        open_routes: paths that anybody may ask.
    """

    def __init__(
        self,
        app: ASGIApp,
        keys: KeyDigests | None,
        refused: Callable[[Scope, str], None],
        own_host: str | None = None,
        open_routes: frozenset[str] = OPEN_ROUTES,
    ) -> None:
        self._app = app
        self._keys = keys
        self._refused = refused
        self._open = open_routes
        # Any literal address is as good as our own: no DNS answer can change where it leads.
        own = rf"(localhost|[0-9.]+|\[[0-9a-f:.]+\]|{re.escape(own_host or '')})(:[0-9]+)?"
        self._own = None if own_host is None else re.compile(own.encode(), re.IGNORECASE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        answer: ASGIApp = self._app
        if scope["type"] == "http":
            send = with_security_headers(send)
            error = None if below.path(scope) in self._open else self._refusal(scope["headers"])
            if error is not None:
                self._refused(scope, error.code)
                scheme = {"WWW-Authenticate": 'Bearer realm="detectctl"'} if isinstance(error, Unauthorized) else None
                answer = JSONResponse(error_body(error), error.status, scheme)
        await answer(scope, receive, send)

    def _refusal(self, headers: list[tuple[bytes, bytes]]) -> RequestError | None:
        """Why the request is refused, if it is."""
        if self._keys is not None:
            presented = _presented(headers)
            if presented is not None and self._keys.accepts(presented):
                return None
            return Unauthorized(
                "the API key is missing" if presented is None else "the API key is wrong",
                why="the service requires one of the keys in its key file",
                hint="send it as `Authorization: Bearer KEY` or as `X-API-Key: KEY`",
            )
        # A web page may point its own name at 127.0.0.1 (DNS rebinding); it then asks, and may read, under that name.
        if self._own is None or all(self._own.fullmatch(value) for name, value in headers if name == b"host"):
            return None
        return HostNotKnown(
            "the request's Host is not a name of this machine",
            why="without API keys the service accepts only localhost and addresses as Host",
            hint="send it to 127.0.0.1, or restart with `detectctl up --generate-api-key`",
        )


def with_security_headers(send: Send) -> Send:
    """`send` that adds the headers which restrict browsers, where the answer has none of its own."""

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = message["headers"] = list(message.get("headers", ()))
            present = {name.lower() for name, _ in headers}
            headers += [header for header in _HEADERS.items() if header[0] not in present]
        await send(message)

    return send_with_headers


def _presented(headers: list[tuple[bytes, bytes]]) -> bytes | None:
    """The key in a request's headers; None if there is none, or if two headers differ."""
    found = set()
    for name, value in headers:
        if name == b"x-api-key":
            found.add(value.strip())
        elif name == b"authorization":
            scheme, _, key = value.partition(b" ")
            if scheme.lower() == b"bearer":
                found.add(key.strip())
    return found.pop() if len(found) == 1 else None
