"""int8 is calibrated on the user's images, computes in int8, and reports truly how closely it agrees with fp32."""

from __future__ import annotations

import importlib.util
import itertools
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from detectctl.engine.compiled import read_agreement
from detectctl.engine.detector import Detector
from detectctl.engine.detector_settings import DetectorSettings
from detectctl.engine.int8 import calibration
from detectctl.engine.int8.agreement import compare
from detectctl.engine.int8.calibration import MOST_IMAGES
from detectctl.engine.int8.quantise import prepare, quantise
from detectctl.errors import ConversionFailed, ModelError, UsageError
from detectctl.progress import Progress, silent
from detectctl.wire import Agreement, Detection
from family import Family

if TYPE_CHECKING:
    from detectctl.engine.compiled import CompiledModel
    from detectctl.wire import Precision


pytestmark = pytest.mark.slow


def make(model: CompiledModel, folder: Path, cache: Path, **options: Any) -> CompiledModel:
    settings: dict[str, Any] = {
        "imgsz": 640,
        "most_loss": 1.0,
        "timeout_s": 250,
        "environ": os.environ,
        "report": silent,
        "name": "yolov8n",
    } | options
    return quantise(model, calibration.choose(folder), cache=cache, **settings)


def detector(model: CompiledModel, precision: Precision) -> Detector:
    return Detector.load(DetectorSettings(str(model.directory), model.checkpoint_sha256, precision=precision))


def test_int8_agrees_with_fp32_as_well_as_it_says(
    yolov8n_compiled: CompiledModel, yolov8n_int8: CompiledModel, eight_photos: list[Path]
) -> None:
    """The record is what anybody can measure; a broken image and an empty file are counted, other files are not."""
    told = yolov8n_int8.agreement
    assert told is not None
    assert (told.images, told.skipped) == (8, 2)
    print(f"int8: {told}, confidence within {told.confidence_gap:.2f}")  # noqa: T201 - the figures are worth seeing
    assert told.loss <= 0.25
    assert told.mean_iou >= 0.93
    assert told.confidence_gap <= 0.25

    fp32, int8 = detector(yolov8n_compiled, "fp32"), detector(yolov8n_int8, "int8")
    # By name, as calibration takes them: in another order, sums round otherwise.
    photos = [photo.read_bytes() for photo in sorted(eight_photos, key=lambda photo: photo.name)]
    measured = compare(
        [fp32.detect(photo)[1].detections for photo in photos],
        [int8.detect(photo)[1].detections for photo in photos],
        skipped=2,
    )
    assert measured.fp32_boxes >= 15
    # One box more or less: single ones lie at the threshold, and streams of other widths sum in another order.
    assert abs(measured.int8_boxes - told.int8_boxes) <= 1
    assert measured.recall == pytest.approx(told.recall, abs=0.07)
    assert measured.mean_iou == pytest.approx(told.mean_iou, abs=0.02)
    assert int8.engine_info().precision == "int8"
    assert int8.engine_info().agreement == told
    assert read_agreement(yolov8n_int8.directory) == told
    assert read_agreement(yolov8n_compiled.directory) is None


def test_convolutions_run_in_int8_and_logits_leave_in_fp32(yolov8n_int8: CompiledModel) -> None:
    """Convolutions really run in int8, and nothing after the last of them is rounded to it."""
    import openvino as ov

    core = ov.Core()
    network = core.read_model(yolov8n_int8.network)
    compiled = core.compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    precisions = [
        node.get_rt_info()["runtimePrecision"].astype(str)
        for node in compiled.get_runtime_model().get_ops()
        if node.get_rt_info()["layerType"].astype(str) == "Convolution"
    ]
    assert len(precisions) >= 60
    assert set(precisions) <= {"i8", "u8"}
    nodes = [result.input_value(0).get_node() for result in network.get_results()]
    behind = set()
    while nodes:
        node = nodes.pop()
        if node.get_type_name() not in {"Convolution", "Constant"}:
            behind.add(node.get_type_name())
            nodes += [value.get_node() for value in node.input_values()]
    assert "Clamp" in behind
    assert "FakeQuantize" not in behind


@pytest.mark.long
def test_a_network_with_depthwise_convolutions_runs_in_int8(tmp_path: Path) -> None:
    """With those in int8, too, OpenVINO crashed on small maps where the processor has AMX."""
    family = Family("11", tmp_path)
    images = tmp_path / "images"
    images.mkdir()
    for number, picture in enumerate(family.pictures[:20]):
        cv2.imwrite(str(images / f"{number:02}.png"), picture)
    int8 = make(family.compiled, images, tmp_path, imgsz=None)
    for size in (64, 160, 224):  # those that it crashed at
        assert any(family.found(family.detector("int8", imgsz=size, compiled=int8)))


def test_the_same_images_elsewhere_need_no_second_calibration(
    yolov8n_compiled: CompiledModel, yolov8n_int8: CompiledModel, eight_folder: Path, tmp_path: Path
) -> None:
    """Contents count, not paths and times; one changed byte, another input size or a missing file is another model."""
    moved = tmp_path / "moved"
    shutil.copytree(eight_folder, moved, copy_function=shutil.copyfile)
    reported: list[Progress] = []
    cache = yolov8n_int8.directory.parent.parent
    assert make(yolov8n_compiled, moved, cache, report=reported.append) == yolov8n_int8
    told = f"{yolov8n_int8.agreement}; 2 skipped"
    assert reported == [Progress("quantise", "yolov8n"), Progress("quantise", told, done=True)]

    chosen = calibration.choose(moved)
    with (moved / "bus.jpg").open("r+b") as file:
        file.seek(50_000)
        file.write(b"x")
    changed = calibration.choose(moved)
    assert changed.digest != chosen.digest
    (moved / "flower.jpg").unlink()
    assert calibration.choose(moved).digest not in {chosen.digest, changed.digest}
    with pytest.raises(ConversionFailed, match="in time"):
        make(yolov8n_compiled, eight_folder, cache, imgsz=320, timeout_s=0.5)


def test_a_large_folder_is_sampled_evenly_and_always_alike(tmp_path: Path) -> None:
    for index in range(1000):
        (tmp_path / f"{index:04}.jpg").write_bytes(str(index).encode())
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "folder.jpg").mkdir()
    chosen = calibration.choose(tmp_path)
    numbers = [int(Path(path).stem) for path, _ in chosen.images]
    assert len(numbers) == MOST_IMAGES
    assert {after - before for before, after in itertools.pairwise(numbers)} == {3, 4}
    assert numbers[0] == 0
    assert numbers[-1] >= 996
    assert calibration.choose(tmp_path) == chosen


def test_a_folder_without_images_is_refused_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "a.jpg").write_bytes(b"x")
    (tmp_path / "readme.txt").write_text("no image")
    for folder in (tmp_path, tmp_path / "nowhere", tmp_path / "readme.txt"):
        with pytest.raises(UsageError) as caught:
            calibration.choose(folder)
        assert str(folder) in caught.value.what
        assert caught.value.hint is not None


@pytest.mark.parametrize(("kind", "why"), [("broken", "none of 3 files"), ("grey", "finds nothing in 3 images")])
def test_images_that_show_nothing_are_refused(
    yolov8n_compiled: CompiledModel, tmp_path: Path, bus_jpg: Path, kind: str, why: str
) -> None:
    """An int8 model that cannot be compared with fp32 is not made."""
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(3):
        if kind == "broken":
            (folder / f"{index}.jpg").write_bytes(bus_jpg.read_bytes()[: 1000 * index])
        else:
            cv2.imwrite(str(folder / f"{index}.png"), np.full((100 + index, 200, 3), 114, np.uint8))
    with pytest.raises(UsageError) as caught:
        make(yolov8n_compiled, folder, tmp_path)
    assert caught.value.why is not None
    assert why in caught.value.why
    assert [path for path in (tmp_path / "compiled").iterdir() if path.suffix != ".lock"] == []


def test_an_image_that_is_written_to_meanwhile_is_noticed(
    yolov8n_compiled: CompiledModel, tmp_path: Path, bus_jpg: Path
) -> None:
    """A model is cached under the digest of the very bytes it was made from."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a.jpg", "b.jpg"):
        shutil.copyfile(bus_jpg, folder / name)

    def vandalise(progress: Progress) -> None:
        if progress.message == "yolov8n: import":
            (folder / "b.jpg").unlink()

    with pytest.raises(ConversionFailed, match="could not be quantised") as caught:
        make(yolov8n_compiled, folder, tmp_path, report=vandalise)
    assert caught.value.why is not None
    assert "b.jpg" in caught.value.why


def test_a_deadline_ends_the_calibration_and_leaves_nothing(
    yolov8n_compiled: CompiledModel, eight_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConversionFailed, match="in time"):
        make(yolov8n_compiled, eight_folder, tmp_path, timeout_s=1)
    assert [path for path in (tmp_path / "compiled").iterdir() if path.suffix != ".lock"] == []


def test_a_file_that_cannot_be_read_is_skipped(tmp_path: Path, bus_jpg: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detectctl.sources.MAX_FILE_BYTES", 1000)
    shutil.copyfile(bus_jpg, tmp_path / "large.jpg")
    (tmp_path / "small.jpg").write_bytes(b"x")
    digests = {Path(path).name: sha256 for path, sha256 in calibration.choose(tmp_path).images}
    assert digests["large.jpg"] is None
    assert digests["small.jpg"] is not None


@pytest.mark.parametrize("precision", ["auto", "fp32", "int8"])
def test_a_model_runs_only_in_the_arithmetic_it_was_made_for(
    yolov8n_compiled: CompiledModel, yolov8n_int8: CompiledModel, precision: Precision
) -> None:
    wrong = yolov8n_compiled if precision == "int8" else yolov8n_int8
    with pytest.raises(UsageError, match=f"precision {precision}") as caught:
        detector(wrong, precision)
    assert caught.value.hint is not None


def box(x: float, confidence: float = 0.9, class_id: int = 0) -> Detection:
    return Detection("thing", (x, 0.0, x + 100, 100.0), confidence, class_id)


def test_agreement_counts_pairs_of_one_class_once() -> None:
    """Of two boxes near one, one is invented; another class is another object; a box far off is missed."""
    expected = [[box(0), box(500, 0.5)], [box(0)], [box(0), box(40)]]
    found = [[box(10, 0.8), box(-10, 0.7), box(900)], [box(0, class_id=1)], [box(40), box(0)]]
    told = compare(expected, found, skipped=1)
    assert (told.images, told.skipped, told.fp32_boxes, told.int8_boxes) == (3, 1, 5, 6)
    assert told.recall == pytest.approx(3 / 5)
    assert told.precision == pytest.approx(3 / 6)
    assert told.mean_iou == pytest.approx((9 / 11 + 1 + 1) / 3)
    assert told.confidence_gap == pytest.approx(0.1)
    assert told.loss == pytest.approx(0.5)
    assert str(told) == "recall 0.60, precision 0.50, IoU 0.94 against fp32 on 3 images"


def test_a_network_that_finds_nothing_has_lost_everything() -> None:
    assert compare([[box(0)]], [[]], skipped=0).loss == 1
    assert compare([[box(0)]], [[box(60)]], skipped=0) == Agreement(1, 0, 1, 1, 0.0, 0.0, 0.0, 0.0)


def test_masks_are_compared_where_there_are_any() -> None:
    """Two halves of one box, of which the boxes say that they are the same."""
    upper = replace(box(0), mask=((0, 0, 100, 0, 100, 50, 0, 50),))
    lower = replace(box(0), mask=((0, 50, 100, 50, 100, 100, 0, 100),))
    most = replace(box(0), mask=((0, 0, 100, 0, 100, 40, 0, 40),))
    assert compare([[upper]], [[lower]], task="segment", skipped=0).recall == 0
    assert compare([[upper]], [[most]], task="segment", skipped=0).mean_iou == pytest.approx(0.8, abs=0.02)


def test_rotated_boxes_are_compared_as_they_lie() -> None:
    """Two diagonals of one box."""
    rising = replace(box(0), corners=((0.0, 90.0), (90.0, 0.0), (100.0, 10.0), (10.0, 100.0)), angle=0.8)
    falling = replace(box(0), corners=((0.0, 10.0), (10.0, 0.0), (100.0, 90.0), (90.0, 100.0)), angle=-0.8)
    assert compare([[rising]], [[rising]], task="obb", skipped=0).mean_iou == 1
    assert compare([[rising]], [[falling]], task="obb", skipped=0).recall == 0


def test_of_poses_the_distance_of_keypoints_is_told() -> None:
    """As a share of the diagonal of the box, which is 141 pixels long."""
    one = replace(box(0), keypoints=((10.0, 10.0, 0.9), (50.0, 50.0, 0.9)))
    other = replace(box(0), keypoints=((10.0, 20.0, 0.9), (50.0, 50.0, 0.9)))
    told = compare([[one]], [[other]], task="pose", skipped=0)
    assert told.keypoint_distance == pytest.approx(5 / 141.4, abs=1e-4)
    assert "keypoints 0.035 of the box apart" in str(told)
    assert compare([[one]], [[one]], skipped=0).keypoint_distance is None


def test_of_classes_the_most_confident_counts() -> None:
    first, second = box(0, 0.6, 1), box(0, 0.3, 2)
    assert compare([[first, second]], [[first]], task="classify", skipped=0).loss == 0
    assert compare([[first, second]], [[second, first]], task="classify", skipped=0).loss == 1


def test_int8_is_refused_without_images(eight_folder: Path) -> None:
    reported: list[Progress] = []
    with pytest.raises(UsageError, match="needs images") as caught:
        prepare("int8", None, reported.append)
    assert caught.value.hint is not None
    assert "--calibrate DIR" in caught.value.hint
    assert prepare("int8", eight_folder, reported.append) == calibration.choose(eight_folder)
    assert reported == []


def test_without_nncf_the_error_says_what_to_install(eight_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "nncf" else find(name, *rest))
    with pytest.raises(UsageError, match="NNCF") as caught:
        prepare("int8", eight_folder, silent)
    assert "detectctl[int8]" in str(caught.value.hint)


def test_images_for_another_precision_are_reported_to_have_no_effect(eight_folder: Path) -> None:
    reported: list[Progress] = []
    assert prepare("auto", eight_folder, reported.append) is None
    (told,) = reported
    assert told.warning
    assert "no effect with --precision auto" in told.message


@pytest.mark.parametrize(("recall", "precision"), [(0.7, 1.0), (1.0, 0.7)])
def test_too_much_loss_is_an_error_that_says_how_much(
    yolov8n_compiled: CompiledModel,
    yolov8n_int8: CompiledModel,
    eight_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    recall: float,
    precision: float,
) -> None:
    """Missed boxes count, and invented ones; a model at the limit is accepted."""
    poor = Agreement(8, 2, 10, 10, recall, precision, 0.9, 0.2)
    kept = replace(yolov8n_int8, agreement=poor)
    monkeypatch.setattr("detectctl.engine.int8.quantise.make_once", lambda *_, **__: kept)
    reported: list[Progress] = []

    def quantised(most: float) -> CompiledModel:
        cache = yolov8n_int8.directory.parent.parent
        return make(yolov8n_compiled, eight_folder, cache, most_loss=most, report=reported.append)

    with pytest.raises(ModelError, match="yolov8n: in 30% of the boxes") as caught:
        quantised(0.29)
    assert caught.value.why is not None
    assert "allows 29%" in caught.value.why
    assert caught.value.hint is not None
    assert "--max-int8-loss" in caught.value.hint
    assert not any(progress.done for progress in reported)
    assert quantised(0.31).agreement == poor
    assert [progress.message for progress in reported if progress.done] == [f"{poor}; 2 skipped"]
