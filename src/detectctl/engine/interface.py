"""What the detector needs of an engine, whichever one runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from detectctl.engine.trained import Trained
    from detectctl.wire import EngineInfo


class Engine(Protocol):
    """A network that is loaded and ready; may be called from many threads at once.

    Attributes:
        info: what runs.
        trained: the network's description.
    """

    info: EngineInfo
    trained: Trained

    def infer(
        self, images: NDArray[np.uint8], confidences: Sequence[float], *, alone: bool
    ) -> list[NDArray[np.float32]]:
        """The candidates of each image: places whose greatest class confidence is above its threshold.

        Args:
            images: as `letterbox` or `stretch` give them (B, height, width, channels).
            confidences: one threshold per image.
            alone: True if nothing else is waiting, so that every core may work on this.

        Returns:
            Per image (4 + classes, candidates): centre x, y, width, height in input pixels, then class confidences.
        """
        ...

    def close(self) -> None:
        """Free what the engine holds; it must not be used afterwards."""
        ...
