"""A span for each request, and one below it for each of its stages, sent by OTLP over HTTP.

They are made when a request has ended, from the times that were taken for its log line. Names and attributes follow
OpenTelemetry's conventions for HTTP servers. No attribute holds a URL or what a caller wrote: `url.query` has image
URLs with signatures, and a path that is no route may have one too.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from detectctl import __version__, errors
from detectctl.serving.request_log import LOGGER
from detectctl.serving.request_stats import OK, ROUTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.sdk.trace import ReadableSpan

    from detectctl.serving.admission import Turn

_SCHEMA_URL = "https://opentelemetry.io/schemas/1.23.0"
_METHODS = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"})
_CONTEXT = ("traceparent", "tracestate")
_CLOSE_S = 2.0
"""For the spans that are still to be sent; a replica that ends has not much longer."""

logger = logging.getLogger(LOGGER)


class Spans:
    """Sends the spans of one replica, from a thread of its own; a collector that does not take them costs no answer.

    Args:
        replica: its name.

    Raises:
        ValueError: one of the variables of OpenTelemetry, which it reads itself, is wrong.
    """

    def __init__(self, replica: str) -> None:
        about = {"service.name": "detectctl", "service.version": __version__, "service.instance.id": replica}
        # Last, so that OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES win.
        resource = Resource.create(about).merge(OTELResourceDetector().detect())
        # A provider of our own. A global one makes others' libraries, FastAPI among them, send spans of every request.
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(_Exporter()))
        self._tracer = self._provider.get_tracer("detectctl", __version__, schema_url=_SCHEMA_URL)
        self._propagator = TraceContextTextMapPropagator()

    def record(self, turn: Turn, code: str, elapsed_s: float) -> None:
        """The spans of a request that ends now, with an error's code or `OK`; a sampler may want none of them."""
        # The clock of `Turn` counts from anywhere.
        offset_ns = time.time_ns() - int((turn.begun + elapsed_s) * 1e9)

        def at(seconds: float) -> int:
            return offset_ns + int(seconds * 1e9)

        method, route = turn.scope["method"], turn.route if turn.route in ROUTES else None
        known = method in _METHODS
        span = self._tracer.start_span(
            " ".join(filter(None, (method if known else "HTTP", route))),
            self._propagator.extract(_headers(turn)),
            SpanKind.SERVER,
            _attributes(turn, code, method if known else "_OTHER", route),
            start_time=at(turn.begun),
        )
        if span.is_recording():
            if _status(code) >= 500:
                span.set_attribute("error.type", code)
                span.set_status(StatusCode.ERROR)
            below = set_span_in_context(span)
            for stage, (begun, ended) in list(turn.stages.items()):  # a caller who left may have left a thread at work
                self._tracer.start_span(stage, below, start_time=at(begun)).end(at(ended))
        span.end(at(turn.begun + elapsed_s))

    def close(self) -> None:
        """Send what is left, for two seconds at most."""
        # The SDK would wait for half a minute, and its thread for ever.
        thread = threading.Thread(target=self._provider.shutdown, daemon=True)
        thread.start()
        thread.join(_CLOSE_S)


class _Exporter(SpanExporter):
    """Says once, in the request log, that the collector does not take spans, and once that it does again."""

    def __init__(self) -> None:
        # What it says of every batch, in the process's own log, would fill the disk while the collector is away; and of
        # headers that it cannot read, it says the whole.
        library = logging.getLogger("opentelemetry")
        library.propagate = False
        library.addHandler(logging.NullHandler())
        self._otlp = OTLPSpanExporter()
        self._failing = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._otlp.export(spans)
        failed = result is not SpanExportResult.SUCCESS
        if failed and not self._failing:
            logger.warning("traces are lost: the collector does not take them; run `detectctl doctor`")
        elif self._failing and not failed:
            logger.info("the collector takes traces again")
        self._failing = failed
        return result

    def shutdown(self) -> None:
        self._otlp.shutdown()  # type: ignore[no-untyped-call]


def _attributes(turn: Turn, code: str, method: str, route: str | None) -> dict[str, Any]:
    found: dict[str, Any] = {
        "http.request.method": method,
        "http.response.status_code": _status(code),
        "url.scheme": turn.scope.get("scheme", "http"),
        "detectctl.request_id": turn.request_id,
        "detectctl.source": turn.source,
        "detectctl.objects": len(turn.found),
    }
    if route is not None:
        found |= {"http.route": route, "url.path": route}
    if code != OK:
        found["detectctl.error_code"] = code
    if turn.size is not None:
        found["detectctl.image.bytes"], found["detectctl.image.pixels"] = turn.size
    return found


def _headers(turn: Turn) -> dict[str, list[str]]:
    """Those of the caller's trace."""
    found: dict[str, list[str]] = {}
    for name, value in turn.scope["headers"]:
        if (lowered := name.decode("latin-1").lower()) in _CONTEXT:
            found.setdefault(lowered, []).append(value.decode("latin-1"))
    return found


def _status(code: str) -> int:
    return 200 if code == OK else errors.REQUEST_ERRORS[code].status
