"""What the detector needs of an engine, whichever one runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from detectctl.wire import EngineInfo


class Engine(Protocol):
    """A network that is loaded and ready; may be called from many threads at once.

    Attributes:
        info: what runs.
        labels: the model's own name for each class id.
        stride: pixels; height and width of an input are multiples of it.
    """

    info: EngineInfo
    labels: dict[int, str]
    stride: int

    def infer(
        self, images: NDArray[np.uint8], confidences: Sequence[float], *, alone: bool
    ) -> list[NDArray[np.float32]]:
        """The candidates of each image: anchors whose greatest class confidence is above its threshold.

        Args:
            images: letterboxed RGB (B, height, width, 3).
            confidences: one threshold per image.
            alone: True if nothing else is waiting, so that every core may work on this.

        Returns:
            Per image (4 + classes, candidates): centre x, y, width, height in input pixels, then class confidences.
        """
        ...

    def close(self) -> None:
        """Free what the engine holds; it must not be used afterwards."""
        ...
