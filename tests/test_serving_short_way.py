"""The short way of hot requests: what it answers is what FastAPI answers on the long one."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest

from broken_images import encoded
from detectctl.engine.detector import Found
from detectctl.engine.detector_settings import DetectorSettings
from detectctl.serving.admission import Service
from detectctl.serving.fetch import Fetcher
from detectctl.serving.routes import SHORT, create_api
from detectctl.serving.service_config import ServiceConfig
from detectctl.serving.short_way import ShortWay
from detectctl.serving.url_policy import UrlPolicy
from detectctl.wire import Detection
from served import BASE
from slow_upload import FORM

BROKEN = b"\xff\xd8\xffbroken"
FOUND = Found((Detection("person", (1.0, 2.126, 3.0, 4.0), 0.87654, 0),))
MULTIPART = {"Content-Type": "multipart/form-data; boundary=b"}


def _decode(data: bytes) -> Any:
    if data == BROKEN:
        raise RuntimeError("as nobody expects")
    return np.zeros((8, 16, 3), np.uint8)


def _api(**config: Any) -> Any:
    detector: Any = SimpleNamespace(
        workers=1, decode=_decode, detect_image=lambda *_: FOUND, labels={0: "person"}, close=lambda: None
    )
    made = ServiceConfig("", "0", BASE, DetectorSettings("", "", max_image_bytes=9999), **config)
    fetcher = Fetcher(UrlPolicy((), enabled=True), max_bytes=9999)
    return create_api(Service(made, detector, fetcher, request_id=lambda: "1"))


def _ask(app: Any, root_path: str, method: str, url: str, **request: Any) -> tuple[int, dict[str, str], bytes]:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False, root_path=root_path)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.request(method, f"{root_path}{url}", **request)

    answer = asyncio.run(ask())
    headers = {name: value for name, value in answer.headers.items() if name != "server-timing"}
    return answer.status_code, headers, answer.content


@pytest.mark.parametrize("root_path", ["", "/cameras"])
@pytest.mark.parametrize(
    ("status", "method", "url", "request_"),
    [
        (200, "POST", "/detect", {"content": b"\0image"}),
        (200, "POST", "/detect?conf=0.4,person=0.3&max_det=2", {"content": b"\0image"}),
        (200, "POST", "/detect", {"content": FORM + b"\0image\r\n--b--\r\n", "headers": MULTIPART}),
        (200, "POST", "/annotate?quality=50", {"content": encoded("JPEG"), "headers": {"Accept": "image/png"}}),
        (400, "GET", "/detect?image_url=ftp://host.example/", {}),
        (403, "GET", "/detect?image_url=http://127.0.0.1/", {}),
        (307, "POST", "/detect/", {}),
        (405, "DELETE", "/detect", {}),
        (406, "POST", "/annotate", {"content": b"\0image", "headers": {"Accept": "image/avif"}}),
        (413, "POST", "/detect", {"content": b"\0" * 10_000}),
        (415, "POST", "/detect", {"content": b"text"}),
        (415, "POST", "/detect", {"data": {"a": "b"}}),
        (415, "POST", "/detect", {"content": b"nothing", "headers": MULTIPART}),
        (422, "GET", "/detect", {}),
        (422, "POST", "/detect?conf=2", {"content": b"\0image"}),
        (422, "GET", "/detect?image_url=http://host.example/?a=b&c=d", {}),
        (500, "POST", "/detect", {"content": BROKEN}),
        (503, "POST", "/annotate", {"content": b"\0image"}),
    ],
)
def test_it_answers_byte_for_byte_as_fastapi(
    root_path: str, status: int, method: str, url: str, request_: dict[str, Any]
) -> None:
    api = _api(max_queue=0 if status == 503 else 64)
    short, long = (_ask(app, root_path, method, url, **request_) for app in (ShortWay(api, SHORT), api))
    assert short == long
    assert short[0] == status


def test_what_nobody_expected_reaches_the_server_too() -> None:
    """Serve writes the traceback into its log, and counts the request as failed."""
    api = _api()
    for app in (ShortWay(api, SHORT), api):
        transport = httpx.ASGITransport(app)
        with pytest.raises(RuntimeError, match="as nobody expects"):
            asyncio.run(transport.handle_async_request(httpx.Request("POST", "http://a/detect", content=BROKEN)))


def test_it_is_shorter() -> None:
    """Each hot route is found, and its request never comes to FastAPI."""
    api = _api()
    api.middleware_stack = "never called"
    assert _ask(ShortWay(api, SHORT), "", "POST", "/detect", content=b"\0image")[0] == 200
    assert _ask(ShortWay(api, SHORT), "", "GET", "/annotate?image_url=http://127.0.0.1/", content=b"")[0] == 403
