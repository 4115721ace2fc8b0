"""A result in the types of the package `supervision`, laid out as its `from_ultralytics` does."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw

from detectctl.errors import NotInstalled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from detectctl.wire import Detection, DetectionResult


def converted(result: DetectionResult) -> Any:
    """What `DetectionResult.to_supervision` promises."""
    try:
        import supervision
    except ImportError as error:
        raise NotInstalled(
            "the result cannot be given to supervision",
            why=f"the package is not installed here, or does not load: {error}",
            hint="install it: `pip install 'detectctl[supervision]'`",
        ) from error
    found = result.detections
    class_id = np.array([each.class_id for each in found], int)
    confidence = np.array([each.confidence for each in found], np.float32)
    if result.model.task == "classify":
        return supervision.Classifications(class_id, confidence)
    data: dict[str, Any] = {"class_name": np.array([each.class_name for each in found], str)}
    xyxy = np.array([each.xyxy for each in found], np.float32).reshape(-1, 4)
    if result.model.task == "pose":
        return _key_points(supervision, found, class_id, confidence, data | {"xyxy": xyxy})
    if result.model.task == "obb":
        data["xyxyxyxy"] = np.array([each.corners for each in found], np.float32).reshape(-1, 4, 2)
    masks = _masks(found, result.width, result.height) if result.model.task == "segment" and found else None
    return supervision.Detections(xyxy, masks, confidence, class_id, data=data)


def _key_points(
    supervision: Any,
    found: Sequence[Detection],
    class_id: NDArray[Any],
    confidence: NDArray[Any],
    data: dict[str, Any],
) -> Any:
    if not found:
        return supervision.KeyPoints.empty()
    points = np.array([each.keypoints for each in found], np.float32)
    sure = points[:, :, 2] if points.shape[2] == 3 else None
    return supervision.KeyPoints(
        xy=points[:, :, :2],
        class_id=class_id,
        keypoint_confidence=sure,
        detection_confidence=confidence,
        data=data,
    )


def _masks(found: Sequence[Detection], width: int, height: int) -> NDArray[np.bool_]:
    """Of each object the pixels within its outlines and on them; shape (objects, height, width)."""
    masks = np.zeros((len(found), height, width), bool)  # of which only what is written to takes memory
    for mask, each in zip(masks, found, strict=True):
        rows = [value for outline in each.mask or () for value in outline[1::2]] or [0.0]
        top, bottom = max(0, math.floor(min(rows))), min(height, math.ceil(max(rows)) + 1)
        part = Image.new("1", (width, max(0, bottom - top)))
        for outline in each.mask or ():
            ImageDraw.Draw(part).polygon([value - top * (place % 2) for place, value in enumerate(outline)], 1)
        mask[top:bottom] = part
    return masks
