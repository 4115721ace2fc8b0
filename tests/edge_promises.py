"""What a service promises whoever asks it, on whichever host it runs: refusals, limits, headers and request ids."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from broken_images import png
from detectctl.engine.detector_settings import MAX_IMAGE_BYTES, MAX_IMAGE_PIXELS

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

HEADERS = {
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


class Refusal(NamedTuple):
    """A request, and the status and code of its answer."""

    method: str
    path: str
    status: int
    code: str
    body: bytes = b""
    headers: dict[str, str] = {}  # noqa: RUF012 - never changed


REFUSALS = (
    Refusal("GET", "/detect?image_url=ftp://example.org/a.jpg", 400, "bad_url"),
    Refusal("GET", "/detect?image_url=http://127.0.0.1:8000/", 403, "url_not_allowed"),
    Refusal("GET", "/nowhere", 404, "not_found"),
    Refusal("DELETE", "/detect", 405, "method_not_allowed"),
    Refusal("POST", "/annotate", 406, "not_acceptable", png(8, 8), {"Accept": "text/html"}),
    Refusal("POST", "/detect", 413, "image_too_large", bytes(MAX_IMAGE_BYTES + 1)),
    Refusal("POST", "/detect", 413, "image_too_large", png(MAX_IMAGE_PIXELS // 1000, 1001)),
    Refusal("POST", "/detect", 415, "unsupported_image", b"<html>"),
    Refusal("POST", "/detect?conf=7", 422, "bad_parameter", png(8, 8)),
)


def assert_kept(ask: Callable[..., httpx.Response], key: str) -> None:
    """By a service with this key; `ask` takes a method, a path and httpx's options."""
    for refusal in REFUSALS:
        answer = ask(refusal.method, refusal.path, content=refusal.body, headers={"X-API-Key": key, **refusal.headers})
        assert answer.status_code == refusal.status, (refusal[:3], answer.text)
        assert _code(answer) == refusal.code
        _assert_headers(answer)
        assert refusal.status != 405 or answer.headers["allow"] == "GET, POST"
    for headers in ({}, {"X-API-Key": f"{key}x"}, {"X-API-Key": key, "Authorization": "Bearer another"}):
        answer = ask("POST", "/detect", content=b"<html>", headers={**headers, "Host": "elsewhere.example.org"})
        assert (answer.status_code, _code(answer)) == (401, "unauthorized")
        assert answer.headers["www-authenticate"].startswith("Bearer")
        _assert_headers(answer)
    # Whoever has a key may come by any name.
    known = {"Authorization": f"Bearer {key}", "Host": "elsewhere.example.org"}
    answer = ask("GET", "/info", headers={**known, "X-Request-ID": "mine-1"})
    assert (answer.status_code, answer.headers.get_list("x-request-id")) == (200, ["mine-1"])
    _assert_headers(answer)
    ids = {_assert_headers(ask("HEAD", path)) for path in ("/healthz", "/readyz") for _ in range(2)}
    assert len(ids) == 4, "each request has one of its own"


def _code(answer: httpx.Response) -> Any:
    """Of an error, in whose body is what every error has."""
    body = answer.json()
    assert body.keys() == {"status", "error"}
    assert body["status"] == "error"
    assert body["error"].keys() == {"code", "message", "why", "hint"}
    return body["error"]["code"]


def _assert_headers(answer: httpx.Response) -> str:
    """Those that restrict browsers, and the id of the request, which is returned."""
    assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS
    [request_id] = answer.headers.get_list("x-request-id")
    assert request_id
    return request_id
