"""`make bench-gpu` runs, on CPU tensors; and what it concludes, and how it ends, whatever its parts do."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import gpu
import gpu_report
import http_load
import parity
import supervised
from detectctl.wire import Detection
from gpu_rows import Plan, Row, attempt, said

if TYPE_CHECKING:
    from collections.abc import Iterator

BENCHMARKS = Path(gpu.__file__).parent
PLAN = Plan("cpu", "bf16", 160, (1,), (1,), (2,), seconds=0.1, http_s=1)
BUS = Detection("bus", (0.0, 0.0, 100.0, 100.0), 0.8, 5)
SAME = parity.Parity(compared=3, least_iou=0.999, greatest_gap=0.001, alone=0)


def bench(folder: Path, *arguments: str, timeout_s: float) -> list[dict[str, Any]]:
    """The rows of one run with CPU tensors."""
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), "--device", "cpu", *arguments]
    written = ["--output", str(folder / "gpu.json"), "--picture", str(folder / "gpu.png")]
    done = subprocess.run([*command, *written], capture_output=True, text=True, timeout=timeout_s, check=False)
    assert done.returncode == 0, done.stderr
    assert (folder / "gpu.png").read_bytes().startswith(b"\x89PNG")
    rows: list[dict[str, Any]] = json.loads((folder / "gpu.json").read_text())["rows"]
    return rows


@pytest.mark.slow
@pytest.mark.parametrize(
    "executions",
    [
        ("eager", "graphs"),
        pytest.param(("compiled",), marks=pytest.mark.long),  # PyTorch takes half a minute to read the network
    ],
)
def test_every_variant_runs_on_cpu_tensors_and_finds_what_eager_fp32_finds(
    yolov8n_pt: Path, tmp_path: Path, executions: tuple[str, ...]
) -> None:
    """Decoding on the device may fail, where torchvision's operators do not load, and is a row even so."""
    rows = bench(tmp_path, *executions, "decoding", "loop", timeout_s=250)
    failed = [row for row in rows if row["failed"]]
    assert all("device" in row["variant"] for row in failed), failed
    measured = {(row["part"], row["variant"], row["count"]) for row in rows if row["images_per_s"]}
    variants = [f"{name} bf16" for name in executions]
    assert {(part, name, 2) for part in ("network", "engine") for name in variants} < measured
    assert {("loop", "graphs, decoding on the CPU", 2), ("decoding", "CPU, all threads", 2)} < measured
    assert ("detector", "threads", 2) in measured
    compared = [parity.Parity(**row["parity"]) for row in rows if row["parity"]]
    assert len(compared) >= 3
    # Not `kept`: its bounds are for 640 pixels. In 160 the same rounding moves the edges of a box by more of its size.
    assert all(one.least_iou >= 0.95 and one.greatest_gap <= parity.GREATEST_GAP for one in compared), compared
    assert all(one.compared >= 3 and not one.alone for one in compared), compared


_TENSORS = """
import sys
from concurrent.futures import ThreadPoolExecutor
import cv2
import numpy as np
import torch
import device_jpeg
import parity
from detectctl.engine.letterbox import letterbox
from executions import ExecutedEngine, Recorded
from photographs import Photographs
engine = ExecutedEngine("eager", "cpu", "fp32")
recorded = ExecutedEngine("graphs", "cpu", "fp32").network
assert isinstance(recorded, Recorded)
with torch.inference_mode():
    for count, side in ((1, 64), (2, 64), (1, 96), (2, 64)):
        batch = torch.rand(count, 3, side, side).to(memory_format=torch.channels_last)
        (ours, *_), (theirs, *_) = recorded(batch), engine.network(batch)
        for one, other in zip(ours, theirs, strict=True):
            assert torch.equal(one, other), (count, side)
bus = cv2.imread(sys.argv[1])
for picture in (bus, bus[:300], bus[:, :200], bus[:64, :64]):
    box, placement = letterbox(picture, (160, 160), 32)
    there, same = device_jpeg.letterboxed(torch.from_numpy(picture.copy()).permute(2, 0, 1), (160, 160), 32)
    assert same == placement
    assert there.shape == box.shape
    assert abs(there.numpy().astype(int) - box).max() <= 1, picture.shape
def decoded(jpegs, device):  # torchvision's operators may not load here
    pixels = [cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR_RGB) for jpeg in jpegs]
    return [torch.from_numpy(each).permute(2, 0, 1).to(device) for each in pixels]
device_jpeg.decoded = decoded
batch = Photographs.of(4, engine.trained, 160)
images, placement = batch.decoded_there("cpu")
there = batch.objects(engine.infer_there(images, batch.thresholds), placement, images.shape)
with ThreadPoolExecutor(2) as pool:
    images, placement = batch.decoded(pool)
here = batch.objects(engine.infer(images, batch.thresholds, alone=True), placement, images.shape)
found = parity.compare(here, there, 0.25)
assert found.kept and found.compared >= 8, found
"""


@pytest.mark.slow
def test_what_runs_on_the_device_equals_what_runs_without(yolov8n_pt: Path, bus_jpg: Path) -> None:
    """Recorded, a network gives the same, whatever shape came before; a letterbox is off by one at most."""
    env = os.environ | {"PYTHONPATH": str(BENCHMARKS)}
    done = subprocess.run([sys.executable, "-c", _TENSORS, str(bus_jpg)], env=env, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.cluster
@pytest.mark.long  # a service started and changed, for the sake of a benchmark
def test_the_service_is_measured_with_each_number_of_replicas(yolov8n_pt: Path, tmp_path: Path) -> None:
    rows = bench(tmp_path, "service", timeout_s=280)
    assert [(row["part"], row["variant"], row["count"], row["failed"]) for row in rows] == [
        ("service", "2 clients", 1, ""),
        ("service", "2 clients", 2, ""),
    ]
    assert all(row["images_per_s"] > 0 for row in rows)


def test_a_part_that_hangs_keeps_what_it_measured_and_says_that_it_hung(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    measured = Row("network", "eager fp16", 1, 50.0, 20.0, parity=SAME)
    line = json.dumps(measured, default=vars)
    program = f"import sys, time; open(sys.argv[3], 'w').write({line!r} + chr(10) + '{{'); time.sleep(600)"
    (tmp_path / "gpu_part.py").write_text(program)
    monkeypatch.setattr(gpu, "HERE", tmp_path)
    monkeypatch.setattr(gpu, "LEAST_S", 0)
    assert gpu.measure(PLAN, ["eager"], tmp_path, 5) == [measured, Row("eager", "", failed="not done after 5 s")]


def test_a_part_without_time_left_is_a_row(tmp_path: Path) -> None:
    assert gpu.measure(PLAN, ["service"], tmp_path, -3) == [Row("service", "", failed="there was no time left")]


def test_the_deadlines_leave_time_to_end_within_eight_minutes() -> None:
    assert gpu.ALL_S + supervised.GRACE_S + gpu.DOWN_S < 8 * 60 - 5


def test_what_a_command_has_started_ends_with_its_time() -> None:
    """Also in a session of its own, as the servers that are measured are."""
    child = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], "
    child += "start_new_session=True, env={'GPU_TEST_MARK': sys.argv[1]}); time.sleep(600)"
    mark = f"{os.getpid()}-{time.monotonic()}"
    assert supervised.run([sys.executable, "-c", child, mark], 3, os.environ) == "not done after 3 s"
    block = f"GPU_TEST_MARK={mark}".encode()
    assert not [each for each in Path("/proc").glob("[0-9]*/environ") if block in _read(each)]


def test_a_command_that_dies_is_quoted() -> None:
    command = [sys.executable, "-c", "print('out of memory'); raise SystemExit(3)"]
    assert supervised.run(command, 60, os.environ) == "exit code 3: out of memory"


def test_a_failure_is_a_row_with_its_first_line() -> None:
    def fail() -> dict[str, Any]:
        raise RuntimeError("CUDA error\nmany more lines")

    assert attempt(Row("network", "graphs fp16", 8), fail).failed == "RuntimeError: CUDA error"
    server = RuntimeError("LitServe failed: Traceback (most recent call last):\n  File …\nImportError: no litserve\n")
    assert said(server) == "RuntimeError: ImportError: no litserve"


def test_parity_is_of_the_same_object_in_both() -> None:
    near = replace(BUS, xyxy=(0.0, 0.0, 100.0, 99.0), confidence=0.79)
    found = parity.compare([[BUS]], [[near]], 0.25)
    assert (found.compared, found.least_iou, found.alone) == (1, 0.99, 0)
    assert found.greatest_gap == pytest.approx(0.01)
    assert found.kept


@pytest.mark.parametrize(
    "other",
    [
        pytest.param([], id="lost"),
        pytest.param([BUS, replace(BUS, xyxy=(200.0, 0.0, 300.0, 100.0))], id="one too many"),
        pytest.param([replace(BUS, class_id=7)], id="another class"),
        pytest.param([replace(BUS, xyxy=(0.0, 0.0, 100.0, 90.0))], id="moved"),
        pytest.param([replace(BUS, confidence=0.7)], id="less sure"),
    ],
)
def test_parity_is_broken_by_what_users_would_see(other: list[Detection]) -> None:
    assert not parity.compare([[BUS]], [other], 0.25).kept


def test_an_object_at_the_threshold_may_be_found_by_one_only() -> None:
    assert parity.compare([[replace(BUS, confidence=0.26)]], [[]], 0.25).kept


def test_the_service_is_judged_by_the_fastest_loop_that_is_right(tmp_path: Path) -> None:
    wrong = replace(SAME, alone=1)
    rows = [
        Row("loop", "eager, decoding on the CPU", 8, 1000, 8, SAME),
        Row("loop", "graphs, decoding on the device", 8, 9000, 1, wrong),
        Row("service", "32 clients", 1, 700, 40),
        Row("service", "32 clients", 2, 900, 30),
        Row("litserve", "", failed="not done after 90 s"),
    ]
    assert gpu_report.ratios(rows) == {"the service / the bare loop": 0.9}
    gpu_report.draw(rows, tmp_path / "gpu.png")
    assert (tmp_path / "gpu.png").stat().st_size > 10_000


@pytest.fixture
def every_other_refused() -> Iterator[str]:
    """A server that answers 200 and 503 by turns."""
    turns = iter(range(10**9))

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            assert self.rfile.read(int(self.headers["Content-Length"])) == b"jpeg"
            self.send_response(503 if next(turns) % 2 else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/detect"
        server.shutdown()


def test_only_answers_of_200_are_throughput(every_other_refused: str) -> None:
    load = http_load.load(every_other_refused, b"jpeg", clients=3, seconds=1)
    assert load.images_per_s == pytest.approx(load.refused[503], rel=0.1)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""
