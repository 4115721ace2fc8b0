"""What Serve's own HTTP servers answer, and what reaches the caller."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from detectctl.errors import REQUEST_ERRORS
from detectctl.serving import ingress


def _through(
    status: int, content_type: str, *bodies: bytes, headers: list[tuple[bytes, bytes]] | None = None
) -> list[dict[str, Any]]:
    """The messages that are sent for an answer with these bodies."""
    sent: list[dict[str, Any]] = []

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        usual = [(b"Content-Type", content_type.encode()), (b"Content-Length", b"1"), (b"x-request-id", b"7")]
        await send({"type": "http.response.start", "status": status, "headers": usual + (headers or [])})
        for number, body in enumerate(bodies, 1):
            await send({"type": "http.response.body", "body": body, "more_body": number < len(bodies)})

    async def receive() -> Any:
        raise AssertionError("the body is not read")

    async def send(message: Any) -> None:
        sent.append(message)

    (middleware,) = ingress.middlewares()
    asyncio.run(middleware.cls(app)({"type": "http"}, receive, send))
    return sent


@pytest.mark.parametrize(
    ("said", "text", "meant", "code"),
    [
        (404, b"Path '/' not found", 503, "unavailable"),
        (500, b"Internal Server Error", 502, "bad_gateway"),
        (503, b"Service unavailable", 503, "unavailable"),
        (503, b"Request dropped due to backpressure", 503, "overloaded"),
    ],
)
def test_plain_text_becomes_json(said: int, text: bytes, meant: int, code: str) -> None:
    """A crash is not reported as overload, so that counting codes shows where more capacity would help."""
    start, body = _through(said, "text/plain; charset=utf-8", text, b"more of it")
    headers = dict(start["headers"])
    assert start["status"] == meant
    assert headers[b"content-type"] == b"application/json"
    assert headers[b"retry-after"] == b"1"
    assert headers[b"cache-control"] == b"no-store"
    assert headers[b"x-request-id"] == b"7"
    assert [int(value) for name, value in start["headers"] if name.lower() == b"content-length"] == [len(body["body"])]
    error = json.loads(body["body"])["error"]
    assert (error["code"], REQUEST_ERRORS[code].status) == (code, meant)
    assert set(error) == {"code", "message", "why", "hint"}
    assert not body.get("more_body")


def test_the_services_own_text_goes_through_whatever_its_status() -> None:
    """Ray installs the middleware around each replica, too; the guard's headers mark the service's own text."""
    start, *_ = _through(503, "text/plain", b"a", headers=[(b"x-content-type-options", b"nosniff")])
    assert start["status"] == 503
    assert dict(start["headers"])[b"Content-Type"] == b"text/plain"


@pytest.mark.parametrize(
    ("status", "content_type"), [(404, "application/json"), (500, "application/json"), (200, "text/plain")]
)
def test_the_services_answers_go_through(status: int, content_type: str) -> None:
    start, *bodies = _through(status, content_type, b"a", b"b")
    assert (start["status"], len(start["headers"])) == (status, 3)
    assert [one["body"] for one in bodies] == [b"a", b"b"]
