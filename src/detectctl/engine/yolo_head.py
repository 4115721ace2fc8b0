"""The last step of a YOLOv8 head: from raw logits to boxes, for the few anchors above the threshold.

After `Detect._get_decode_boxes` of ultralytics 8.4.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


# Its sigmoid is effectively 0; computing that of a lower one would overflow.
_NEVER = np.float32(-80)


def least_logit(confidence: float) -> float:
    """Anchors whose greatest logit is above this are worth handing to `boxes`; a little low, since `boxes` decides."""
    if confidence <= 0:
        return -math.inf
    return math.log(confidence / (1 - confidence)) - 0.001 if confidence < 1 else math.inf


def boxes(
    distances: NDArray[np.float32],
    logits: NDArray[np.float32],
    anchors: NDArray[np.intp],
    *,
    confidence: float,
    shape: Sequence[int],
    strides: Sequence[int],
) -> NDArray[np.float32]:
    """The candidates among some anchors: those whose greatest class confidence is above `confidence`.

    Args:
        distances: (4 * bins, n): logits of the distances from the anchor left, up, right and down, in strides.
        logits: (classes, n): their sigmoid is the confidence.
        anchors: (n,): which anchors these are, counted level by level and row by row.
        confidence: threshold from 0 to 1.
        shape: height and width of the network's input in pixels.
        strides: pixels between the anchors of each level.

    Returns:
        (4 + classes, candidates): centre x, y, width, height in input pixels, then confidences.
    """
    scores = 1 / (1 + np.exp(-np.maximum(logits, _NEVER)))
    above = scores.max(axis=0, initial=0) > np.float32(confidence)
    scores, distances, anchors = scores[:, above], distances[:, above], anchors[above]

    bins = len(distances) // 4
    weights = distances.reshape(4, bins, -1)
    weights = np.exp(weights - weights.max(axis=1, keepdims=True))
    left, up, right, down = np.arange(bins, dtype=np.float32) @ weights / weights.sum(axis=1)
    x, y, stride = _anchors(shape[0], shape[1], tuple(strides))[:, anchors]
    centre_x, centre_y = x + (right - left) / 2, y + (down - up) / 2
    return np.concatenate((np.stack((centre_x, centre_y, left + right, up + down)) * stride, scores))


@lru_cache(maxsize=64)
def _anchors(height: int, width: int, strides: tuple[int, ...]) -> NDArray[np.float32]:
    """(3, anchors): centre x and y in strides, and the stride."""
    levels = []
    for stride in strides:
        y, x = np.mgrid[0 : height // stride, 0 : width // stride].reshape(2, -1) + 0.5
        levels.append((x, y, np.full_like(x, stride)))
    return np.concatenate(levels, axis=1).astype(np.float32)
