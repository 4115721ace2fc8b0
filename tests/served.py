"""What is in a replica, without Ray, over real sockets."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn

from detectctl.engine.detector import Detector
from detectctl.engine.detector_settings import MAX_IMAGE_BYTES, MAX_IMAGE_PIXELS, DetectorSettings
from detectctl.serving.admission import Service
from detectctl.serving.fetch import Fetcher
from detectctl.serving.guard import KeyRing
from detectctl.serving.routes import create_app
from detectctl.serving.service_config import ServiceConfig
from detectctl.serving.url_policy import UrlPolicy
from detectctl.wire import ModelInfo
from installed import free_port, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from starlette.types import ASGIApp, Receive, Scope, Send

    from detectctl.engine.compiled import CompiledModel
    from detectctl.serving.spans import Spans


BASE = ModelInfo("yolov8n", None, "sha256:0", reference="base")


@contextlib.contextmanager
def served(
    model: CompiledModel,
    *,
    max_image_bytes: int = MAX_IMAGE_BYTES,
    max_image_pixels: int = MAX_IMAGE_PIXELS,
    stats_file: Path | None = None,
    imgsz: int = 64,
    info: ModelInfo = BASE,
    defaults: Mapping[str, Any] | None = None,
    spans: Spans | None = None,
    prefix: str = "",
    **config: Any,
) -> Iterator[int]:
    """The port of a service below a prefix.

    `info` is what it says of its model, `defaults` and `config` are fields of its settings.
    """
    settings = DetectorSettings(
        str(model.directory),
        model.checkpoint_sha256,
        imgsz=imgsz,
        max_image_bytes=max_image_bytes,
        max_image_pixels=max_image_pixels,
        **(defaults or {}),
    )
    made = ServiceConfig("", "0", info, settings, **config)
    detector = Detector.load(settings)
    fetcher = Fetcher(UrlPolicy(made.allow_url, made.url_input), max_bytes=max_image_bytes)
    service = Service(made, detector, fetcher, request_id=lambda: "1", stats_file=stats_file, spans=spans)
    port = free_port()
    keys = None if made.api_key_file is None else KeyRing(Path(made.api_key_file))
    app = _below(prefix, create_app(service, keys))
    server = uvicorn.Server(uvicorn.Config(app, port=port, ws="none", log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started)
        yield port
    finally:
        server.should_exit = True
        thread.join(20)
        detector.close()
    assert not thread.is_alive()


def _below(prefix: str, app: ASGIApp) -> ASGIApp:
    """As Serve puts an application below its route prefix: the whole path, and the prefix beside it."""

    async def below(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            assert f"{scope['path']}/".startswith(f"{prefix}/"), scope["path"]
            scope["root_path"] = prefix
        await app(scope, receive, send)

    return below if prefix else app
