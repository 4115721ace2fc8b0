"""Outcomes as text for other programs, one writer per format.

json and jsonl have one record per source: `{"source": NAME, …the body of /detect}`, or `{"source": NAME, "status":
"error", "error": {"code": …, "message": …}}`. json is an array of them, also for one source. Both are written as the
outcomes come; jsonl reaches the reader with each line.

csv has one row per detection, one without a box for a source without detections, and one with an error for a source
that failed.

coco is a data set in COCO's format (https://cocodataset.org/#format-data), with `score` added as in its result format:
boxes are `[x, y, width, height]`, ids count from 1, a category's id is the model's class id. Sources that failed are in
`info.errors`, as COCO has no place for them.
"""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING, Any, TextIO

from detectctl.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from detectctl.client.outcomes import Outcome
    from detectctl.errors import DetectctlError

    Labels = Callable[[], Mapping[int, str]]
    """All class names of the model by class id; asked for by the formats that list them."""

CSV_COLUMNS = (
    "source", "status", "class", "class_id", "confidence", "x1", "y1", "x2", "y2", "image_width", "image_height",
    "error_code", "error_message",
)  # fmt: skip


def record(outcome: Outcome) -> dict[str, Any]:
    """One source's outcome as JSON data."""
    if outcome.error is not None:
        return {"source": outcome.source.name, "status": "error", "error": error_data(outcome.error)}
    data: dict[str, Any] = {"source": outcome.source.name}
    if outcome.result is not None:
        data |= outcome.result.to_json()
    if outcome.output is not None:
        data["output"] = str(outcome.output)
    return data


def error_data(error: DetectctlError) -> dict[str, str]:
    """The service's code for its own answers, else the error's name in snake case (`source_unreadable`)."""
    code = error.code if isinstance(error, RequestError) else _snake_case(type(error).__name__)
    return {"code": code, "message": error.what + (f": {error.why}" if error.why else "")}


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
    if outcome.error is not None:
        return [row | {f"error_{key}": value for key, value in data["error"].items()}]
    if outcome.result is None:
        return [row]
    row |= {"image_width": outcome.result.width, "image_height": outcome.result.height}
    rows = []
    for found in data["objects"]:
        x1, y1, x2, y2 = found.pop("coordinates")
        rows.append(row | found | {"x1": x1, "y1": y1, "x2": x2, "y2": y2})
    return rows or [row]


def write_coco(outcomes: Iterable[Outcome], stream: TextIO, labels: Labels) -> None:
    """One COCO data set.

    Args:
        outcomes: held until the end as far as the data set needs them.
        stream: written once, at the end.
        labels: asked for once, before anything else, so that a service that is not there is noticed at once.
    """
    names = dict(labels())
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    errors: list[dict[str, Any]] = []
    models: list[dict[str, Any]] = []
    for outcome in outcomes:
        if outcome.error is not None:
            errors.append({"source": outcome.source.name, **error_data(outcome.error)})
        if outcome.result is None:
            continue
        result = outcome.result
        image = {
            "id": len(images) + 1,
            "file_name": outcome.source.name,
            "width": result.width,
            "height": result.height,
        }
        if outcome.source.url is not None:
            image["coco_url"] = outcome.source.url
        images.append(image)
        model = result.model.to_json()
        if model not in models:
            models.append(dict(model))
        for detection in result.detections:
            names.setdefault(detection.class_id, detection.class_name)
            x1, y1, x2, y2 = detection.xyxy
            width, height = x2 - x1, y2 - y1
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": len(images),
                    "category_id": detection.class_id,
                    "bbox": [round(value, 2) for value in (x1, y1, width, height)],
                    "area": round(width * height, 2),
                    "iscrowd": 0,
                    "score": round(detection.confidence, 4),
                }
            )
    json.dump(
        {
            "info": {"description": "detections by detectctl", "models": models, "errors": errors},
            "licenses": [],
            "images": images,
            "annotations": annotations,
            "categories": [
                {"id": class_id, "name": name, "supercategory": ""} for class_id, name in sorted(names.items())
            ],
        },
        stream,
    )
    stream.write("\n")


WRITERS: dict[str, Callable[[Iterable[Outcome], TextIO, Labels], None]] = {
    "json": write_json,
    "jsonl": write_jsonl,
    "csv": write_csv,
    "coco": write_coco,
}
"""The writer of each `--format` that is for programs."""


def _snake_case(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")
