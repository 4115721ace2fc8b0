"""What is in a replica, without Ray, over real sockets."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any

import uvicorn

from detectctl.engine.detector import Detector
from detectctl.engine.detector_settings import MAX_IMAGE_BYTES, DetectorSettings
from detectctl.serving.admission import Service
from detectctl.serving.fetch import Fetcher
from detectctl.serving.routes import create_app
from detectctl.serving.service_config import ServiceConfig
from detectctl.serving.url_policy import UrlPolicy
from detectctl.wire import ModelInfo
from installed import free_port, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from detectctl.engine.compiled import CompiledModel


@contextlib.contextmanager
def served(
    model: CompiledModel, *, max_image_bytes: int = MAX_IMAGE_BYTES, stats_file: Path | None = None, **config: Any
) -> Iterator[int]:
    """A service's port; `config` are fields of its `ServiceConfig`."""
    settings = DetectorSettings(
        str(model.directory), model.checkpoint_sha256, imgsz=64, max_image_bytes=max_image_bytes
    )
    made = ServiceConfig("", "0", ModelInfo("yolov8n", None, "sha256:0", reference="base"), settings, **config)
    detector = Detector.load(settings)
    fetcher = Fetcher(UrlPolicy(enabled=made.url_input), max_bytes=max_image_bytes)
    service = Service(made, detector, fetcher, request_id=lambda: "1", stats_file=stats_file)
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(create_app(service, None), port=port, ws="none", log_config=None))
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
