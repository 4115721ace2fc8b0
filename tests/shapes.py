"""Pictures of coloured shapes with exact labels for each task, for the tiny checkpoints to be trained and tested on.

A seed gives the same pictures everywhere. Coordinates are pixels of the picture, (x, y) from its upper left corner.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

TEST_SEED = 20_000
"""Of pictures that no checkpoint was trained on."""
SIZES = ((128, 128), (160, 96), (96, 160), (200, 150), (150, 200), (256, 256), (320, 180))
"""Widths and heights of the pictures."""
NAMES = {
    "detect": ("disc", "bar", "triangle"),
    "segment": ("disc", "bar", "triangle"),
    "pose": ("triangle", "arrow"),
    "obb": ("bar", "triangle", "arrow"),
    "classify": ("disc", "bar", "triangle", "arrow", "cross", "star"),
}
"""The shapes that the models of a task know, by class id."""

_TURN = np.linspace(0, 2 * np.pi, 40, endpoint=False)
_STAR = np.linspace(0, 2 * np.pi, 10, endpoint=False)
_STAR_RADII = np.resize([1.0, 0.4], 10)
# In a frame of their own, from -1 to 1, in which x is ahead.
_OUTLINES: dict[str, Sequence[tuple[float, float]]] = {
    "disc": list(zip(np.cos(_TURN), np.sin(_TURN), strict=True)),
    "bar": ((1, 0.4), (-1, 0.4), (-1, -0.4), (1, -0.4)),
    "triangle": ((1, 0), (-0.8, 0.7), (-0.8, -0.7)),
    "arrow": ((1, 0), (-1, 0.8), (-0.35, 0), (-1, -0.8)),
    "cross": (
        *((1, 0.3), (0.3, 0.3), (0.3, 1), (-0.3, 1), (-0.3, 0.3), (-1, 0.3)),
        *((-1, -0.3), (-0.3, -0.3), (-0.3, -1), (0.3, -1), (0.3, -0.3), (1, -0.3)),
    ),
    "star": list(zip(_STAR_RADII * np.cos(_STAR), _STAR_RADII * np.sin(_STAR), strict=True)),
}


@dataclass(frozen=True)
class Shape:
    name: str
    outline: NDArray[np.float64]
    """The polygon's corners, (n, 2)."""
    corners: NDArray[np.float64]
    """Of the rectangle around it that is turned as it is, (4, 2)."""

    @property
    def box(self) -> NDArray[np.float64]:
        """Left, top, right and bottom."""
        return np.concatenate([self.outline.min(axis=0), self.outline.max(axis=0)])

    @property
    def keypoints(self) -> NDArray[np.float64]:
        """Of a triangle or an arrow: the tip, and the two ends behind it, (3, 2)."""
        return self.outline[[0, 1, -1]]


def picture(seed: int, names: Sequence[str], *, most: int = 6) -> tuple[NDArray[np.uint8], list[Shape]]:
    """One picture, BGR (height, width, 3), with one to `most` shapes that neither touch each other nor the edge."""
    random = np.random.default_rng(seed)
    width, height = SIZES[int(random.integers(len(SIZES)))]
    side = min(width, height)
    # Light on dark, so that they differ in grey, too; coarse grain, so that the ground is not empty.
    grain = random.uniform(0, 70, (height // 16 + 1, width // 16 + 1, 3)).astype(np.float32)
    image = cv2.resize(grain, (width, height), interpolation=cv2.INTER_CUBIC) + random.uniform(
        0, 12, (height, width, 3)
    )
    pixels = np.clip(image, 0, 255).astype(np.uint8)
    shapes: list[Shape] = []
    taken: list[tuple[NDArray[np.float64], float]] = []
    for _ in range(int(random.integers(min(3, most), most + 1))):
        for _attempt in range(20):
            radius = side * random.uniform(0.12, 0.2) * (1.7 if most == 1 else 1)
            centre = random.uniform(radius + 1, (width - radius - 1, height - radius - 1))
            if all(np.hypot(*(centre - other)) > radius + its_radius + 2 for other, its_radius in taken):
                break
        else:
            break
        taken.append((centre, radius))
        name = names[int(random.integers(len(names)))]
        shape = _turned(name, centre, radius * 0.95, random.uniform(0, 2 * np.pi))
        colour = [float(value) for value in random.uniform(120, 255, 3)]
        cv2.fillPoly(pixels, [np.round(shape.outline * 16).astype(np.int32)], colour, cv2.LINE_AA, shift=4)
        shapes.append(shape)
    return pixels, shapes


def _turned(name: str, centre: NDArray[np.float64], radius: float, angle: float) -> Shape:
    own = np.asarray(_OUTLINES[name], dtype=np.float64)
    own /= np.hypot(*own.T).max()
    (left, top), (right, bottom) = own.min(axis=0), own.max(axis=0)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    around = np.array([[right, bottom], [left, bottom], [left, top], [right, top]])
    return Shape(name, own @ turn * radius + centre, around @ turn * radius + centre)


def pictures(task: str, count: int = 50, seed: int = TEST_SEED) -> Iterator[tuple[NDArray[np.uint8], list[Shape]]]:
    """Pictures for a task of Ultralytics; one shape in each for classify."""
    for number in range(count):
        yield picture(seed + number, NAMES[task], most=1 if task == "classify" else 6)
