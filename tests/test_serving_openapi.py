"""The description at `/openapi.json` against the answers that the service gives."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import cv2
import httpx
import jsonschema_rs
import pytest

import shapes
from bent_service import INFO
from broken_images import encoded
from detectctl.errors import REQUEST_ERRORS
from detectctl.serving.openapi import DETECT_URL, _thresholds, schema_of
from detectctl.serving.openapi import INFO as INFO_ANSWERS
from detectctl.wire import DetectionResult
from served import BASE, served

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from detectctl.engine.compiled import CompiledModel
    from detectctl.wire import Task


@pytest.fixture(scope="module")
def client(yolov8n_compiled: CompiledModel) -> Iterator[httpx.Client]:
    with (
        served(yolov8n_compiled, own_host="127.0.0.1") as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as client,
    ):
        yield client


@pytest.mark.parametrize(
    ("method", "url", "body", "status"),
    [
        ("GET", "/info", None, 200),
        ("GET", "/healthz", None, 200),
        ("POST", "/detect", encoded("JPEG"), 200),
        ("POST", "/detect", b"not an image", 415),
        ("POST", "/detect?conf=7", b"", 422),
        ("POST", "/detect?conf=0&max_det=1", encoded("JPEG"), 200),
        ("POST", "/annotate", encoded("JPEG"), 406),
        ("GET", "/detect?image_url=http://10.0.0.1/", None, 403),
        ("GET", "/detect?image_url=ftp://a/", None, 400),
    ],
)
def test_an_answer_is_as_described(
    client: httpx.Client, method: str, url: str, body: bytes | None, status: int
) -> None:
    """Its status, and its JSON down to the code of an error."""
    answer = client.request(method, url, content=body, headers={"Accept": "text/html" if status == 406 else "*/*"})
    assert answer.status_code == status
    path = url.partition("?")[0]
    described = client.get("/openapi.json").json()["paths"][path][method.lower()]["responses"][str(status)]
    jsonschema_rs.validate(described["content"]["application/json"]["schema"], answer.json())


@pytest.mark.parametrize(
    ("conf", "status"),
    [
        ("0.4", 200),
        ("0.4,person=0.25", 200),
        ("person=1,traffic light=0", 200),
        ("0.4,persn=0.25", 422),
        ("0.4,person=1.5", 422),
        ("person=0.1,bus=0.2,person=0.3", 422),
        ("0.4,", 422),
        ("person", 422),
    ],
)
def test_thresholds_are_described_as_they_are_taken(client: httpx.Client, conf: str, status: int) -> None:
    """By names of this model's classes, none of them twice."""
    assert client.post("/detect", params={"conf": conf}, content=encoded("JPEG")).status_code == status
    (described,) = (
        one["schema"]
        for one in client.get("/openapi.json").json()["paths"]["/detect"]["post"]["parameters"]
        if one["name"] == "conf"
    )
    with contextlib.suppress(ValueError):
        assert jsonschema_rs.is_valid(described, float(conf)) == (status == 200)
        return
    assert jsonschema_rs.is_valid(described, conf) == (status == 200)


def test_a_name_with_the_signs_of_patterns_in_it_is_described() -> None:
    pattern = _thresholds(["a+(b)", "c.d", "[e]\\"])
    for text in ("a+(b)=0.1", "0.4,c.d=1.0", "[e]\\=0,a+(b)=1"):
        assert jsonschema_rs.is_valid({"pattern": pattern}, text)
    assert not jsonschema_rs.is_valid({"pattern": pattern}, "cxd=0.1")


def test_every_code_that_is_described_has_that_status() -> None:
    for status, answer in DETECT_URL["responses"].items():
        if status != 200:
            codes = answer["content"]["application/json"]["schema"]["properties"]["error"]["properties"]["code"]["enum"]
            assert {REQUEST_ERRORS[code].status for code in codes} == {status}
            assert answer["description"] == ", ".join(codes)


def test_a_missing_key_does_not_fit() -> None:
    """The description is strict: what `/info` always has is required."""
    schema = INFO_ANSWERS["responses"][200]["content"]["application/json"]["schema"]
    jsonschema_rs.validate(schema, INFO.to_json())
    for key in INFO.to_json():
        with pytest.raises(jsonschema_rs.ValidationError):
            jsonschema_rs.validate(schema, {name: value for name, value in INFO.to_json().items() if name != key})


RESULT = DETECT_URL["responses"][200]["content"]["application/json"]["schema"]


def answer_with(**found: Any) -> dict[str, Any]:
    one = {"class": "a", "coordinates": [1, 2, 3, 4], "confidence": 0.5, "class_id": 0, **found}
    answer: dict[str, Any] = dict(DetectionResult((), 640, 480, INFO.model).to_json())
    return {**answer, "objects": [one]}


@pytest.mark.parametrize(
    ("key", "value", "wrong"),
    [
        ("mask", [[1.5, 2, 3, 4, 5, 6]], [[1, 2, 3, 4]]),
        ("keypoints", [[1, 2, 0.5], [3, 4]], [[1, 2, 0.5, 0]]),
        ("corners", [[1, 2], [3, 4], [5, 6], [7, -8]], [[1, 2], [3, 4], [5, 6]]),
        ("angle", -0.5, "0.5 rad"),
    ],
)
def test_what_other_tasks_tell_of_an_object_is_described(key: str, value: object, wrong: object) -> None:
    """With its shape, its units, and nothing of it required; the task itself is one of five."""
    jsonschema_rs.validate(RESULT, answer_with(**{key: value}))
    with pytest.raises(jsonschema_rs.ValidationError):
        jsonschema_rs.validate(RESULT, answer_with(**{key: wrong}))
    assert RESULT["properties"]["objects"]["items"]["properties"][key]["description"]
    task = RESULT["properties"]["model"]["properties"]["task"]
    assert task == {"enum": ["detect", "segment", "pose", "obb", "classify"]}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "task"), [("v8-seg", "segment"), ("v8-pose", "pose"), ("v8-cls", "classify"), ("v8-obb", "obb")]
)
def test_an_answer_of_another_task_is_as_described(
    tiny_compiled: Callable[[str], CompiledModel], name: str, task: Task
) -> None:
    """And is read back by the client as it was sent."""
    pixels, _ = next(shapes.pictures(task))
    with served(tiny_compiled(name), imgsz=128, info=replace(BASE, task=task)) as port:
        answer = httpx.post(
            f"http://127.0.0.1:{port}/detect", content=cv2.imencode(".png", pixels)[1].tobytes(), trust_env=False
        ).json()
    jsonschema_rs.validate(RESULT, answer)
    assert DetectionResult.from_json(answer).to_json() == answer
    told = {"segment": {"mask"}, "pose": {"keypoints"}, "obb": {"corners", "angle"}}.get(task, set())
    assert answer["objects"]
    for one in answer["objects"]:
        assert one.keys() == {"class", "coordinates", "confidence", "class_id"} | told


@dataclass
class _Part:
    name: str | None


@dataclass
class _Whole:
    kind: Literal["a", "b"]
    parts: list[_Part]
    share: Annotated[float, {"minimum": 0}]
    by_name: dict[str, int]
    loose: Annotated[dict[str, Any], _Part]


def test_a_schema_is_made_of_a_dataclass() -> None:
    part = {
        "type": "object",
        "required": ["name"],
        "properties": {"name": {"anyOf": [{"type": "string"}, {"type": "null"}]}},
    }
    assert schema_of(_Whole)["properties"] == {
        "kind": {"enum": ["a", "b"]},
        "parts": {"type": "array", "items": part},
        "share": {"type": "number", "minimum": 0},
        "by_name": {"type": "object", "additionalProperties": {"type": "integer"}},
        "loose": part,
    }
