"""Objects that two ways of running one model found in the same pictures: how far apart they are, by the task."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from detectctl.engine.letterbox import fit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from detectctl.engine.trained import Trained

Found = list[dict[str, Any]]
"""The objects of one picture, by the names of `wire.Detection`; a mask may be one of `predict_reference`."""


def apart(
    ours: dict[str, Any], theirs: dict[str, Any], picture: NDArray[np.uint8], trained: Trained
) -> dict[str, float]:
    """The greatest differences of two objects: pixels, confidences, radians, and what their masks lack of IoU 1."""
    found = {"confidence": abs(ours["confidence"] - theirs["confidence"])}
    for key in ("xyxy", "corners"):
        if theirs.get(key) is not None:
            found[key] = float(np.abs(np.array(ours[key]) - theirs[key]).max())
    if theirs.get("keypoints") is not None:
        points = np.abs(np.array(ours["keypoints"]) - theirs["keypoints"])
        found["keypoints"] = float(points[:, :2].max())
        found["visibility"] = float(points[:, 2:].max(initial=0))
    if theirs.get("angle") is not None:
        found["angle"] = abs(ours["angle"] - theirs["angle"])
    if theirs.get("mask") is not None:
        one, other = (_raster(each["mask"], picture, trained) for each in (ours, theirs))
        found["mask"] = 1 - float((one & other).sum() / (one | other).sum())
    return found


def pairs(ours: Found, theirs: Found) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Each of ours with the nearest of theirs of its class that is left; those without one are left out."""
    left = list(theirs)
    for one in ours:
        same = [other for other in left if other["class_id"] == one["class_id"]]
        if same:
            nearest = min(same, key=lambda other: np.abs(np.array(one["xyxy"]) - other["xyxy"]).max())
            left.remove(nearest)
            yield one, nearest


def _raster(mask: Any, picture: NDArray[np.uint8], trained: Trained) -> NDArray[np.bool_]:
    """A mask in the pixels of the network's input."""
    if isinstance(mask[-1], str):
        height, width, bits = mask
        flat = np.unpackbits(np.frombuffer(base64.b64decode(bits), np.uint8), count=height * width)
        return flat.reshape(height, width).astype(bool)
    box, placement = fit(picture, trained, trained.size(None))
    grid = np.zeros(box.shape[1:3], np.uint8)
    for polygon in mask:
        points = np.array(polygon).reshape(-1, 2) * placement.gain + placement.offset
        cv2.fillPoly(grid, [points.round().astype(np.int32)], (1,))
    return grid.astype(bool)
