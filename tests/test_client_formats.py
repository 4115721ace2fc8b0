from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pycocotools.coco import COCO

from detectctl import coco_pose
from detectctl.client.formats import CSV_COLUMNS, WRITERS, write_coco, write_jsonl
from detectctl.client.outcomes import Outcome
from detectctl.errors import ImageTooLarge, SourceUnreadable
from detectctl.sources import Source
from detectctl.wire import Detection, DetectionResult, ModelInfo

if TYPE_CHECKING:
    from collections.abc import Iterator

    from detectctl.wire import Task

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


def outcome(task: Task, *detections: Detection, truncated: bool = False) -> Outcome:
    model = ModelInfo("m", "v1", "sha256:00", task=task)
    return Outcome(Source("a.jpg", path=Path("a.jpg")), DetectionResult(detections, 640, 480, model, truncated))


SEGMENT = outcome(
    "segment",
    Detection(
        "ring",
        (10, 10, 110, 60),
        0.9,
        0,
        mask=((10, 10, 60, 10, 60, 60, 10, 60), (90.5, 20, 110, 20, 110, 40, 90.5, 40)),
    ),
    Detection("dot", (200, 200, 203, 203), 0.5, 1, mask=((200, 200, 203, 200, 203, 203),)),
    truncated=True,
)
PERSON_POINTS = tuple((10.0 + 20 * number, 20.0 + 10 * number, 0.3 if number < 5 else 0.9) for number in range(17))
POSE = outcome("pose", Detection("person", (5, 5, 400, 300), 0.9, 0, keypoints=PERSON_POINTS))
OBB = outcome(
    "obb",
    Detection("ship", (50, 50, 150, 150), 0.9, 2, corners=((100, 50), (150, 100), (100, 150), (50, 100)), angle=0.7854),
)
CLASSIFY = outcome("classify", *(Detection(name, (0, 0, 640, 480), 0.6 - n / 10, n) for n, name in enumerate("abcde")))


def coco_of(tmp_path: Path, one: Outcome) -> COCO:
    (tmp_path / "coco.json").write_text(written("coco", [one]))
    return COCO(str(tmp_path / "coco.json"))


@pytest.mark.parametrize(("one", "kind"), [(SEGMENT, "segm"), (OBB, "segm"), (POSE, "keypoints"), (CLASSIFY, "bbox")])
def test_what_a_model_of_another_task_finds_is_its_own_ground_truth(tmp_path: Path, one: Outcome, kind: str) -> None:
    """By pycocotools' own evaluation of masks and keypoints."""
    from pycocotools.cocoeval import COCOeval

    truth = coco_of(tmp_path, one)
    evaluation = COCOeval(truth, truth.loadRes(truth.dataset["annotations"]), kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0)


PYCOCOTOOLS_AND_NUMPY_2 = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@PYCOCOTOOLS_AND_NUMPY_2
def test_cocos_masks_are_polygons_with_their_own_area(tmp_path: Path) -> None:
    coco = coco_of(tmp_path, SEGMENT)
    ring, dot = coco.loadAnns(coco.getAnnIds())
    assert ring["area"] == 50 * 50 + 19.5 * 20
    assert ring["bbox"] == [10, 10, 100, 50]
    assert coco.annToMask(ring).sum() == pytest.approx(ring["area"], rel=0.1)
    assert coco.annToMask(ring)[30, 75] == 0
    assert all(len(polygon) >= 6 for each in (ring, dot) for polygon in each["segmentation"])
    assert coco.loadImgs(1)[0]["truncated"] is True


@PYCOCOTOOLS_AND_NUMPY_2
def test_a_polygon_of_one_point_is_one_that_pycocotools_reads(tmp_path: Path) -> None:
    """A service may send one; pycocotools takes four numbers as a box, and fails at two."""
    one = outcome("segment", Detection("dot", (5, 5, 6, 6), 0.5, 1, mask=((5, 5), (6, 6, 7, 7))))
    coco = coco_of(tmp_path, one)
    (dot,) = coco.loadAnns(coco.getAnnIds())
    assert dot["segmentation"] == [[5, 5, 5, 5, 5, 5], [6, 6, 7, 7, 6, 6]]
    coco.annToMask(dot)


def test_a_rotated_box_is_a_polygon_in_coco(tmp_path: Path) -> None:
    coco = coco_of(tmp_path, OBB)
    (ship,) = coco.loadAnns(coco.getAnnIds())
    assert ship["segmentation"] == [[100, 50, 150, 100, 100, 150, 50, 100]]
    assert ship["area"] == 5000
    assert ship["bbox"] == [50, 50, 100, 100]


def test_cocos_persons_have_its_keypoints_and_skeleton(tmp_path: Path) -> None:
    """A point that the model is not sure of keeps its place, for an evaluation needs it, but is not visible."""
    coco = coco_of(tmp_path, POSE)
    (person,) = coco.loadAnns(coco.getAnnIds())
    assert person["keypoints"][:3] == [10, 20, 1]
    assert person["keypoints"][15:18] == [110, 70, 2]
    assert (len(person["keypoints"]), person["num_keypoints"]) == (51, 17)
    (category,) = coco.loadCats(coco.getCatIds())
    assert tuple(category["keypoints"]) == coco_pose.NAMES
    assert [16, 14] in category["skeleton"]
    assert {point for bone in category["skeleton"] for point in bone} == set(range(1, 18))


def test_keypoints_of_another_kind_are_numbered_and_have_no_skeleton(tmp_path: Path) -> None:
    """Without confidences, (0, 0) is what a model has learnt to give for a point that is not there."""
    one = outcome("pose", Detection("hand", (5, 5, 40, 40), 0.9, 0, keypoints=((10, 20), (0, 0), (30.5, 12))))
    coco = coco_of(tmp_path, one)
    (hand,) = coco.loadAnns(coco.getAnnIds())
    assert hand["keypoints"] == [10, 20, 2, 0, 0, 0, 30.5, 12, 2]
    assert hand["num_keypoints"] == 2
    (category,) = coco.loadCats(coco.getCatIds())
    assert (category["keypoints"], category["skeleton"]) == (["1", "2", "3"], [])


def test_csvs_columns_of_other_tasks_are_at_the_end() -> None:
    """So a reader by position still finds what was there before."""
    assert CSV_COLUMNS[14:16] == ("error_hint", "truncated")
    rows = {
        task: next(csv.DictReader(io.StringIO(written("csv", [one]))))
        for task, one in (("segment", SEGMENT), ("pose", POSE), ("obb", OBB), ("classify", CLASSIFY))
    }
    told = {task: {name: row[name] for name in CSV_COLUMNS[15:] if row[name]} for task, row in rows.items()}
    assert told["segment"] == {"truncated": "true", "mask_parts": "2", "mask_area": "2890.0"}
    assert told["pose"]["keypoints"].startswith("10.0 20.0 0.3; 30.0 30.0 0.3; ")
    assert told["obb"] == {"corners": "100 50; 150 100; 100 150; 50 100", "angle": "0.7854"}
    assert told["classify"] == {}
    assert rows["obb"]["x1"] == "50"
