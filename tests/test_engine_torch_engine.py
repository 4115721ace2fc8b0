"""The torch engine, on the CPU: what it computes on CUDA, it computes from the same code.

In a process of its own, because torch must not be in the process that other tests look into.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING, Any

import pytest

from detectctl.engine.detector import Detector
from detectctl.engine.detector_settings import DetectorSettings
from detectctl.errors import CheckpointRefused, ModelCorrupt

if TYPE_CHECKING:
    from pathlib import Path

    from detectctl.engine.compiled import CompiledModel

pytestmark = pytest.mark.slow

_DETECT = """
import json, sys, threading
from dataclasses import asdict
from detectctl.engine.detector import Detector
from detectctl.engine.detector_settings import DetectorSettings
from detectctl.errors import DetectctlError
settings, paths = json.loads(sys.argv[1]), sys.argv[2:]
answers = {}
for precision in ("fp32", "bf16"):
    detector = Detector.load(DetectorSettings(**settings, precision=precision))
    detector.warm_up()
    def found(path):
        return [asdict(each) for each in detector.detect(open(path, "rb").read())[1].detections]
    answers[precision] = {path: found(path) for path in paths}
    same = []
    def again(path):
        same.append(found(path) == answers[precision][path])
    threads = [threading.Thread(target=again, args=(path,)) for path in paths * 3]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert all(same) and len(same) == len(threads)
    answers[precision + " runs"] = asdict(detector.engine_info())
    detector.close()
from detectctl.engine.letterbox import letterbox
from detectctl.engine.torch_engine import TorchEngine
engine = TorchEngine(DetectorSettings(**settings, precision="fp32"), threads=2, batch=4)
import numpy as np
box, _ = letterbox(detector.decode(open(paths[0], "rb").read()), (640, 640), 32)
boxes = np.concatenate((box, box[:, ::-1], box[:, :, ::-1], box))
together = engine.infer(boxes, [0.25, 0.25, 0.5, 0.9], alone=False)
single = [engine.infer(boxes[i : i + 1], [c], alone=True)[0] for i, c in enumerate([0.25, 0.25, 0.5, 0.9])]
pairs = [(np.concatenate((a.boxes, a.scores)), np.concatenate((b.boxes, b.scores))) for a, b in zip(together, single)]
answers["batch"] = [[a.shape, b.shape, float(abs(a - b).max(initial=0))] for a, b in pairs]
answers["batch runs"] = asdict(engine.info)
try:
    Detector.load(DetectorSettings(**{**settings, "device": "cuda"}))
    answers["cuda"] = "there"
except DetectctlError as error:
    answers["cuda"] = type(error).__name__
try:
    Detector.load(DetectorSettings(**settings, precision="int8"))
except DetectctlError as error:
    answers["int8"] = [type(error).__name__, error.hint]
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def answers(
    yolov8n_pt: Path, yolov8n_compiled: CompiledModel, bus_jpg: Path, zidane_jpg: Path, tmp_path_factory: Any
) -> dict[str, Any]:
    settings = {"model": str(yolov8n_pt), "sha256": yolov8n_compiled.checkpoint_sha256, "engine": "torch"}
    result = subprocess.run(
        [sys.executable, "-c", _DETECT, json.dumps(settings), str(bus_jpg), str(zidane_jpg)],
        env={**os.environ, "YOLO_CONFIG_DIR": str(tmp_path_factory.mktemp("ultralytics"))},
        capture_output=True,
        timeout=200,
        check=False,
    )
    assert result.returncode == 0, result.stderr.decode()
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize(("precision", "pixels", "confidence"), [("fp32", 0.05, 0.0005), ("bf16", 4.0, 0.02)])
def test_both_engines_find_the_same(
    answers: dict[str, Any],
    yolov8n_compiled: CompiledModel,
    bus_jpg: Path,
    zidane_jpg: Path,
    precision: str,
    pixels: float,
    confidence: float,
) -> None:
    """What OpenVINO finds in fp32, torch finds; also when several threads ask at once."""
    settings = DetectorSettings(
        str(yolov8n_compiled.directory), yolov8n_compiled.checkpoint_sha256, precision="fp32", confidence=0.4
    )
    openvino = Detector.load(settings)
    for path in (bus_jpg, zidane_jpg):
        expected = openvino.detect(path.read_bytes())[1].detections
        found = [item for item in answers[precision][str(path)] if item["confidence"] > 0.4]
        assert len(found) == len(expected)
        for item, detection in zip(found, expected, strict=True):
            assert item["class_name"] == detection.class_name
            assert item["xyxy"] == pytest.approx(detection.xyxy, abs=pixels)
            assert item["confidence"] == pytest.approx(detection.confidence, abs=confidence)


def test_it_says_what_runs(answers: dict[str, Any]) -> None:
    assert answers["bf16 runs"] | {"threads": 0} == {
        "name": "torch",
        "device": "cpu",
        "precision": "bf16",
        "threads": 0,
        "streams": 1,
        "batch": 1,
        "agreement": None,
    }


def test_a_batch_gives_each_image_what_it_gets_alone(answers: dict[str, Any]) -> None:
    """Each with its own threshold, and found anchors go back to the image they are of."""
    shapes = [together for together, _, _ in answers["batch"]]
    assert shapes == [single for _, single, _ in answers["batch"]]
    assert len({count for _, count in shapes}) >= 3, "the images differ, or the test shows nothing"
    assert max(difference for _, _, difference in answers["batch"]) < 0.05  # pixels of a 640 pixel input
    assert answers["batch runs"]["batch"] == 4


def test_a_missing_gpu_is_a_usage_error(answers: dict[str, Any]) -> None:
    if answers["cuda"] == "there":
        pytest.skip("this machine has a GPU")
    assert answers["cuda"] == "UsageError"


def test_int8_is_a_usage_error(answers: dict[str, Any]) -> None:
    assert answers["int8"] == ["UsageError", "use `--device cpu` or `--precision auto`"]


def test_a_checkpoint_that_wants_code_is_refused_before_torch_is_asked(tmp_path: Path) -> None:
    import hashlib

    class Shell:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'it-ran'}",)

    path = tmp_path / "evil.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"model": Shell()}, protocol=2))
    settings = DetectorSettings(str(path), hashlib.sha256(path.read_bytes()).hexdigest(), engine="torch")
    with pytest.raises(CheckpointRefused, match="run code"):
        Detector.load(settings)
    assert not (tmp_path / "it-ran").exists()


def test_a_checkpoint_that_changed_is_not_loaded(yolov8n_pt: Path) -> None:
    with pytest.raises(ModelCorrupt):
        Detector.load(DetectorSettings(str(yolov8n_pt), "0" * 64, engine="torch"))
