"""What the ingress says in the service's place, when no replica of it can answer.

HAProxy is given these answers as files. Serve's Python proxy, which stands behind HAProxy, or in its place where there
is none, speaks plain text: 404 while it knows no application, as when the service starts or drains, and 500 for a
replica that died. Neither is what happened; `middlewares` has it say the same as HAProxy.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from detectctl.errors import Overloaded

if TYPE_CHECKING:
    from detectctl.serving.guard import App, Message, Receive, Send

ANSWERS = {
    502: ("Bad Gateway", "the replica went away while it answered"),
    503: ("Service Unavailable", "no replica can take the request now"),
    504: ("Gateway Timeout", "the replica did not answer in time"),
}
"""Reason phrase and message of each status that an ingress may answer with."""
HEADERS = {"Content-Type": "application/json", "Retry-After": "1", "Cache-Control": "no-store"}
"""Of all of them."""
IMPORT_PATH = "detectctl.serving.ingress:middlewares"
"""For Serve's RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH."""
_MEANT = {404: 503, 500: 502, 503: 503}


def body(status: int) -> bytes:
    """The JSON of one of `ANSWERS`."""
    error = {"code": Overloaded.code, "message": ANSWERS[status][1]}
    return json.dumps({"status": "error", "error": error}).encode()


def middlewares() -> list[Any]:
    """What Serve's proxy asks for when it starts: a list of Starlette's `Middleware`."""
    from starlette.middleware import Middleware

    return [Middleware(InOurWords)]


class InOurWords:
    """Replaces the plain text of Serve's proxy; what the service says is JSON or an image, and goes through as it is.

    Args:
        app: Serve's proxy.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """ASGI."""
        replaced = False

        async def send_in_our_words(message: Message) -> None:
            nonlocal replaced
            if message["type"] == "http.response.start" and message["status"] in _MEANT and _is_text(message):
                replaced = True
                status = _MEANT[message["status"]]
                kept = [one for one in message["headers"] if one[0].lower() not in {b"content-type", b"content-length"}]
                said = body(status)
                own = [*HEADERS.items(), ("Content-Length", str(len(said)))]
                kept += [(name.lower().encode(), value.encode()) for name, value in own]
                await send({"type": "http.response.start", "status": status, "headers": kept})
                await send({"type": "http.response.body", "body": said})
            elif not replaced:
                await send(message)

        await self._app(scope, receive, send_in_our_words)


def _is_text(message: Message) -> bool:
    return any(
        name.lower() == b"content-type" and value.startswith(b"text/plain") for name, value in message["headers"]
    )
