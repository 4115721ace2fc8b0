"""Serve a trained YOLO model with Ray Serve, and ask it about images.

From Python::

    from detectctl import Client

    with Client("http://127.0.0.1:8000") as client:
        for found in client.detect("bus.jpg").detections:
            print(found.class_name, found.confidence, found.xyxy)

The names in `__all__` and the classes of `detectctl.errors` keep their meaning within a major version, as semantic
versioning has it. Everything else may change in any release. The names load when they are first used, so that importing
`detectctl` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from detectctl.client.outcomes import Outcome
    from detectctl.client.service_client import Client
    from detectctl.errors import (
        DetectctlError,
        NotReady,
        NotRunning,
        RequestError,
        SourceUnreadable,
        Unauthorized,
        UsageError,
    )
    from detectctl.sources import Source
    from detectctl.wire import Detection, DetectionResult, DetectOptions, DrawOptions, ModelInfo, ServiceInfo

__all__ = [
    "Client", "DetectOptions", "DetectctlError", "Detection", "DetectionResult", "DrawOptions", "ModelInfo", "NotReady",
    "NotRunning", "Outcome", "RequestError", "ServiceInfo", "Source", "SourceUnreadable", "Unauthorized", "UsageError",
    "__version__",
]  # fmt: skip

if not TYPE_CHECKING:  # a type checker would take any name for one of ours

    def __getattr__(name: str) -> object:
        import importlib

        for module in ("errors", "wire", "sources", "client.outcomes", "client.service_client"):
            if name in __all__ and hasattr(loaded := importlib.import_module(f"detectctl.{module}"), name):
                return getattr(loaded, name)
        raise AttributeError(f"module 'detectctl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
