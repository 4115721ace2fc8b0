"""What is said of a model before it is served."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest

from detectctl.engine.trained import Head, Trained
from detectctl.errors import UsageError
from detectctl.lifecycle.conversion import _check_classes, _device, _summary
from detectctl.progress import Progress, silent
from detectctl.settings import UpSettings
from detectctl.thresholds import Thresholds
from lifecycle_values import MODEL

STRIDES = (8, 16, 32)


@pytest.mark.parametrize(
    ("imgsz", "asked", "words"),
    [
        ((640, 640), None, "640 px as trained"),
        ((384, 640), None, "384x640 px as trained"),
        (None, None, "640 px, the default: it does not say what it was trained at"),
        ((640, 640), 320, "320 px of --imgsz, trained at 640"),
        (None, 320, "320 px of --imgsz"),
    ],
)
def test_the_size_is_named_with_its_reason(imgsz: tuple[int, int] | None, asked: int | None, words: str) -> None:
    trained = Trained({0: "disc"}, Head(strides=STRIDES), imgsz)
    assert _summary(trained, asked, "cpu") == f"detect, 1 class, {words}"


def test_the_size_that_is_named_is_a_multiple_of_the_stride() -> None:
    """As the network sees it: an option can only know of the usual stride."""
    trained = Trained({0: "disc"}, Head(strides=(8, 16, 32, 64)), (1280, 1280))
    assert "704 px of --imgsz, trained at 1280" in _summary(trained, 672, "cpu")


def test_a_network_of_one_size_is_not_asked_for_another_on_a_cpu() -> None:
    trained = Trained({0: "disc"}, Head("queries", one_to_one=True), (640, 640))
    with pytest.raises(UsageError, match="--imgsz 320"):
        _summary(trained, 320, "cpu")
    assert "320 px of --imgsz" in _summary(trained, 320, "cuda")


def test_a_threshold_for_a_class_that_the_model_lacks_is_refused_with_what_there_is() -> None:
    """Before anything is deployed. A fallback has the classes that it has, and is no reason to serve nothing."""
    trained, reported = Trained({0: "disc", 1: "bar"}, Head(strides=STRIDES)), list[Progress]()
    _check_classes(trained, MODEL, Thresholds(0.4, {"bar": 0.2}), reported.append)
    assert reported == []
    with pytest.raises(UsageError, match="no class 'disk'") as caught:
        _check_classes(trained, MODEL, Thresholds(0.4, {"disk": 0.2}), reported.append)
    assert caught.value.why == "its classes are 'disc', 'bar'"
    _check_classes(trained, replace(MODEL, fallback=True), Thresholds(None, {"disk": 0.2}), reported.append)
    (told,) = reported
    assert told.warning
    assert "no class 'disk'" in told.message


@pytest.mark.parametrize(("device", "precision", "what"), [("cuda", "auto", "--device cuda"), ("auto", "int8", "int8")])
def test_an_export_runs_on_the_cpu_in_floating_point(device: str, precision: str, what: str) -> None:
    """A GPU that was found is left alone; one that was asked for is an error, and so is int8."""
    trained = Trained({0: "disc"}, Head("decoded", (32,)), (640, 640), exported="static")

    def chosen(trained: Trained, asked: str, calibration: Any = None) -> str:
        return _device(trained, UpSettings(device=cast("Any", asked)), "cuda", calibration, {}, silent)

    assert chosen(trained, "auto") == "cpu"
    assert chosen(Trained({0: "disc"}, Head()), "auto") == "cuda"
    with pytest.raises(UsageError, match=f"{what} is not possible with this model"):
        chosen(trained, device, "images" if precision == "int8" else None)
