"""What Serve's Python proxy says on its own, and what reaches the caller."""

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
    """What is sent of an answer in so many parts."""
    sent: list[dict[str, Any]] = []

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        usual = [(b"Content-Type", content_type.encode()), (b"Content-Length", b"1"), (b"x-request-id", b"7")]
        await send({"type": "http.response.start", "status": status, "headers": usual + (headers or [])})
        for number, body in enumerate(bodies, 1):
            await send({"type": "http.response.body", "body": body, "more_body": number < len(bodies)})

    async def receive() -> Any:
        raise AssertionError("nobody asks")

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
def test_plain_text_becomes_an_error_of_ours(said: int, text: bytes, meant: int, code: str) -> None:
    """A crash is not called overload, so whoever counts codes adds capacity only where that helps."""
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
    """Ray installs the middleware around each replica, too; the guard's headers tell whose text it is."""
    start, *_ = _through(503, "text/plain", b"a", headers=[(b"x-content-type-options", b"nosniff")])
    assert start["status"] == 503
    assert dict(start["headers"])[b"Content-Type"] == b"text/plain"


@pytest.mark.parametrize(
    ("status", "content_type"), [(404, "application/json"), (500, "application/json"), (200, "text/plain")]
)
def test_what_the_service_says_goes_through(status: int, content_type: str) -> None:
    start, *bodies = _through(status, content_type, b"a", b"b")
    assert (start["status"], len(start["headers"])) == (status, 3)
    assert [one["body"] for one in bodies] == [b"a", b"b"]
