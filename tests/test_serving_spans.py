"""Traces of a replica without Ray, as a real collector receives them."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from detectctl import __version__
from detectctl.serving.spans import Spans, _Exporter
from detectctl.serving.tracing import endpoint, obstacle, open_spans
from installed import wait_until
from otlp_collector import Collector, collector
from served import served

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from detectctl.engine.compiled import CompiledModel

SERVER = 2
PARENT = "00f067aa0ba902b7"
STAGES = ["fetch", "wait", "decode", "infer", "render"]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spans leave at once."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")


@pytest.fixture
def collected(quick: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with collector() as made:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", made.url)
        yield made


def _caller(flags: str = "01") -> tuple[str, dict[str, str]]:
    """A trace of its own, and the headers that tell of it."""
    trace_id = secrets.token_hex(16)
    return trace_id, {"traceparent": f"00-{trace_id}-{PARENT}-{flags}", "tracestate": "vendor=1"}


def test_a_request_is_a_span_in_its_callers_trace_with_its_stages_below(
    collected: Collector, yolov8n_compiled: CompiledModel, bus_jpg: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not two: FastAPI would send spans of its own, with the query in them. The names are OpenTelemetry's."""
    monkeypatch.setenv("FASTAPI_OTEL_AUTO_CONFIGURE", "true")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")
    trace_id, headers = _caller()
    before = time.time_ns()
    with served(yolov8n_compiled, spans=Spans("replica-1")) as port:
        answer = httpx.post(
            f"http://127.0.0.1:{port}/annotate", content=bus_jpg.read_bytes(), headers=headers, trust_env=False
        )
        assert answer.status_code == 200
        spans = collected.of(trace_id, 1 + len(STAGES))
    server = spans["POST /annotate"]
    assert (server.parent, server.kind, server.failed) == (PARENT, SERVER, False)
    assert server.attributes == {
        "http.request.method": "POST",
        "http.route": "/annotate",
        "url.path": "/annotate",
        "url.scheme": "http",
        "http.response.status_code": 200,
        "detectctl.request_id": "1",
        "detectctl.source": "body",
        "detectctl.objects": server.attributes["detectctl.objects"],
        "detectctl.image.bytes": bus_jpg.stat().st_size,
        "detectctl.image.pixels": 810 * 1080,
    }
    about = {"service.name": "detectctl", "service.version": __version__, "service.instance.id": "replica-1"}
    assert server.resource.items() >= {**about, "deployment.environment": "test"}.items()
    stages = [spans[name] for name in STAGES]
    assert {stage.parent for stage in stages} == {server.span_id}
    times = [server.begun, *(time for stage in stages for time in (stage.begun, stage.ended)), server.ended]
    assert times == sorted(times)
    assert before <= times[0] < times[-1] <= time.time_ns()
    timing = dict(part.split(";dur=") for part in answer.headers["server-timing"].split(", "))
    assert (spans["infer"].ended - spans["infer"].begun) / 1e6 == pytest.approx(float(timing["infer"]), abs=0.06)
    assert collected.paths == {"/v1/traces"}


def test_an_error_has_its_code_and_no_span_has_a_url(
    collected: Collector, yolov8n_compiled: CompiledModel, tmp_path: Path
) -> None:
    """Only what is the service's fault is a failed span, as OpenTelemetry has it; refusals have one too."""
    (tmp_path / "keys").write_text("a-key-of-the-tests-0123456789\n")
    (tmp_path / "keys").chmod(0o600)
    key = {"X-API-Key": "a-key-of-the-tests-0123456789"}
    secret = f"https://127.0.0.1:{_closed()}/s3cret.jpg?X-Amz-Signature=s3cret"
    asked: list[tuple[str, str, dict[str, str], str, int, str, bool]] = [
        ("GET", "/detect", {"image_url": secret}, "GET /detect", 502, "fetch_failed", True),
        ("GET", "/detect", {"image_url": "https://user:s3cret@127.0.0.1/"}, "GET /detect", 400, "bad_url", False),
        ("POST", "/detect", {"conf": "s3cret"}, "POST /detect", 422, "bad_parameter", False),
        ("GET", f"/{secret}", {}, "GET", 404, "not_found", False),
        ("PROPFIND", "/detect", {}, "HTTP /detect", 405, "method_not_allowed", False),
    ]
    allowed: dict[str, Any] = {"allow_url": ("127.0.0.1",), "api_key_file": str(tmp_path / "keys")}
    with (
        served(yolov8n_compiled, spans=Spans("s"), **allowed) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as client,
    ):
        for method, path, query, name, status, code, failed in asked:
            trace_id, headers = _caller()
            answer = client.request(method, path, params=query, headers=headers | key)
            assert answer.status_code == status
            (span,) = collected.of(trace_id, 1).values()
            assert (span.name, span.failed) == (name, failed)
            assert span.attributes["http.response.status_code"] == status
            assert span.attributes["detectctl.error_code"] == code
            assert span.attributes.get("error.type") == (code if failed else None)
            assert span.attributes["http.request.method"] == (method if method != "PROPFIND" else "_OTHER")
        trace_id, headers = _caller()
        assert client.post("/detect", headers=headers | {"X-API-Key": "s3cret"}).status_code == 401
        (span,) = collected.of(trace_id, 1).values()
        assert span.attributes["detectctl.error_code"] == "unauthorized"
        unsampled, headers = _caller("00")
        client.get("/nowhere", headers=headers | key)
        client.get("/nowhere", headers={"traceparent": "00-no-trace-01"} | key)
        client.get("/info", headers=key)
        wait_until(lambda: len(collected.spans) > len(asked) + 1)
    assert unsampled not in {span.trace_id for span in collected.spans}
    assert len(collected.spans) == len(asked) + 2
    assert collected.spans[-1].parent == ""
    assert b"s3cret" not in collected.raw.lower()


def _closed() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@pytest.mark.usefixtures("quick")
def test_a_collector_that_never_answers_holds_up_neither_answers_nor_the_end(
    yolov8n_compiled: CompiledModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The SDK would wait for half a minute, or as long as one attempt may take."""
    with contextlib.ExitStack() as held, socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{listener.getsockname()[1]}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "60")
        with served(yolov8n_compiled, spans=Spans("s")) as port:
            url = f"http://127.0.0.1:{port}/nowhere"
            assert httpx.get(url, trust_env=False).status_code == 404
            held.enter_context(listener.accept()[0])
            assert httpx.get(url, trust_env=False).status_code == 404
            begun = time.monotonic()
        assert time.monotonic() - begun < 15  # five times the usual, half of the SDK's


@pytest.mark.usefixtures("quick")
def test_that_traces_are_lost_is_said_once_and_once_that_they_are_not(
    closed_port: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.1")
    with collector() as made:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", made.url)
        exporter = _Exporter()
        for made.status in (400, 400, 200, 200):
            exporter.export([])
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{closed_port}")
    _Exporter().export([])
    said = [record.message for record in caplog.records if record.name == "detectctl.requests"]
    assert [words.split(";")[0] for words in said] == [
        "traces are lost: the collector does not take them",
        "the collector takes traces again",
        "traces are lost: the collector does not take them",
    ]


_REPLICA = """
import json, sys
from detectctl.serving import app, routes, admission, tracing
assert tracing.open_spans({}, "replica") is None
print(json.dumps(list(sys.modules)))
"""


def test_nothing_of_it_is_loaded_unless_it_is_wanted() -> None:
    """Nothing of detectctl's, that is: Ray loads the SDK in each replica, for tracing of its own that is off."""
    done = subprocess.run([sys.executable, "-c", _REPLICA], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert not {name for name in loaded if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter"))}
    assert "detectctl.serving.spans" not in loaded


@pytest.mark.parametrize(
    ("environ", "where"),
    [
        ({}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:4318"}, "http://a:4318"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "a", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "b"}, "b"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "a", "OTEL_SDK_DISABLED": "True"}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "a", "OTEL_TRACES_EXPORTER": "none"}, None),
    ],
)
def test_opentelemetrys_own_variables_say_where_to(environ: dict[str, str], where: str | None) -> None:
    assert endpoint(environ) == where


@pytest.mark.parametrize(
    ("more", "why", "hint"),
    [
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "grpc", "4318"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"}, "no http(s) URL", "http://localhost:4318"),
    ],
)
def test_what_cannot_work_is_told_before_anything_is_loaded(
    caplog: pytest.LogCaptureFixture, more: dict[str, str], why: str, hint: str
) -> None:
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318", **more}
    found = obstacle(environ)
    assert found is not None
    assert why in found.why
    assert hint in found.hint
    assert open_spans(environ, "replica") is None
    assert [why in record.message for record in caplog.records] == [True]


def test_without_the_extra_there_is_one_warning(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where its distribution is there, but not all of its modules."""
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}
    monkeypatch.setitem(sys.modules, "detectctl.serving.spans", None)
    assert open_spans(environ, "replica") is None
    monkeypatch.setattr("detectctl.serving.tracing._PACKAGE", "a-package-that-nobody-has")
    assert open_spans(environ, "replica") is None
    assert len(caplog.records) == 2
    assert "pip install 'detectctl[traces]'" in caplog.text


def test_a_wrong_variable_of_opentelemetrys_is_told(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "1")
    assert open_spans(os.environ, "replica") is None
    assert "max_export_batch_size" in caplog.text


def test_headers_for_the_collector_that_cannot_be_read_are_not_logged() -> None:
    """They are its credentials; a colon is easily written for the equals sign."""
    code = "from detectctl.serving.spans import _Exporter; _Exporter().shutdown()"
    environ = os.environ | {"OTEL_EXPORTER_OTLP_HEADERS": "Authorization: Bearer a-secret"}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    assert "a-secret" not in done.stdout + done.stderr
