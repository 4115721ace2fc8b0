"""The models of Ultralytics' release by name: a family, a size, and what the model is for.

They follow the scheme by which Ultralytics itself tells its assets from other files (`ultralytics.utils.downloads`).
"""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING

from detectctl.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from detectctl.wire import Task

DEFAULT_BASE = "yolov8n"
ENDINGS: dict[Task, str] = {"detect": "", "segment": "-seg", "pose": "-pose", "obb": "-obb", "classify": "-cls"}
"""What a name ends in whose model is for a task."""

_SCHEME = (
    ("yolov8", "nsmlx", (*ENDINGS.values(), "-oiv7")),
    ("yolo11", "nsmlx", ENDINGS.values()),
    ("yolo12", "nsmlx", ("",)),
    ("yolo26", "nsmlx", (*ENDINGS.values(), "-distill", "-objv1-150", "-objv1-seg")),
    ("yolov10", "nsmblx", ("",)),
    ("yolov9", "tsmce", ("",)),
    ("yolov9", "ce", ("-seg",)),
    ("yolov5", "nsmlx", ("u", "6u")),
    ("yolov3", ("", "-spp", "-tiny"), ("u",)),
    ("rtdetr-", "lx", ("",)),
    ("FastSAM-", "sx", ("",)),
    ("yolov8x-pose-p6", ("",), ("",)),
    ("yolo11n-grayscale", ("",), ("",)),
)
"""Families with their sizes and endings."""

_UNSERVED = {
    r"yoloe-(v8|11|26).-seg(-pf)?|yolov8.-world(v2)?": "it is an open-vocabulary model",
    r"yolo26.-sem(-ade20k)?": "it gives a class to each pixel (semantic segmentation)",
    r"yolo26.-depth": "it estimates distances (depth)",
    r"yolo26.-reid": "it recognises an object that was seen before (re-identification)",
    r"sam(2|2\.1)?_[tsbl]|mobile_sam": "it segments what a prompt points at (SAM)",
    r"yolo_nas_.": "it is of another package than Ultralytics' (YOLO-NAS)",
    r"mobileclip2?_(b|blt)": "it encodes texts for other models (MobileCLIP)",
}
"""The other models of the release, and what each is instead."""


def _names() -> Iterator[str]:
    for family, sizes, endings in _SCHEME:
        for ending in endings:
            yield from (f"{family}{size}{ending}" for size in sizes)


BASE_NAMES = tuple(_names())


def refuse_unserved(name: str) -> None:
    """UsageError if this is a model of Ultralytics' release that is not served, and no base model."""
    for pattern, what in _UNSERVED.items():
        if re.fullmatch(pattern, name) and name not in BASE_NAMES:
            hint = f"serve a model for one of the tasks {', '.join(ENDINGS)}, such as {DEFAULT_BASE}-seg"
            raise UsageError(f"Ultralytics' {name} is not served", why=what, hint=hint)


def nearest(name: str) -> list[str]:
    """The base models, at most five, whose names resemble this one; only one if nothing but the case differs."""
    known = {each.lower(): each for each in ("base", *BASE_NAMES)}
    if name.lower() in known:
        return [known[name.lower()]]
    near = difflib.get_close_matches(name.lower(), known, n=5, cutoff=0.7)
    return [known[each] for each in known if each in near]
