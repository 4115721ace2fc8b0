from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pycocotools.coco import COCO

from detectctl.client.formats import WRITERS, write_coco, write_jsonl
from detectctl.client.outcomes import Outcome
from detectctl.errors import ImageTooLarge, SourceUnreadable
from detectctl.sources import Source
from detectctl.wire import Detection, DetectionResult, ModelInfo

if TYPE_CHECKING:
    from collections.abc import Iterator

MODEL = ModelInfo("yolov8n", "v3", "sha256:00", reference="acme/p/yolo:prod")
BUS = Detection("bus", (22.871, 231.278, 805.0, 756.84), 0.87345, 5)
PERSON = Detection("person, walking", (48.55, 398.5, 245.3, 902.7), 0.865, 0)
FOUND = Outcome(Source("a.jpg", path=Path("a.jpg")), DetectionResult((BUS, PERSON), 810, 1080, MODEL))
NONE = Outcome(Source("http://h/b.jpg", url="http://h/b.jpg"), DetectionResult((), 640, 480, MODEL))
TOO_LARGE = ImageTooLarge("too large", why="21 MiB", hint="send a smaller one")
TOO_LARGE.request_id = "7"
REFUSED = Outcome(Source("c.jpg", path=Path("c.jpg")), error=TOO_LARGE)
MISSING = Outcome(Source("d.jpg"), error=SourceUnreadable("no such file"))
ALL = [FOUND, NONE, REFUSED, MISSING]


def written(name: str, outcomes: list[Outcome] = ALL) -> str:
    stream = io.StringIO()
    WRITERS[name](iter(outcomes), stream, dict)
    return stream.getvalue()


def test_json_and_jsonl_hold_the_same_records_in_the_services_own_shape() -> None:
    expected = [
        {
            "source": "a.jpg",
            "status": "found",
            "objects": [
                {"class": "bus", "coordinates": [22.87, 231.28, 805.0, 756.84], "confidence": 0.8734, "class_id": 5},
                {
                    "class": "person, walking",
                    "coordinates": [48.55, 398.5, 245.3, 902.7],
                    "confidence": 0.865,
                    "class_id": 0,
                },
            ],
            "image": {"width": 810, "height": 1080},
            "model": MODEL.to_json(),
        },
        {
            "source": "http://h/b.jpg",
            "status": "not found",
            "objects": [],
            "image": {"width": 640, "height": 480},
            "model": MODEL.to_json(),
        },
        {
            "source": "c.jpg",
            "status": "error",
            "error": {"code": "image_too_large", "message": "too large", "why": "21 MiB", "hint": "send a smaller one"},
            "request_id": "7",
        },
        {
            "source": "d.jpg",
            "status": "error",
            "error": {"code": "source_unreadable", "message": "no such file", "why": None, "hint": None},
            "request_id": None,
        },
    ]
    assert json.loads(written("json")) == expected
    assert [json.loads(line) for line in written("jsonl").splitlines()] == expected


@pytest.mark.parametrize("outcomes", [[], [FOUND]])
def test_json_is_an_array_also_for_one_source_and_for_none(outcomes: list[Outcome]) -> None:
    assert len(json.loads(written("json", outcomes))) == len(outcomes)


def test_a_line_of_jsonl_reaches_the_reader_before_the_next_source_is_done() -> None:
    class Stream(io.StringIO):
        flushed = ""

        def flush(self) -> None:
            self.flushed = self.getvalue()

    stream = Stream()

    def outcomes() -> Iterator[Outcome]:
        yield NONE
        assert json.loads(stream.flushed)["source"] == NONE.source.name
        yield REFUSED

    write_jsonl(outcomes(), stream, dict)


def test_csv_has_a_row_for_each_detection_and_one_for_each_source_without() -> None:
    rows = list(csv.DictReader(io.StringIO(written("csv"))))
    assert [(row["source"], row["status"], row["class"], row["error_code"]) for row in rows] == [
        ("a.jpg", "found", "bus", ""),
        ("a.jpg", "found", "person, walking", ""),
        ("http://h/b.jpg", "not found", "", ""),
        ("c.jpg", "error", "", "image_too_large"),
        ("d.jpg", "error", "", "source_unreadable"),
    ]
    assert [rows[0][name] for name in ("x1", "y1", "x2", "y2")] == ["22.87", "231.28", "805.0", "756.84"]
    assert rows[2]["image_width"] == "640"
    assert [rows[3][f"error_{name}"] for name in ("message", "why", "hint")] == [
        "too large",
        "21 MiB",
        "send a smaller one",
    ]
    assert None not in rows[0]
    assert None not in rows[0].values()


def test_coco_is_what_pycocotools_loads(tmp_path: Path) -> None:
    (tmp_path / "coco.json").write_text(written("coco"))
    coco = COCO(str(tmp_path / "coco.json"))
    assert [image["file_name"] for image in coco.loadImgs(coco.getImgIds())] == ["a.jpg", "http://h/b.jpg"]
    assert {category["id"]: category["name"] for category in coco.loadCats(coco.getCatIds())} == {
        0: "person, walking",
        5: "bus",
    }
    (bus,) = coco.loadAnns(coco.getAnnIds(catIds=[5]))
    assert bus["bbox"] == [22.87, 231.28, 782.13, 525.56]
    assert bus["area"] == pytest.approx(782.129 * 525.562, abs=0.01)
    assert (bus["image_id"], bus["iscrowd"], bus["score"]) == (1, 0, 0.8734)
    assert [error["code"] for error in coco.dataset["info"]["errors"]] == ["image_too_large", "source_unreadable"]


def test_cocos_results_can_be_evaluated_against_a_ground_truth_with_the_same_categories(tmp_path: Path) -> None:
    """Detections that are their own ground truth are rated as perfect by pycocotools."""
    from pycocotools.cocoeval import COCOeval

    (tmp_path / "coco.json").write_text(written("coco"))
    truth = COCO(str(tmp_path / "coco.json"))
    evaluation = COCOeval(truth, truth.loadRes(truth.dataset["annotations"]), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0)


def test_cocos_categories_are_all_of_the_models_classes_where_they_are_known() -> None:
    stream = io.StringIO()
    write_coco(iter([FOUND]), stream, lambda: {0: "person", 1: "bicycle", 5: "bus"})
    categories = json.loads(stream.getvalue())["categories"]
    assert [(category["id"], category["name"]) for category in categories] == [
        (0, "person"),
        (1, "bicycle"),
        (5, "bus"),
    ]


def test_an_annotated_images_record_names_its_file() -> None:
    by_server = Outcome(NONE.source, output=Path("out/b.jpg"))
    assert json.loads(written("jsonl", [by_server])) == {"source": "http://h/b.jpg", "output": "out/b.jpg"}
    assert written("csv", [by_server]).splitlines()[1].startswith("http://h/b.jpg,")
