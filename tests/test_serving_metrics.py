"""What Prometheus reads at `/metrics`, of a replica without Ray."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from detectctl.processes import Process
from detectctl.serving import metrics
from detectctl.serving.request_stats import OBJECTS, UPDATES
from detectctl.serving.tally import Tally
from scrape import samples, value
from served import BASE, served

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from detectctl.engine.compiled import CompiledModel
    from detectctl.serving.tally import Content


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the tallies; a replica that has ended, and one that lives in another process, have theirs there too."""
    folder = tmp_path_factory.mktemp("requests")
    ended = replace(Process.of(os.getpid()), started=1.0)
    for name, process in (("ended", ended), ("lives", Process.of(os.getppid()))):
        model = replace(BASE, name=name, version="v3", fallback=True, task="pose").to_json()
        about = {"process": asdict(process), "replica": name, "model": model, "queue_limit": 64}
        tally = Tally(folder / f"{name}.tally", about)
        tally.add((("requests", "/detect", "ok", "body"), 100.0), (("in_hand",), 7.0))
        tally.add((("requests", "/later", "of_another_version", "body"), 1.0))
        tally.close()
    later = Tally(folder / "later.tally", {"process": {"pid": 1, "more": 1}, "replica": "of another version"})
    later.add((("of another version", "x"), 1.0))
    later.close()
    updates = Tally(folder / "updates.tally")
    updates.add(((UPDATES, "done"), 2.0), ((UPDATES, "went_back"), 1.0))
    updates.close()
    return folder


@pytest.fixture(scope="module")
def client(yolov8n_compiled: CompiledModel, folder: Path) -> Iterator[httpx.Client]:
    with (
        served(yolov8n_compiled, stats_file=folder / "asked.tally", imgsz=640, max_queue=9) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60) as client,
    ):
        yield client


def test_each_answer_is_counted_once_whoever_gave_it(client: httpx.Client, bus_jpg: Path) -> None:
    """Also those of a replica that has ended; what a replica has in hand counts while it lives."""
    picture = bus_jpg.read_bytes()
    answers = [client.post("/detect", content=picture) for _ in range(3)]
    client.post("/annotate", content=picture)
    client.post("/detect", content=b"no picture")
    client.post("/detect?conf=2", content=picture)
    client.get("/detect?image_url=ftp://a/b")
    client.get("/nowhere")
    client.get("/healthz")
    answer = client.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    found = samples(answer.text)
    asked = {"route": "/detect", "source": "body"}
    assert value(found, "requests_total", **asked, code="ok", status="200") == 203
    assert value(found, "requests_total", **asked, code="unsupported_image", status="415") == 1
    assert value(found, "requests_total", **asked, code="bad_parameter", status="422") == 1
    assert value(found, "requests_total", route="/detect", source="url", code="bad_url", status="400") == 1
    assert value(found, "requests_total", route="other", source="none", code="not_found", status="404") == 1
    assert value(found, "requests_total", route="/annotate", source="body", code="ok", status="200") == 1
    assert value(found, "requests_total", route="/later", source="body", code="of_another_version", status="") == 2
    assert sum(found[key] for key in found if key[0] == "detectctl_requests_total") == 210
    assert value(found, "request_seconds_count", route="/detect") == 3
    assert value(found, "request_seconds_bucket", route="/detect", le="+Inf") == 3
    assert 0 < value(found, "request_seconds_sum", route="/annotate") < 60
    stages = {stage: value(found, "stage_seconds_count", stage=stage) for stage in ("fetch", "decode", "infer")}
    assert stages == {"fetch": 4, "decode": 4, "infer": 4}
    assert value(found, "stage_seconds_count", stage="render") == 1
    people = sum(one["class"] == "person" for answer in answers for one in answer.json()["objects"])
    assert value(found, "objects_total", **{"class": "person"}) == people / 3 * 4 > 0
    assert value(found, "image_bytes_sum") == len(picture) * 4
    assert value(found, "image_pixels_sum") == 810 * 1080 * 4
    assert value(found, "image_pixels_bucket", le="1048576.0") == 4
    assert value(found, "image_pixels_bucket", le="262144.0") == 0
    for outcome, wanted in (("done", 2), ("went_back", 1), ("failed", 0)):
        assert value(found, "updates_total", outcome=outcome) == wanted


def test_what_replicas_are_is_told_of_those_that_live(client: httpx.Client) -> None:
    found = samples(client.get("/metrics").text)
    for name in ("requests_in_hand", "queue_limit", "process_resident_memory_bytes", "process_cpu_seconds_total"):
        replicas = {dict(labels)["replica"] for metric, labels in found if metric == f"detectctl_{name}"}
        assert replicas == {"asked", "lives"}
    assert value(found, "requests_in_hand", replica="lives") == 7
    assert value(found, "requests_in_hand", replica="asked") == 0
    assert value(found, "queue_limit", replica="asked") == 9
    assert value(found, "process_resident_memory_bytes", replica="asked") > 10_000_000
    assert value(found, "process_cpu_seconds_total", replica="asked") > 0
    model = {"digest": "sha256:0", "stale": "false"}
    assert value(found, "model_info", **model, name="lives", version="v3", fallback="true", task="pose") == 1
    assert value(found, "model_info", **model, name="yolov8n", version="", fallback="false", task="detect") == 1
    assert len([1 for name, _ in found if name == "detectctl_model_info"]) == 2


def test_it_is_written_as_open_metrics_to_who_wants_that(client: httpx.Client) -> None:
    answer = client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0,text/plain;q=0.5"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    families: Any = parse_openmetrics(answer.text)  # type: ignore[no-untyped-call]
    assert {"detectctl_requests", "detectctl_request_seconds", "detectctl_model_info"} <= {one.name for one in families}


@pytest.mark.parametrize("public", [False, True])
def test_it_asks_for_a_key_unless_it_is_public(tmp_path: Path, yolov8n_compiled: CompiledModel, public: bool) -> None:
    """And, without keys, for a name of this machine; the description says which."""
    (tmp_path / "keys").write_text("a-key-of-the-tests-0123456789\n")
    (tmp_path / "keys").chmod(0o600)
    for more in ({"api_key_file": str(tmp_path / "keys")}, {"own_host": "127.0.0.1"}):
        options: dict[str, Any] = {**more, "metrics_public": public}
        with served(yolov8n_compiled, **options) as port:
            url = f"http://127.0.0.1:{port}"
            stranger = httpx.get(f"{url}/metrics", headers={"Host": "elsewhere.example"}, trust_env=False)
            described = httpx.get(
                f"{url}/openapi.json", headers={"X-API-Key": "a-key-of-the-tests-0123456789"}, trust_env=False
            ).json()["paths"]["/metrics"]["get"]["responses"]
        refused = 401 if "api_key_file" in more else 421
        assert stranger.status_code == (200 if public else refused)
        assert (str(refused) in described) is not public


def test_counts_are_there_without_a_folder_for_them(yolov8n_compiled: CompiledModel) -> None:
    with served(yolov8n_compiled) as port:
        url = f"http://127.0.0.1:{port}"
        assert httpx.get(f"{url}/nowhere", trust_env=False).status_code == 404
        found = samples(httpx.get(f"{url}/metrics", trust_env=False).text)
    assert value(found, "requests_total", route="other", source="none", code="not_found", status="404") == 1


def test_updates_are_what_the_replica_that_was_told_last_knows(tmp_path: Path) -> None:
    """Where no folder counts them: not the sum, and not that of a replica which has not heard of the last one yet."""
    page = metrics.Metrics(Tally(tmp_path / "own.tally")).page
    told: list[Content] = [({"updates": {"done": number, "went_back": 1}}, {}) for number in (2, 3, 2)]
    found = samples(page("", None, [*told, ({}, {}), ({"updates": "of another version"}, {})])[0].decode())
    assert [value(found, "updates_total", outcome=outcome) for outcome in metrics.UPDATES] == [3, 1, 0]


def test_who_has_ended_is_read_once_and_counts_for_ever(tmp_path: Path) -> None:
    """Or each answer would take longer with each replica that ever was."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        about = {"process": asdict(Process.of(process.pid))}
        tally = Tally(tmp_path / "other.tally", about)
        page = metrics.Metrics(Tally(tmp_path / "own.tally")).page
        for number in range(1, 4):
            tally.add((("updates", "done"), 1.0))
            assert value(samples(page("", None)[0].decode()), "updates_total", outcome="done") == number
        tally.add((("updates", "done"), 1.0))
        process.kill()
    tally.close()
    assert value(samples(page("", None)[0].decode()), "updates_total", outcome="done") == 4
    (tmp_path / "other.tally").unlink()  # it would be missed if it were read again
    for _ in range(3):
        assert value(samples(page("", None)[0].decode()), "updates_total", outcome="done") == 4


def test_names_that_are_no_text_do_no_harm() -> None:
    """They come from a checkpoint."""
    tally = Tally(None)
    names = ('a"b\\c\nd', "\ud800", "ü", "")
    tally.add(*(((OBJECTS, name), 1.0) for name in names))
    text, _ = metrics.Metrics(tally).page("", None)
    found = {dict(labels)["class"] for name, labels in samples(text.decode()) if name == "detectctl_objects_total"}
    assert found == {'a"b\\c\nd', "?", "ü", ""}


def test_how_many_replicas_there_are_is_told_where_it_is_known() -> None:
    found = samples(metrics.Metrics(Tally(None)).page("", (3, 2))[0].decode())
    assert (value(found, "replicas_wanted"), value(found, "replicas_ready")) == (3, 2)
    assert "replicas" not in metrics.Metrics(Tally(None)).page("", None)[0].decode()


def test_a_replica_that_nobody_asks_loads_none_of_it() -> None:
    script = (
        "import sys, detectctl.serving.admission, detectctl.serving.routes, detectctl.lifecycle.status\n"
        "print([name for name in sys.modules if name.startswith('prometheus')])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
