"""The last step of a head: from what the network gives to objects, for the few places above the threshold.

After `Detect._get_decode_boxes`, `Pose26.kpts_decode`, `dist2rbox` and `RTDETRDecoder.postprocess` of ultralytics 8.4.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from detectctl.engine.trained import Head, Trained


# Its sigmoid is effectively 0; computing that of a lower one would overflow.
_NEVER = np.float32(-80)


@dataclass(frozen=True, slots=True)
class Raw:
    """What a network gave for `n` of the places of one image, all float32.

    Attributes:
        places: (n,): which these are; anchors are counted level by level and row by row.
        sides: (4 * bins, n): the boxes, as `Head` says. Of anchors, distances left, up, right and down in strides: each
            the mean of its bins' numbers, weighted by the softmax of their logits, or plain where there is one bin.
        classes: (classes, n): confidences, or for anchors their logits.
        extras: (numbers, n), by the task: coefficients of the prototypes; x and y of each keypoint in strides from the
            anchor, with the logit of a confidence where there is one; the angle in radians. No rows for the others.
        prototypes: (coefficients, height, width): of the masks of the whole image; None for other tasks.
    """

    places: NDArray[np.intp]
    sides: NDArray[np.float32]
    classes: NDArray[np.float32]
    extras: NDArray[np.float32]
    prototypes: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class Candidates:
    """The `n` places of an image that may be objects, all float32, lengths in input pixels.

    Attributes:
        boxes: (4, n): centre x, y, width, height; of a rotated box along its own sides.
        scores: (classes, n): confidences.
        extras: (numbers, n): as in `Raw`, but for keypoints x, y and confidence of each.
        prototypes: as in `Raw`.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    extras: NDArray[np.float32]
    prototypes: NDArray[np.float32] | None = None


def whole(classes: NDArray[np.float32], shape: Sequence[int]) -> Candidates:
    """An image of height and width `shape` as the one candidate, by its confidences (classes,)."""
    height, width = shape
    box = np.array([[width / 2], [height / 2], [width], [height]], np.float32)
    return Candidates(box, classes[:, np.newaxis].copy(), np.empty((0, 1), np.float32))


def least(head: Head, confidence: float) -> float:
    """Places whose greatest class is above this are worth handing to `decode`; a little low, since `decode` decides."""
    if head.kind != "anchors":
        return confidence - 0.001
    if confidence <= 0:
        return -math.inf
    return math.log(confidence / (1 - confidence)) - 0.001 if confidence < 1 else math.inf


def decode(trained: Trained, raw: Raw, *, confidence: float, shape: Sequence[int]) -> Candidates:
    """The candidates among some places: those whose greatest class confidence is above `confidence`, from 0 to 1.

    `shape` is height and width of the network's input in pixels.
    """
    head = trained.head
    classes, sides, extras, places = raw.classes, raw.sides, raw.extras, raw.places
    if not places.size:  # what follows takes as long for nothing as for one object
        return Candidates(sides[:4], classes, extras)
    scores = _sigmoid(classes) if head.kind == "anchors" else classes
    above = scores.max(axis=0, initial=0) > np.float32(confidence)
    if not above.all():
        scores, sides, extras, places = scores[:, above], sides[:, above], extras[:, above], places[above]
    if head.kind == "queries":
        height, width = shape
        sides = sides * np.array([[width], [height], [width], [height]], np.float32)
        return Candidates(sides, scores, extras)
    if head.kind == "decoded":
        return Candidates(sides, scores, extras, raw.prototypes)

    x, y, stride = _anchors(shape[0], shape[1], head.strides)[:, places]
    left, up, right, down = _distances(sides)
    ahead, below = (right - left) / 2, (down - up) / 2
    if trained.task == "obb":
        cosine, sine = np.cos(extras[0]), np.sin(extras[0])
        ahead, below = ahead * cosine - below * sine, ahead * sine + below * cosine
    elif trained.task == "pose":
        extras = _keypoints(extras, trained.keypoints, x, y, stride)
    boxes = np.stack((x + ahead, y + below, left + right, up + down)) * stride
    return Candidates(boxes, scores, extras, raw.prototypes)


def _sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    return (1 / (1 + np.exp(-np.maximum(logits, _NEVER)))).astype(np.float32, copy=False)


def _distances(sides: NDArray[np.float32]) -> NDArray[np.float32]:
    """(4, n): left, up, right and down."""
    bins = len(sides) // 4
    if bins > 1:
        weights = sides.reshape(4, bins, -1)
        weights = np.exp(weights - weights.max(axis=1, keepdims=True))
        # Not by `@`, as in `objects`.
        sides = np.einsum("b,sbn->sn", np.arange(bins, dtype=np.float32), weights) / weights.sum(axis=1)
    return sides


def _keypoints(
    extras: NDArray[np.float32],
    shape: tuple[int, int],
    x: NDArray[np.float32],
    y: NDArray[np.float32],
    stride: NDArray[np.float32],
) -> NDArray[np.float32]:
    points = extras.reshape(*shape, -1).copy()
    points[:, 0] = (points[:, 0] + x) * stride
    points[:, 1] = (points[:, 1] + y) * stride
    points[:, 2:] = _sigmoid(points[:, 2:])
    return points.reshape(extras.shape)


@lru_cache(maxsize=64)
def _anchors(height: int, width: int, strides: tuple[int, ...]) -> NDArray[np.float32]:
    """(3, anchors): centre x and y in strides, and the stride."""
    levels = []
    for stride in strides:
        y, x = np.mgrid[0 : height // stride, 0 : width // stride].reshape(2, -1) + 0.5
        levels.append((x, y, np.full_like(x, stride)))
    return np.concatenate(levels, axis=1).astype(np.float32)
