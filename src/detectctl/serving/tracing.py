"""Whether spans are wanted, and what is in their way; loads nothing of OpenTelemetry unless they are."""

from __future__ import annotations

import logging
from importlib import metadata
from typing import TYPE_CHECKING, NamedTuple

from detectctl.addresses import is_url
from detectctl.serving.request_log import LOGGER

if TYPE_CHECKING:
    from collections.abc import Mapping

    from detectctl.serving.spans import Spans

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", ENDPOINT)
"""The variables that name the collector, the one that wins first."""
_PACKAGE = "opentelemetry-exporter-otlp-proto-http"
_PROTOCOL = "http/protobuf"
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")

logger = logging.getLogger(LOGGER)


class Obstacle(NamedTuple):
    """Why no spans can be sent although they are wanted, and what to do."""

    why: str
    hint: str


def endpoint(environ: Mapping[str, str]) -> str | None:
    """Where spans are to be sent, as OpenTelemetry's own variables say; None if nowhere."""
    off = environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    if off or environ.get("OTEL_TRACES_EXPORTER", "").strip().lower() == "none":
        return None
    return next(filter(None, map(environ.get, ENDPOINTS)), None)


def obstacle(environ: Mapping[str, str]) -> Obstacle | None:
    """What is in the way of sending them, as far as that can be told without trying; None if nothing is."""
    where = endpoint(environ)
    if where is None:
        return None
    named = next((name for name in _PROTOCOLS if environ.get(name)), None)
    if named is not None and environ[named] != _PROTOCOL:
        return Obstacle(
            f"{named} is {environ[named]}, and only {_PROTOCOL} is spoken",
            "unset it, and name the collector's port for HTTP, usually 4318",
        )
    if not is_url(where):
        named = next(name for name in ENDPOINTS if environ.get(name))
        return Obstacle(f"{named} is no http(s) URL", "set it to one, such as `http://localhost:4318`")
    try:
        metadata.version(_PACKAGE)
    except metadata.PackageNotFoundError:
        return Obstacle(f"{_PACKAGE} is not installed", "install it: `pip install 'detectctl[traces]'`")
    return None


def open_spans(environ: Mapping[str, str], replica: str) -> Spans | None:
    """What sends this process's spans; None, with a line in the log, if something is in its way."""
    if endpoint(environ) is None:
        return None
    found = obstacle(environ)
    if found is None:
        try:
            from detectctl.serving.spans import Spans

            return Spans(replica)
        except (
            ImportError,
            ValueError,
            RuntimeError,
        ) as error:  # a part of it is missing, or a variable of its own is wrong
            found = Obstacle(str(error), f"correct the variables OTEL_…, or unset {ENDPOINT}")
    logger.warning("no traces are sent: %s; %s", found.why, found.hint)
    return None
