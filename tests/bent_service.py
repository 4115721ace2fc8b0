"""A service in a thread that answers as a test wants it to, over real sockets, and remembers what it was asked."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from detectctl.wire import SCHEMA, Agreement, Defaults, EngineInfo, Limits, ModelInfo, ServiceInfo

MODEL = {"name": "yolov8n", "version": None, "digest": "sha256:00", "fallback": False}
"""What the contract promises of a model, and no more."""
INFO = ServiceInfo(
    schema=SCHEMA,
    version="1.2",
    deployment="0123abc",
    model=ModelInfo("yolo", "v3", "sha256:00", stale=True, reason="W&B is away", reference="acme/p/yolo:prod"),
    classes={"0": "person"},
    engine=EngineInfo(
        "openvino",
        "cpu",
        "int8",
        threads=2,
        streams=2,
        batch=1,
        agreement=Agreement(8, 0, 10, 10, recall=0.9, precision=0.8, mean_iou=0.95, confidence_gap=0.1),
    ),
    limits=Limits(1, 2, 3, True),
    defaults=Defaults(640, 0.25, 0.7, [640, 640], {"person": 0.5}, 7, agnostic_nms=True),
)
"""An `/info` in which no field has its default."""


@dataclass
class Request:
    method: str
    path: str
    query: list[tuple[str, str]]
    headers: dict[str, str]
    body: bytes
    handler: BaseHTTPRequestHandler

    def answer(self, status: int, body: bytes | dict[str, Any], **headers: str) -> None:
        """Header names are written with `_` for `-`."""
        if isinstance(body, dict):
            body = json.dumps(body).encode()
            headers = {"Content_Type": "application/json", **headers}
        self.handler.send_response(status)
        for name, value in headers.items():
            self.handler.send_header(name.replace("_", "-"), value)
        self.handler.send_header("Content-Length", str(len(body)))
        self.handler.end_headers()
        self.handler.wfile.write(body)

    def found(self, *objects: dict[str, Any], width: int = 100, height: int = 50, **model: Any) -> None:
        self.answer(200, detections(*objects, width=width, height=height, **model))

    def fail(self, status: int, code: str, **headers: str) -> None:
        self.answer(status, {"status": "error", "error": {"code": code, "message": f"it is {code}"}}, **headers)

    def reset(self) -> None:
        """Close without a word."""
        self.handler.close_connection = True


def detections(*objects: dict[str, Any], width: int = 100, height: int = 50, **model: Any) -> dict[str, Any]:
    return {
        "status": "found" if objects else "not found",
        "objects": list(objects),
        "image": {"width": width, "height": height},
        "model": MODEL | model,
    }


Behaviour = Callable[[Request], None]


@dataclass
class Bent:
    """`behaviours` answer one request each, the last one all further ones."""

    url: str
    behaviours: list[Behaviour]
    requests: list[Request] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def next_behaviour(self, request: Request) -> Behaviour:
        with self.lock:
            self.requests.append(request)
            return self.behaviours.pop(0) if len(self.behaviours) > 1 else self.behaviours[0]


@contextlib.contextmanager
def bent(*behaviours: Behaviour) -> Iterator[Bent]:
    """A server on a free port of loopback."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def respond(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            parts = urlsplit(self.path)
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Request(self.command, parts.path, parse_qsl(parts.query), headers, body, self)
            with contextlib.suppress(ConnectionError):  # the client may have given up
                service.next_behaviour(request)(request)

        do_GET = do_POST = do_PUT = respond  # noqa: N815 - http.server's names

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        server.block_on_close = False
        service = Bent(f"http://127.0.0.1:{server.server_port}", list(behaviours))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield service
        finally:
            server.shutdown()
            thread.join()
