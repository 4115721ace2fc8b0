"""Outcomes as text for other programs, one writer per format.

json and jsonl have one record per source: `{"source": NAME, …the body of /detect}`, or `{"source": NAME, "status":
"error", "error": {"code": …, "message": …, "why": …, "hint": …}, "request_id": …}`. json is an array of them, even for
one source. Both are written as the outcomes come; jsonl reaches the reader with each line.

csv has one row per detection, one without a box for a source without detections, and one with an error for a source
that failed. What models of other tasks than detection tell is in columns at the end: of a mask how many parts it has
and its area in square pixels; the numbers of a point are separated by spaces, points by semicolons.

coco is a data set in COCO's format (https://cocodataset.org/#format-data), with `score` added as in its result format:
boxes are `[x, y, width, height]`, ids count from 1, a category's id is the model's class id. Masks and rotated boxes
are polygons. A keypoint is visible (2) where the model is at least half sure or does not say; it keeps its place, as
labelled but not visible (1), where the model is less sure; and it is not labelled (0) at (0, 0), if the model does not
say: that is what it has learnt to give for one. Classes of a whole picture have all of it as their box, because COCO
has no other place for them. So have sources that failed, which are in `info.errors`, and `truncated`, which is in the
image.
"""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING, Any, TextIO

from detectctl import coco_pose
from detectctl.wire import error_body, error_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from detectctl.client.outcomes import Outcome
    from detectctl.wire import Detection, ModelInfo, Points

    Labels = Callable[[], Mapping[int, str]]
    """All class names of the model by class id; asked for by the formats that list them."""
    Writer = Callable[[Iterable[Outcome], TextIO, Labels], None]

CSV_COLUMNS = (
    "source", "status", "class", "class_id", "confidence", "x1", "y1", "x2", "y2", "image_width", "image_height",
    "error_code", "error_message", "error_why", "error_hint",
    "truncated", "mask_parts", "mask_area", "keypoints", "corners", "angle",
)  # fmt: skip


def record(outcome: Outcome) -> dict[str, Any]:
    """One source's outcome as JSON data."""
    data: dict[str, Any] = {"source": outcome.source.name}
    if outcome.error is not None:
        return data | error_body(outcome.error) | {"request_id": outcome.error.request_id}
    if outcome.result is not None:
        data |= outcome.result.to_json()
    if outcome.output is not None:
        data["output"] = str(outcome.output)
    return data


def write_json(outcomes: Iterable[Outcome], stream: TextIO, _: Labels) -> None:
    """One JSON array."""
    separator = "["
    for outcome in outcomes:
        stream.write(f"{separator}\n{json.dumps(record(outcome))}")
        separator = ","
    stream.write("[]\n" if separator == "[" else "\n]\n")


def write_jsonl(outcomes: Iterable[Outcome], stream: TextIO, _: Labels) -> None:
    """One JSON object per line."""
    for outcome in outcomes:
        stream.write(json.dumps(record(outcome)) + "\n")
        stream.flush()


def write_csv(outcomes: Iterable[Outcome], stream: TextIO, _: Labels) -> None:
    """A header and rows, with the line ends of the platform's text files."""
    writer = csv.DictWriter(stream, CSV_COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for outcome in outcomes:
        writer.writerows(_rows(outcome))


def _rows(outcome: Outcome) -> list[dict[str, Any]]:
    data = record(outcome)
    row: dict[str, Any] = {"source": data["source"], "status": data.get("status", "")}
    row |= {f"error_{key}": value or "" for key, value in data.get("error", {}).items()}
    row |= {f"image_{key}": value for key, value in data.get("image", {}).items()}
    if data.get("truncated"):
        row["truncated"] = "true"
    detections = () if outcome.result is None else outcome.result.detections
    return [row | _cells(detection) for detection in detections] or [row]


def _cells(detection: Detection) -> dict[str, Any]:
    found: dict[str, Any] = dict(detection.to_json())
    cells = dict(zip(("x1", "y1", "x2", "y2"), found.pop("coordinates"), strict=True))
    if (mask := found.pop("mask", None)) is not None:
        cells |= {"mask_parts": len(mask), "mask_area": round(detection.area, 2)}
    for name in {"keypoints", "corners"} & found.keys():
        found[name] = "; ".join(" ".join(map(str, point)) for point in found[name])
    return found | cells


def write_coco(outcomes: Iterable[Outcome], stream: TextIO, labels: Labels) -> None:
    """One COCO data set, written at the end; `labels` is called first, so that a missing service is noticed at once."""
    names = dict(labels())
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    errors: list[dict[str, Any]] = []
    models: dict[ModelInfo, None] = {}  # a set in order
    pose: dict[str, Any] = {}
    for outcome in outcomes:
        source, result = outcome.source, outcome.result
        if outcome.error is not None:
            errors.append({"source": source.name, **error_json(outcome.error)})
        if result is None:
            continue
        url = {} if source.url is None else {"coco_url": source.name}  # which has no password in it
        image = {"id": len(images) + 1, "file_name": source.name, "width": result.width, "height": result.height}
        images.append(image | url | ({"truncated": True} if result.truncated else {}))
        models[result.model] = None
        for detection in result.detections:
            names.setdefault(detection.class_id, detection.class_name)
            pose = pose or _coco_pose(len(detection.keypoints or ()))
            annotations.append(_coco_annotation(len(annotations) + 1, len(images), detection))
    info = {"description": "detections by detectctl", "models": [one.to_json() for one in models], "errors": errors}
    categories = [
        {"id": class_id, "name": name, "supercategory": ""} | pose for class_id, name in sorted(names.items())
    ]
    data = {"info": info, "licenses": [], "images": images, "annotations": annotations, "categories": categories}
    stream.write(json.dumps(data) + "\n")


def _coco_pose(count: int) -> dict[str, Any]:
    """What a category has where its objects have this many keypoints; a skeleton counts from 1."""
    if not count:
        return {}
    if count == len(coco_pose.NAMES):
        return {"keypoints": coco_pose.NAMES, "skeleton": [[one + 1, other + 1] for one, other in coco_pose.LIMBS]}
    return {"keypoints": [str(number + 1) for number in range(count)], "skeleton": []}


def _coco_annotation(annotation_id: int, image_id: int, detection: Detection) -> dict[str, Any]:
    x1, y1, x2, y2 = detection.xyxy
    data: dict[str, Any] = {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": detection.class_id,
        "bbox": [round(value, 2) for value in (x1, y1, x2 - x1, y2 - y1)],
        "area": round(detection.area, 2),
        "iscrowd": 0,
        "score": round(detection.confidence, 4),
    }
    found = detection.to_json()
    if "corners" in found:
        data["segmentation"] = [[value for corner in found["corners"] for value in corner]]
    if "mask" in found:
        # pycocotools reads no polygon of less than three points.
        data["segmentation"] = [(outline * 3)[: max(6, len(outline))] for outline in found["mask"]]
    if "keypoints" in found:
        points = [_coco_keypoint(point) for point in found["keypoints"]]
        data["keypoints"] = [value for point in points for value in point]
        data["num_keypoints"] = sum(point[2] > 0 for point in points)
    return data


def _coco_keypoint(point: Sequence[float]) -> Points:
    x, y, *confidence = point
    if confidence:
        return x, y, 2 if confidence[0] >= coco_pose.SEEN else 1
    return x, y, 2 if (x, y) != (0, 0) else 0


WRITERS: dict[str, Writer] = {"json": write_json, "jsonl": write_jsonl, "csv": write_csv, "coco": write_coco}
"""The writer of each `--format` that is for programs."""
