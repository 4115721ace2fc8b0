"""A collector of spans that speaks OTLP over HTTP, as OpenTelemetry's own does."""

from __future__ import annotations

import contextlib
import gzip
import http.server
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from installed import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class Collected:
    """One span as it came; times in nanoseconds since the epoch, ids in hexadecimal."""

    name: str
    trace_id: str
    span_id: str
    parent: str
    kind: int
    begun: int
    ended: int
    failed: bool
    attributes: dict[str, Any]
    resource: dict[str, Any]


@dataclass
class Collector:
    """What has come; `status` is what the next requests are answered with."""

    url: str
    status: int = 200
    spans: list[Collected] = field(default_factory=list)
    raw: bytes = b""
    paths: set[str] = field(default_factory=set)

    def of(self, trace_id: str, count: int) -> dict[str, Collected]:
        """The spans of a trace by name, once so many are there."""
        wait_until(lambda: len([one for one in self.spans if one.trace_id == trace_id]) >= count)
        found = [one for one in self.spans if one.trace_id == trace_id]
        assert len(found) == count, [one.name for one in found]
        return {one.name: one for one in found}

    def take(self, body: bytes) -> None:
        self.raw += body
        request: Any = ExportTraceServiceRequest.FromString(body)
        for of_resource in request.resource_spans:
            resource = _plain(of_resource.resource.attributes)
            for scope in of_resource.scope_spans:
                for span in scope.spans:
                    ids = (span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex())
                    times = (span.start_time_unix_nano, span.end_time_unix_nano)
                    failed = span.status.code == 2
                    self.spans.append(
                        Collected(span.name, *ids, span.kind, *times, failed, _plain(span.attributes), resource)
                    )


def _plain(attributes: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}


@contextlib.contextmanager
def collector() -> Iterator[Collector]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            made.paths.add(self.path)
            if made.status == 200:
                made.take(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
            self.send_response(made.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        made = Collector(f"http://127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield made
        finally:
            server.shutdown()
            thread.join()
