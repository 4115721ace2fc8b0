"""The detector as a replica uses it."""

from __future__ import annotations

import concurrent.futures
import copy
import json
import subprocess
import sys
import threading
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from detectctl.engine.detector import Detector
from detectctl.engine.detector_settings import DetectorSettings
from detectctl.errors import BadParameter, ImageTooLarge, ModelCorrupt, UnsupportedImage, UsageError
from detectctl.serving.app import Replica
from detectctl.serving.service_config import ServiceConfig
from detectctl.wire import DetectOptions, ModelInfo
from processor import capabilities, default_precision

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from detectctl.engine.compiled import CompiledModel
    from detectctl.wire import Detection


@pytest.fixture(scope="module")
def detector(yolov8n_compiled: CompiledModel) -> Detector:
    return Detector.load(DetectorSettings(str(yolov8n_compiled.directory), yolov8n_compiled.checkpoint_sha256))


def test_settings_survive_the_way_to_a_replica() -> None:
    settings = DetectorSettings("/models/x", "0" * 64, precision="bf16", threads=3, max_image_pixels=10)
    assert DetectorSettings(**json.loads(json.dumps(asdict(settings)))) == settings


def test_an_image_comes_with_its_detections(detector: Detector, bus_jpg: Path) -> None:
    image, answer = detector.detect(bus_jpg.read_bytes())
    found = answer.detections
    assert not answer.truncated
    assert image.shape == (1080, 810, 3)
    assert {"bus", "person"} <= {detection.class_name for detection in found}
    for detection in found:
        x1, y1, x2, y2 = detection.xyxy
        assert 0 <= x1 < x2 <= 810
        assert 0 <= y1 < y2 <= 1080
        assert detection.confidence > 0.25
        assert detector.labels[detection.class_id] == detection.class_name


def test_thresholds_and_classes_of_a_request_go_before_the_settings(detector: Detector, bus_jpg: Path) -> None:
    image = detector.decode(bus_jpg.read_bytes())
    everything = detector.detect_image(image).detections

    def assert_left(wanted: Callable[[Detection], bool], **options: Any) -> None:
        # With fewer candidates a processor may round a corner's last bits otherwise.
        found = detector.detect_image(image, DetectOptions(**options)).detections
        left = [each for each in everything if wanted(each)]
        assert [(each.class_name, each.confidence) for each in found] == [(x.class_name, x.confidence) for x in left]
        assert [each.xyxy for each in found] == [pytest.approx(each.xyxy, abs=0.01) for each in left]

    assert_left(lambda each: each.confidence > 0.5, confidence=0.5)
    for more in (DetectOptions(confidence=0.01), DetectOptions(iou=1.0)):
        assert len(detector.detect_image(image, more).detections) > len(everything)
    assert_left(lambda _: False, confidence=1.0)
    assert_left(lambda each: each.class_name == "bus", classes=["bus"])
    assert_left(lambda each: each.class_name in {"bus", "person"}, classes=["bus", "person", "bus"])
    assert_left(lambda _: False, classes=["zebra"])
    assert_left(lambda _: True, classes=[])


def test_a_confidence_of_zero_gives_at_most_300(detector: Detector, bus_jpg: Path) -> None:
    image = detector.decode(bus_jpg.read_bytes())
    found = detector.detect_image(image, DetectOptions(confidence=0))
    assert (len(found.detections), found.truncated) == (300, True)


def test_classes_have_thresholds_of_their_own(
    detector: Detector, bus_jpg: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request's join the settings' where it says nothing of the other classes, and replace them where it does."""
    image = detector.decode(bus_jpg.read_bytes())

    def found(options: DetectOptions | None = None) -> set[str]:
        detections = detector.detect_image(image, options).detections
        return {detection.class_name for detection in detections} - {"stop sign"}  # which is doubtful

    assert found() == {"bus", "person"}
    assert found(DetectOptions(class_confidence={"person": 0.99})) == {"bus"}
    assert found(DetectOptions(0.99, class_confidence={"person": 0.25})) == {"person"}
    monkeypatch.setattr(detector, "settings", replace(detector.settings, class_confidence={"bus": 0.99}))
    assert found() == {"person"}
    assert found(DetectOptions(class_confidence={"person": 0.99})) == set()
    assert found(DetectOptions(class_confidence={"bus": 0.25})) == {"bus", "person"}
    assert found(DetectOptions(0.25)) == {"bus", "person"}


def test_a_request_goes_before_the_settings_with_the_most_and_with_agnostic_nms(
    detector: Detector, bus_jpg: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = detector.decode(bus_jpg.read_bytes())
    everything = detector.detect_image(image).detections
    for options in (DetectOptions(max_det=2), DetectOptions(max_det=len(everything))):
        found = detector.detect_image(image, options)
        assert len(found.detections) == options.max_det
        assert found.truncated == (options.max_det == 2)
    crowd = DetectOptions(confidence=0.001)
    without = detector.detect_image(image, crowd)
    monkeypatch.setattr(detector, "settings", replace(detector.settings, agnostic_nms=True, max_det=3))
    assert detector.detect_image(image).truncated
    assert len(detector.detect_image(image, DetectOptions(max_det=300, confidence=0.001)).detections) < len(
        without.detections
    )
    assert detector.detect_image(image, replace(crowd, max_det=300, agnostic_nms=False)) == without


@pytest.mark.parametrize("value", [-1, 0, 1001])
def test_the_most_is_within_bounds(detector: Detector, value: int) -> None:
    with pytest.raises(BadParameter, match="max_det") as caught:
        detector.detect_image(np.zeros((32, 32, 3), np.uint8), DetectOptions(max_det=value))
    assert caught.value.why == "it must be from 1 to 1000"


@pytest.mark.parametrize("value", [-0.01, 1.01, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["confidence", "iou"])
def test_a_threshold_out_of_range_is_a_bad_parameter(detector: Detector, name: str, value: float) -> None:
    with pytest.raises(BadParameter):
        detector.detect_image(np.zeros((32, 32, 3), np.uint8), DetectOptions(**{name: value}))  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [DetectOptions(classes=("persn",)), DetectOptions(class_confidence={"persn": 0.5})])
def test_an_unknown_class_names_the_nearest(detector: Detector, options: DetectOptions) -> None:
    with pytest.raises(BadParameter, match="persn") as caught:
        detector.detect_image(np.zeros((32, 32, 3), np.uint8), options)
    assert caught.value.why is not None
    assert "'person'" in caught.value.why


def test_limits_of_the_settings_hold(yolov8n_compiled: CompiledModel, bus_jpg: Path) -> None:
    data = bus_jpg.read_bytes()
    folder, sha256 = str(yolov8n_compiled.directory), yolov8n_compiled.checkpoint_sha256
    with pytest.raises(ImageTooLarge):
        Detector.load(DetectorSettings(folder, sha256, max_image_bytes=len(data) - 1)).decode(data)
    with pytest.raises(ImageTooLarge):
        Detector.load(DetectorSettings(folder, sha256, max_image_pixels=810 * 1080 - 1)).decode(data)
    with pytest.raises(UnsupportedImage):
        Detector.load(DetectorSettings(folder, sha256)).decode(b"nothing")


@pytest.mark.parametrize("shape", [(1, 1), (1, 4000), (4000, 1), (31, 33), (640, 640), (641, 639)])
def test_every_shape_of_image_is_served(detector: Detector, shape: tuple[int, int]) -> None:
    image = np.random.default_rng(2).integers(0, 255, (*shape, 3), np.uint8)
    for detection in detector.detect_image(image, DetectOptions(confidence=0.001)).detections:
        x1, y1, x2, y2 = detection.xyxy
        assert 0 <= x1 <= x2 <= shape[1]
        assert 0 <= y1 <= y2 <= shape[0]


def test_many_threads_get_the_answers_of_one(detector: Detector, bus_jpg: Path, zidane_jpg: Path) -> None:
    """Different shapes at the same time, in both forms of the network, never mix."""
    files = [bus_jpg.read_bytes(), zidane_jpg.read_bytes()]
    expected = [detector.detect(data)[1] for data in files]
    start = threading.Barrier(8)

    def work(number: int) -> list[bool]:
        start.wait()
        return [detector.detect(files[i % 2])[1] == expected[i % 2] for i in range(number, number + 6)]

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert all(all(same) for same in pool.map(work, range(8)))


def test_a_request_that_fails_leaves_the_detector_whole(detector: Detector, bus_jpg: Path) -> None:
    data = bus_jpg.read_bytes()
    _, expected = detector.detect(data)
    for _ in range(20):
        with pytest.raises(UnsupportedImage):
            detector.detect(data[:5000])
    assert detector.detect(data)[1] == expected


def test_both_forms_of_the_network_agree(yolov8n_compiled: CompiledModel, bus_jpg: Path) -> None:
    """Which one answers depends on the load; what it answers must not."""
    from detectctl.engine.compiled import load_compiled
    from detectctl.engine.letterbox import letterbox
    from detectctl.engine.openvino_engine import OpenVINOEngine

    model = load_compiled(yolov8n_compiled.directory, checkpoint_sha256=yolov8n_compiled.checkpoint_sha256)
    engine = OpenVINOEngine(model, precision=None, threads=2, streams=1)
    assert (engine.info.threads, engine.info.streams) == (2, 1)
    box, _ = letterbox(np.random.default_rng(1).integers(0, 255, (300, 500, 3), np.uint8), (640, 640), 32)
    (alone,) = engine.infer(box, [0.01], alone=True)
    box.flags.writeable = False  # as Pillow gives some
    (crowded,) = engine.infer(box, [0.01], alone=False)
    assert alone.boxes.shape[1] > 0
    twice = engine.infer(np.concatenate((box, box)), [0.01, 0.5], alone=True)
    for other in (crowded, twice[0]):
        np.testing.assert_allclose(other.boxes, alone.boxes, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(other.scores, alone.scores, rtol=1e-3, atol=1e-3)
    assert twice[1].boxes.shape[1] <= alone.boxes.shape[1]
    engine.close()


def test_the_engine_says_what_runs(detector: Detector) -> None:
    info = detector.engine_info()
    assert (info.name, info.device) == ("openvino", "cpu")
    assert info.precision == default_precision()
    assert info.threads is not None
    assert info.threads >= 1


@pytest.mark.parametrize("options", [{"device": "cuda"}, {"precision": "fp16"}], ids=str)
def test_what_this_processor_cannot_do_is_a_usage_error(
    yolov8n_compiled: CompiledModel, options: dict[str, str]
) -> None:
    if "FP16" in capabilities() and "precision" in options:
        pytest.skip("this processor has fp16")
    with pytest.raises(UsageError) as caught:
        Detector.load(
            DetectorSettings(str(yolov8n_compiled.directory), yolov8n_compiled.checkpoint_sha256, **options)  # type: ignore[arg-type]
        )
    assert caught.value.hint is not None


def test_a_damaged_model_is_not_served(yolov8n_compiled: CompiledModel) -> None:
    with pytest.raises(ModelCorrupt):
        Detector.load(DetectorSettings(str(yolov8n_compiled.directory), "f" * 64))


def test_loading_leaves_nothing_that_the_next_load_would_trust(
    yolov8n_compiled: CompiledModel, tmp_path: Path, bus_jpg: Path
) -> None:
    """The sealed folder holds all that is ever loaded: what an engine would keep beside it has no digest."""
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(yolov8n_compiled.directory, folder)
    Detector.load(DetectorSettings(str(folder), yolov8n_compiled.checkpoint_sha256)).detect(bus_jpg.read_bytes())
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        path.name for path in yolov8n_compiled.directory.iterdir()
    )


def test_the_warm_up_is_a_request_in_both_forms(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a JPEG to named boxes, alone and in a crowd, whatever limits the settings have for other people's images."""
    forms: list[bool] = []
    infer = detector._engine.infer

    def noting(images: Any, confidences: Any, *, alone: bool) -> Any:
        forms.append(alone)
        return infer(images, confidences, alone=alone)

    monkeypatch.setattr(detector._engine, "infer", noting)
    monkeypatch.setattr(detector, "settings", replace(detector.settings, max_image_bytes=1, max_image_pixels=1))
    detector.warm_up()
    assert forms == [True, False]


@pytest.mark.parametrize("bent", ["labels", "detect_image"])
def test_a_model_that_loads_but_cannot_answer_does_not_make_a_replica(
    detector: Detector, monkeypatch: pytest.MonkeyPatch, bent: str
) -> None:
    """Serve takes an old replica away only when the new one's constructor has returned."""
    broken = copy.copy(detector)
    if bent == "labels":  # no name for any class
        broken._engine = copy.copy(detector._engine)
        broken._engine.trained = replace(detector._engine.trained, labels={})
    else:  # no such method
        setattr(broken, bent, {})
    monkeypatch.setattr(Detector, "load", lambda _: broken)
    config = ServiceConfig("", "0", ModelInfo("x", None, "sha256:0"), detector.settings)
    with pytest.raises((KeyError, TypeError)):
        Replica(config)


_REPLICA = """
import importlib, json, re, sys
from detectctl.engine.detector import Detector
from detectctl.engine.detector_settings import DetectorSettings
detector = Detector.load(DetectorSettings(**json.loads(sys.argv[1])))
detector.warm_up()
for path in sys.argv[2:]:
    assert detector.detect(open(path, "rb").read())[1].detections
heavy = {"torch", "ultralytics", "wandb", "torchvision", "matplotlib", "scipy", "pandas", "httpx"}
of_the_engine = sorted((heavy | {"ray", "fastapi"}) & set(sys.modules))
# Its own: how much of the libraries' files is mapped at a time is up to the kernel and its page cache, by 40 MB.
megabytes = int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
for module in ("app", "routes", "guard", "body", "docs_page", "fetch", "request_log", "admission", "url_policy"):
    importlib.import_module(f"detectctl.serving.{module}")
print(json.dumps({"of the engine": of_the_engine, "of the service": sorted(heavy & set(sys.modules)), "mb": megabytes}))
"""


def test_a_loaded_detector_has_no_torch_and_little_memory(
    yolov8n_compiled: CompiledModel, bus_jpg: Path, zidane_jpg: Path
) -> None:
    """A replica on OpenVINO imports none of the training stack; without Ray it has below 190 MB of its own."""
    settings = DetectorSettings(str(yolov8n_compiled.directory), yolov8n_compiled.checkpoint_sha256)
    result = subprocess.run(
        [sys.executable, "-c", _REPLICA, json.dumps(asdict(settings)), str(bus_jpg), str(zidane_jpg)],
        capture_output=True,
        timeout=100,
        check=True,
    )
    seen = json.loads(result.stdout)
    print(f"a loaded detector: {seen['mb']:.0f} MB")  # noqa: T201 - the figure is worth seeing
    assert seen["of the engine"] == []
    assert seen["of the service"] == []
    assert seen["mb"] < 190


_FIRST = """
import json, sys, threading
import openvino
from detectctl.engine.detector import Detector
from detectctl.engine.detector_settings import DetectorSettings
detector = Detector.load(DetectorSettings(**json.loads(sys.argv[1])))
sys.setswitchinterval(1e-6)  # what is rare becomes usual
at_once = threading.Barrier(8)
def first_step_of_inference():
    at_once.wait()
    openvino.Type.u8.to_dtype()
threads = [threading.Thread(target=first_step_of_inference) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def test_the_first_images_may_come_at_the_same_time(yolov8n_compiled: CompiledModel) -> None:
    """OpenVINO makes a table at its first use, in a way that lets two threads wait for each other for ever."""
    settings = DetectorSettings(str(yolov8n_compiled.directory), yolov8n_compiled.checkpoint_sha256, imgsz=32)
    command = [sys.executable, "-c", _FIRST, json.dumps(asdict(settings))]
    for _ in range(3):
        subprocess.run(command, timeout=60, check=True)


_EVERY_SHAPE = """
import sys
import numpy as np, psutil
from detectctl.engine import openvino_engine
from detectctl.engine.detector import Detector
from detectctl.engine.detector_settings import DetectorSettings
openvino_engine._KEPT_KERNELS = int(sys.argv[3]) or openvino_engine._KEPT_KERNELS
detector = Detector.load(DetectorSettings(sys.argv[1], sys.argv[2], threads=1))
detector.warm_up()
before = psutil.Process().memory_info().rss
for side in range(32, 641, 32):
    for shape in ((640, side, 3), (side, 640, 3)):
        detector.detect_image(np.full(shape, 90, np.uint8))
print((psutil.Process().memory_info().rss - before) >> 20)
"""


@pytest.mark.slow
def test_images_of_every_shape_cost_bounded_memory(yolov8n_compiled: CompiledModel) -> None:
    """39 letterboxes leave much less behind than with OpenVINO's own setting."""

    def grown(kept: int) -> int:
        model = (str(yolov8n_compiled.directory), yolov8n_compiled.checkpoint_sha256)
        command = [sys.executable, "-c", _EVERY_SHAPE, *model, str(kept)]
        return int(subprocess.run(command, capture_output=True, check=True, timeout=200).stdout)

    assert grown(0) < 0.8 * grown(5000)
