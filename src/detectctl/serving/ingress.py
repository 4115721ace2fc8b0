"""The answers given in the service's place, when no replica of it can answer.

HAProxy is given them as files. Ray Serve's own HTTP servers (its Python proxy, which stands behind HAProxy or in its
place, and the one in each replica, around the service) speak plain text: 404 while the proxy has no application, as
when the service starts or stops, 500 for a replica that died, 503 for too many requests. `middlewares` turns that text
into the same answers.
"""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from detectctl.errors import BadGateway, GatewayTimeout, Overloaded, RequestError, Unavailable
from detectctl.wire import error_body

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_AGAIN = "try again after the seconds in Retry-After"
_ANSWERS: dict[int, RequestError] = {
    502: BadGateway(
        "the replica went away before it had answered", why="its process ended", hint="send the request again"
    ),
    503: Unavailable(
        "no replica can take the request now", why="the service is starting, stopping or scaling", hint=_AGAIN
    ),
    504: GatewayTimeout(
        "the replica did not answer in time",
        why="it is stuck or overloaded",
        hint="read the service's log: `detectctl logs`",
    ),
}
_DROPPED = Overloaded("too many requests are waiting already", why="the queue is full", hint=_AGAIN)
HEADERS = {
    "Content-Type": "application/json",
    "Retry-After": str(Overloaded.retry_after_s),
    "Cache-Control": "no-store",
}
"""Of all of them."""
IMPORT_PATH = "detectctl.serving.ingress:middlewares"
"""For Serve's RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH."""
_MEANT = {404: 503, 500: 502, 503: 503}


def answers() -> dict[int, tuple[str, bytes]]:
    """Reason phrase and JSON body for each status that an ingress may answer with."""
    return {status: (HTTPStatus(status).phrase, _json(error)) for status, error in _ANSWERS.items()}


def middlewares() -> list[Any]:
    """What Serve asks for when it starts an HTTP server: a list of Starlette's `Middleware`."""
    from starlette.middleware import Middleware

    return [Middleware(JsonErrors)]


class JsonErrors:
    """Around one of Serve's HTTP servers: replaces its own plain-text errors; the service's answers go through."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        held: Message | None = None
        replaced = False

        async def send_json_errors(message: Message) -> None:
            nonlocal held, replaced
            if message["type"] == "http.response.start" and message["status"] in _MEANT and _is_serves_own(message):
                held = message  # its body tells one 503 from another
            elif held is not None:
                start, held, replaced = held, None, True
                await _send_instead(start, message.get("body", b""), send)
            elif not replaced:
                await send(message)

        await self._app(scope, receive, send_json_errors)


async def _send_instead(start: Message, text: bytes, send: Send) -> None:
    status = _MEANT[start["status"]]
    body = _json(_DROPPED if b"backpressure" in text else _ANSWERS[status])
    headers = [one for one in start["headers"] if one[0].lower() not in {b"content-type", b"content-length"}]
    own = {**HEADERS, "Content-Length": str(len(body))}
    headers += [(name.lower().encode(), value.encode()) for name, value in own.items()]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _is_serves_own(message: Message) -> bool:
    """The service's answers have the guard's headers, and its errors are JSON."""
    headers = {name.lower(): value for name, value in message["headers"]}
    return headers.get(b"content-type", b"").startswith(b"text/plain") and b"x-content-type-options" not in headers


def _json(error: RequestError) -> bytes:
    return json.dumps(error_body(error)).encode()
