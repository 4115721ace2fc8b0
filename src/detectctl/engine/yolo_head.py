"""The last step of a head: from what the network gives to boxes, for the few places above the threshold.

After `Detect._get_decode_boxes` and `RTDETRDecoder.postprocess` of ultralytics 8.4.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from detectctl.engine.trained import Head


# Its sigmoid is effectively 0; computing that of a lower one would overflow.
_NEVER = np.float32(-80)


def least(head: Head, confidence: float) -> float:
    """Places whose greatest class is above this are worth handing to `boxes`; a little low, since `boxes` decides."""
    if head.kind == "queries":
        return confidence - 0.001
    if confidence <= 0:
        return -math.inf
    return math.log(confidence / (1 - confidence)) - 0.001 if confidence < 1 else math.inf


def boxes(
    head: Head,
    sides: NDArray[np.float32],
    classes: NDArray[np.float32],
    places: NDArray[np.intp],
    *,
    confidence: float,
    shape: Sequence[int],
) -> NDArray[np.float32]:
    """The candidates among some places: those whose greatest class confidence is above `confidence`.

    Args:
        head: what the numbers mean.
        sides: (4 * bins, n): the boxes, as `Head` says. Of anchors, distances left, up, right and down in strides: each
            the mean of its bins' numbers, weighted by the softmax of their logits, or plain where there is one bin.
        classes: (classes, n): confidences, or for anchors their logits.
        places: (n,): which places these are; anchors are counted level by level and row by row.
        confidence: threshold from 0 to 1.
        shape: height and width of the network's input in pixels.

    Returns:
        (4 + classes, candidates): centre x, y, width, height in input pixels, then confidences.
    """
    if head.kind == "queries":
        above = classes.max(axis=0, initial=0) > np.float32(confidence)
        height, width = shape
        in_pixels = sides[:, above] * np.array([[width], [height], [width], [height]], np.float32)
        return np.concatenate((in_pixels, classes[:, above]))
    scores = 1 / (1 + np.exp(-np.maximum(classes, _NEVER)))
    above = scores.max(axis=0, initial=0) > np.float32(confidence)
    scores, sides, places = scores[:, above], sides[:, above], places[above]

    bins = len(sides) // 4
    if bins > 1:
        weights = sides.reshape(4, bins, -1)
        weights = np.exp(weights - weights.max(axis=1, keepdims=True))
        sides = np.arange(bins, dtype=np.float32) @ weights / weights.sum(axis=1)
    left, up, right, down = sides
    x, y, stride = _anchors(shape[0], shape[1], head.strides)[:, places]
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
