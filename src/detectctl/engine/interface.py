"""What the detector needs of an engine, whichever one runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from detectctl.engine.trained import Trained
    from detectctl.engine.yolo_head import Candidates
    from detectctl.wire import EngineInfo


class Engine(Protocol):
    """A network that is loaded and ready; may be called from many threads at once.

    Attributes:
        info: what runs.
        trained: the network's description.
    """

    info: EngineInfo
    trained: Trained

    def infer(self, images: NDArray[np.uint8], confidences: Sequence[float], *, alone: bool) -> list[Candidates]:
        """The candidates of each image: places whose greatest class confidence is above its threshold.

        Of a network that classifies, the one candidate is the image, whatever the threshold.

        Args:
            images: as `letterbox.fit` gives them (B, height, width, channels).
            confidences: one threshold per image.
            alone: True if nothing else is waiting, so that every core may work on this.
        """
        ...

    def close(self) -> None:
        """Free what the engine holds; it must not be used afterwards."""
        ...
