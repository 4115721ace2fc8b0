"""The installed command against a real Ray cluster, a real image server and real weights."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import httpx
import psutil
import pytest
from PIL import Image

from installed import DETECTCTL, Home, Service, free_port, marked
from otlp_collector import collector

pytestmark = pytest.mark.cluster

BUS = {"bus": 1, "person": 4}


def _classes(objects: list[dict[str, object]], least: float = 0.5) -> dict[str, int]:
    counts: dict[str, int] = {}
    for item in objects:
        if float(str(item["confidence"])) >= least:
            counts[str(item["class"])] = counts.get(str(item["class"]), 0) + 1
    return counts


def test_the_original_client_works_unchanged(service: Service, photo_server: str) -> None:
    """A plain GET of `/detect?image_url=…` gives the original format: status, objects with class and coordinates."""
    with urllib.request.urlopen(f"{service.url}/detect?image_url={photo_server}/bus.jpg", timeout=30) as response:
        answer = json.load(response)
    assert list(answer)[:2] == ["status", "objects"]
    assert answer["status"] == "found"
    assert list(answer["objects"][0])[:2] == ["class", "coordinates"]
    assert _classes(answer["objects"], 0.5) == {"bus": 1, "person": 3}
    assert [len(item["coordinates"]) for item in answer["objects"]] == [4] * len(answer["objects"])


def test_every_way_to_send_an_image_gives_the_same_answer(service: Service, photo_server: str, bus_jpg: Path) -> None:
    """GET by URL, POST of raw bytes and POST of a form are one service."""
    by_url = httpx.get(f"{service.url}/detect", params={"image_url": f"{photo_server}/bus.jpg"}, timeout=30).json()
    raw = httpx.post(
        f"{service.url}/detect", content=bus_jpg.read_bytes(), headers={"Content-Type": "image/jpeg"}, timeout=30
    ).json()
    form = httpx.post(f"{service.url}/detect", files={"file": bus_jpg.read_bytes()}, timeout=30).json()
    assert by_url == raw == form


def test_every_answer_carries_a_request_id_that_the_log_repeats(service: Service, bus_jpg: Path) -> None:
    """`X-Request-ID` of an answer is the `id` of its log line."""
    answer = httpx.post(f"{service.url}/detect", content=bus_jpg.read_bytes(), timeout=30)
    request_id = answer.headers["x-request-id"]
    state = service.home.instance(service.name)
    assert state is not None
    folder = service.home.path / state["temp_dir"] / "requests"
    lines = [json.loads(line) for file in folder.glob("*.log") for line in file.read_text().splitlines()]
    (line,) = [line for line in lines if line["id"] == request_id]
    assert line["status"] == "ok"
    assert line["objects"] == len(answer.json()["objects"])


@pytest.mark.parametrize("accept", ["image/jpeg", "image/png", "image/webp"])
def test_annotate_answers_in_the_accepted_format(service: Service, photo_server: str, accept: str) -> None:
    """`/annotate` draws on the image at its own size, in the format that `Accept` names."""
    answer = httpx.get(
        f"{service.url}/annotate",
        params={"image_url": f"{photo_server}/zidane.jpg"},
        headers={"Accept": accept},
        timeout=30,
    )
    assert answer.headers["content-type"] == accept
    with Image.open(io.BytesIO(answer.content)) as image:
        assert (image.size, f"image/{str(image.format).lower()}") == ((1280, 720), accept)


def test_the_service_describes_itself(service: Service) -> None:
    """Health, readiness, schema and its page answer; `/info` names model and engine."""
    for route in ("/healthz", "/readyz", "/openapi.json", "/docs"):
        assert httpx.get(service.url + route, timeout=30).status_code == 200
    info = httpx.get(f"{service.url}/info", timeout=30).json()
    assert info["model"]["name"] == "yolov8n"
    assert info["model"]["fallback"] is False
    assert info["engine"]["name"] == "openvino"
    assert info["classes"]["5"] == "bus"


@pytest.mark.parametrize(
    ("method", "path", "content", "status", "code"),
    [
        ("GET", "/detect?image_url=ftp://example.com/a.jpg", b"", 400, "bad_url"),
        ("GET", "/detect?image_url=http://127.0.0.2/a.jpg", b"", 403, "url_not_allowed"),
        ("GET", "/detect", b"", 422, "bad_parameter"),
        ("GET", "/detect?image_url=http://a.example/&nonsense=1", b"", 422, "bad_parameter"),
        ("POST", "/detect?conf=1.5", b"x", 422, "bad_parameter"),
        ("POST", "/detect", b"no image at all", 415, "unsupported_image"),
        ("POST", "/detect", b"", 415, "unsupported_image"),
        ("POST", "/detect", bytes(21 * 2**20), 413, "image_too_large"),
        ("GET", "/nowhere", b"", 404, "not_found"),
    ],
)
def test_bad_requests_get_the_contracts_error(
    service: Service, method: str, path: str, content: bytes, status: int, code: str
) -> None:
    """Each error has its HTTP status, its code, a message, and no traceback."""
    answer = httpx.request(method, service.url + path, content=content, timeout=30)
    assert answer.status_code == status
    body = answer.json()
    assert body["status"] == "error"
    assert body["error"]["code"] == code
    assert "Traceback" not in body["error"]["message"]


def test_a_page_of_another_name_cannot_ask_a_local_service(service: Service) -> None:
    """Without keys, whoever brings another `Host` than this machine's (DNS rebinding) gets 421."""
    for host, status in (("evil.example", 421), ("localhost", 200), ("127.0.0.1:1", 200)):
        assert (
            httpx.get(f"{service.url}/info", headers={"Host": host}, trust_env=False, timeout=30).status_code == status
        )


def test_an_unknown_class_is_refused_by_name(service: Service, bus_jpg: Path) -> None:
    """A typo in `class` gets 422 and the nearest class, not an empty answer."""
    answer = httpx.post(f"{service.url}/detect?class=persn", content=bus_jpg.read_bytes(), timeout=30)
    assert answer.status_code == 422
    assert "person" in json.dumps(answer.json())


def test_detect_prints_what_the_format_promises(service: Service, bus_jpg: Path, photo_server: str) -> None:
    """Files, URLs and stdin; jsonl in a pipe, CSV and a table on demand."""
    url = f"{photo_server}/zidane.jpg"
    done = service.home.run_with(bus_jpg.read_bytes(), "detect", str(bus_jpg), url, "-")
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [record["source"] for record in records] == [str(bus_jpg), url, "-"]
    assert records[0]["objects"] == records[2]["objects"]
    table = service.home.run("detect", str(bus_jpg), "--format", "table").stdout
    assert "bus" in table
    csv = service.home.run("detect", str(bus_jpg), "--format", "csv", "--class", "bus").stdout
    assert len(csv.splitlines()) == 2


def test_one_bad_source_does_not_stop_the_rest(service: Service, bus_jpg: Path, tmp_path: Path) -> None:
    """The others are done, the bad one is on stderr and in the output, and the exit code is 6."""
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"not an image")
    done = service.home.run("detect", str(bad), str(tmp_path / "missing.jpg"), str(bus_jpg))
    assert done.returncode == 6
    statuses = [json.loads(line)["status"] for line in done.stdout.splitlines()]
    assert statuses == ["error", "error", "found"]
    assert "bad.jpg" in done.stderr
    assert "missing.jpg" in done.stderr


def test_what_the_service_refuses_exits_7(service: Service) -> None:
    """A URL that policy forbids is refused, not failed."""
    done = service.home.run("detect", "http://127.0.0.2/a.jpg")
    assert done.returncode == 7
    assert "Traceback" not in done.stderr


def test_one_refused_source_among_good_ones_exits_6(service: Service, bus_jpg: Path) -> None:
    done = service.home.run("detect", str(bus_jpg), "http://10.1.2.3/a.jpg")
    assert done.returncode == 6, done.stderr
    assert [json.loads(line)["status"] for line in done.stdout.splitlines()] == ["found", "error"]


def test_annotate_writes_the_pictures(service: Service, bus_jpg: Path, photo_server: str, tmp_path: Path) -> None:
    """One source into a file, several into a folder; originals stay."""
    before = bus_jpg.read_bytes()
    one = tmp_path / "one.png"
    assert service.home.run("annotate", str(bus_jpg), "-o", str(one)).returncode == 0
    with Image.open(one) as image:
        assert (image.size, image.format) == ((810, 1080), "PNG")
    done = service.home.run("annotate", str(bus_jpg), f"{photo_server}/zidane.jpg", "-o", str(tmp_path / "many"))
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "many").iterdir()) == ["bus.jpg", "zidane.jpg"]
    assert bus_jpg.read_bytes() == before


def test_status_tells_what_runs(service: Service) -> None:
    """State, endpoint, model, replicas with pid, requests."""
    status = service.home.json("status", "--json")
    assert status["state"] == "running"
    assert status["endpoint"] == service.url
    assert status["model"]["digest"].startswith("sha256:f59b3d83")
    assert status["ready"] >= 1
    assert psutil.pid_exists(status["replicas"][0]["pid"])
    plain = service.home.run("status").stdout
    assert "\x1b" not in plain
    assert max(len(line) for line in plain.splitlines()) <= 80


def test_its_head_keeps_its_files(service: Service) -> None:
    """Locked, for systemd-tmpfiles and for other machines with the same home."""
    state = service.home.instance()
    assert state is not None
    for path in (service.home.state / "default" / "alive", Path(state["temp_dir"])):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            with pytest.raises(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(descriptor)


def test_a_second_up_changes_nothing(service: Service) -> None:
    """Same request, same state: the replicas are the same processes. What cannot change any more is said."""
    before = service.home.json("status", "--json")["replicas"]
    port = service.url.rpartition(":")[2]
    traced = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}
    done = service.home.run("up", "--port", port, "--allow-url", "127.0.0.1", "--json", **traced)
    assert json.loads(done.stdout)["action"] == "unchanged"
    assert "traces are not sent to http://127.0.0.1:1: the instance was started without" in done.stderr
    assert service.home.json("status", "--json")["replicas"] == before


def test_commands_and_answers_name_model_and_engine_alike(service: Service, bus_jpg: Path) -> None:
    """One parser does for `/info`, `up --json`, `status --json` and `/detect`: same keys, same values."""
    info = httpx.get(f"{service.url}/info", timeout=30).json()
    port = service.url.rpartition(":")[2]
    unchanged = service.home.json("up", "--port", port, "--allow-url", "127.0.0.1", "--json")
    for printed in (unchanged, service.home.json("status", "--json")):
        assert (printed["model"], printed["engine"]) == (info["model"], info["engine"])
        assert printed["schema"] == info["schema"]
    assert info["engine"]["precision"] in {"bf16", "fp32"}  # as chosen, never "auto"
    assert (
        httpx.post(f"{service.url}/detect", content=bus_jpg.read_bytes(), timeout=30).json()["model"] == info["model"]
    )


@pytest.mark.parametrize("other", ["port", "host"])
def test_another_address_is_refused_with_what_to_do(service: Service, other: str) -> None:
    """The address of a running service cannot change; the error offers the two ways out, and it goes on serving."""
    before = service.home.json("status", "--json")["replicas"]
    port = service.url.rpartition(":")[2]
    options = ("--port", str(free_port())) if other == "port" else ("--port", port, "--host", "127.0.0.2")
    done = service.home.run("up", *options)
    assert done.returncode == 2
    assert f"listens on 127.0.0.1:{port}, not" in done.stderr
    assert "detectctl down" in done.stderr
    assert service.home.json("status", "--json")["replicas"] == before


def test_a_replica_is_lean(service: Service) -> None:
    """A replica on OpenVINO maps no torch into its memory, has no W&B key, and stays under 450 MB."""
    replica = psutil.Process(service.home.json("status", "--json")["replicas"][0]["pid"])
    mapped = {mapping.path for mapping in replica.memory_maps()}
    assert not [path for path in mapped if "/torch/" in path or "/wandb/" in path]
    assert "WANDB_API_KEY" not in replica.environ()
    rss = replica.memory_info().rss / 1e6
    assert rss < 450, f"replica RSS {rss:.0f} MB"


def test_a_taken_port_is_said_before_anything_starts(home: Home) -> None:
    """Exit 4 that names the port, and no state is left."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = home.run("up", "--port", str(port))
    assert done.returncode == 4
    assert str(port) in done.stderr
    assert home.instance() is None


def test_nothing_running_is_told_apart(home: Home, bus_jpg: Path) -> None:
    """`status` and `detect` exit 3; `down` exits 0 and says so."""
    assert home.run("status").returncode == 3
    assert home.run("detect", str(bus_jpg)).returncode == 3
    done = home.run("down")
    assert done.returncode == 0
    assert "nothing to stop" in done.stdout


def _in_a_terminal_that_hangs_up(home: Home, *arguments: str, **env: str) -> None:
    """Run a command in a pseudo-terminal of its own, which the kernel hangs up when the command has ended."""
    script = f"import pty, sys; sys.exit(pty.spawn({[str(DETECTCTL), *arguments]!r}) >> 8)"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=home.env | env,
        cwd=home.path,
        capture_output=True,
        timeout=240,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
@pytest.mark.long  # tests run beside each other as it is
def test_two_instances_live_side_by_side_and_down_ends_one(service: Service, bus_jpg: Path, fall_pt: Path) -> None:
    """Each serves its own model; taking one down leaves the other serving and none of its own processes.

    The second outlives the terminal that it was started in, and sends traces where that one's environment says.
    """
    home, port = service.home, free_port()
    two = ("--name", "two", "--port", str(port), "--model", str(fall_pt), "--replicas", "1")
    with collector() as collected, contextlib.ExitStack() as after:
        after.callback(home.run, "down", "--name", "two", "--force")
        _in_a_terminal_that_hangs_up(home, "up", *two, OTEL_EXPORTER_OTLP_ENDPOINT=collected.url)
        assert len(home.run("status", "--all").stdout.splitlines()) == 3
        labels = httpx.get(f"http://127.0.0.1:{port}/info", timeout=30).json()["classes"]
        assert sorted(labels.values()) == ["Fall", "Normal"]
        caller = {"traceparent": f"00-{'7' * 32}-{'8' * 16}-01"}
        answer = httpx.post(f"http://127.0.0.1:{port}/detect", content=bus_jpg.read_bytes(), headers=caller, timeout=30)
        state = home.instance("two")
        assert state is not None
        assert home.processes("two")
        assert home.run("down", "--name", "two").returncode == 0
        assert marked(state["instance_id"]) == []
        assert not (home.path / state["temp_dir"]).exists()
        spans = collected.of("7" * 32, 5)  # also if they were still to be sent: Ray has none of its own
        assert spans["POST /detect"].parent == "8" * 16
        assert spans["POST /detect"].attributes["detectctl.request_id"] == answer.headers["x-request-id"]
    assert home.run("detect", "--name", service.name, str(bus_jpg)).returncode == 0
    assert httpx.get(f"{service.url}/readyz", timeout=30).status_code == 200


def test_the_doctor_asks_the_service_a_picture(service: Service) -> None:
    """And finds its port taken by the right one, its processes no strangers, and letters for its classes."""
    found = json.loads(service.home.run("doctor", "--json").stdout)["findings"]
    levels = {each["check"]: each["level"] for each in found}
    assert [levels[check] for check in ("port", "service", "fonts")] == ["ok"] * 3
    (strangers,) = (each["message"] for each in found if each["check"] == "Ray")  # another test may have some
    assert {str(process.pid) for process in service.home.processes(service.name)}.isdisjoint(strangers.split())
    assert "instance default answers a picture with yolov8n" in [each["message"] for each in found]
