"""One shape of each thing that travels, from the replica to `--json`."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from bent_service import INFO
from detectctl.errors import REQUEST_ERRORS, DetectctlError, ImageTooLarge, RequestError, SourceUnreadable
from detectctl.wire import (
    Detection,
    DetectionResult,
    DetectOptions,
    DrawOptions,
    EngineInfo,
    ModelInfo,
    ServiceInfo,
    error_body,
    error_from_json,
)


def test_an_answer_is_read_back_as_it_was() -> None:
    result = DetectionResult((Detection("bus", (1.0, 2.0, 3.0, 4.0), 0.5, 5),), 10, 20, INFO.model)
    assert DetectionResult.from_json(json.loads(json.dumps(result.to_json()))) == result


def test_info_is_read_back_as_it_was() -> None:
    assert ServiceInfo.from_json(json.loads(json.dumps(INFO.to_json()))) == INFO
    asleep = replace(INFO, engine=EngineInfo("openvino", "cpu", None))
    assert ServiceInfo.from_json(json.loads(json.dumps(asleep.to_json()))) == asleep


def test_a_later_versions_keys_are_ignored_and_a_missing_one_is_noticed() -> None:
    later = INFO.to_json() | {"later": "segment"}
    later["model"] = {**later["model"], "later": "segment"}
    assert ServiceInfo.from_json(later) == INFO
    for part in ("version", "model", "engine", "classes"):
        with pytest.raises((KeyError, TypeError)):
            ServiceInfo.from_json({key: value for key, value in INFO.to_json().items() if key != part})


def test_the_model_of_the_contracts_answer_is_understood() -> None:
    """The four keys that every service has ever sent."""
    data = {"name": "yolov8n", "version": "v3", "digest": "sha256:00", "fallback": False}
    assert ModelInfo.from_json(data) == ModelInfo("yolov8n", "v3", "sha256:00")


@pytest.mark.parametrize("kind", REQUEST_ERRORS.values())
def test_an_error_is_the_same_on_both_sides(kind: type[RequestError]) -> None:
    """What, why and hint arrive apart, so nobody has to take them out of one sentence."""
    error = kind("what failed", why="the cause", hint="the next command")
    body = json.loads(json.dumps(error_body(error)))
    assert body["status"] == "error"
    assert body["error"] == {
        "code": kind.code,
        "message": "what failed",
        "why": "the cause",
        "hint": "the next command",
    }
    again = error_from_json(body["error"])
    assert (type(again), again.what, again.why, again.hint) == (kind, error.what, error.why, error.hint)
    assert again.code == kind.code


def test_a_code_that_is_not_known_yet_is_kept() -> None:
    error = error_from_json({"code": "image_too_odd", "message": "it is odd"})
    assert (type(error), error.code, error.what) == (RequestError, "image_too_odd", "it is odd")
    assert RequestError.code == "request_error"


def test_every_error_has_a_code() -> None:
    assert SourceUnreadable("x").code == "source_unreadable"
    assert ImageTooLarge("x").code == "image_too_large"
    assert DetectctlError("x").code == "error"


def test_options_become_a_query() -> None:
    assert DetectOptions().parameters() == []
    assert DetectOptions(0.5, 0.0, ("bus", "car")).parameters() == [
        ("class", "bus"),
        ("class", "car"),
        ("conf", "0.5"),
        ("iou", "0.0"),
    ]
    assert DetectOptions(class_confidence={"person": 0.25}, max_det=7, agnostic_nms=False).parameters() == [
        ("conf", "person=0.25"),
        ("max_det", "7"),
        ("agnostic_nms", "false"),
    ]
    assert DrawOptions().parameters() == []
    assert DrawOptions(labels=False, line_width=3, quality=50).parameters() == [
        ("labels", "false"),
        ("line_width", "3"),
        ("quality", "50"),
    ]


def test_an_older_service_has_the_defaults_that_could_not_be_changed() -> None:
    info = INFO.to_json()
    for key in ("class_conf", "max_det", "agnostic_nms"):
        del info["defaults"][key]
    defaults = ServiceInfo.from_json(info).defaults
    assert (defaults.class_conf, defaults.max_det, defaults.agnostic_nms) == ({}, 300, False)


def test_each_default_of_detection_is_stated_once() -> None:
    """The command line, the deployment and the replica read them from the same module."""
    from detectctl.engine.detector_settings import DetectorSettings
    from detectctl.settings import UpSettings
    from detectctl.thresholds import Thresholds

    made, asked = DetectorSettings("", ""), UpSettings()
    assert (made.imgsz, made.iou) == (asked.imgsz, asked.iou)
    assert Thresholds(made.confidence, made.class_confidence) == asked.conf
    assert (made.max_det, made.agnostic_nms) == (asked.max_det, asked.agnostic_nms)
    assert made.max_image_bytes == asked.max_image_bytes
