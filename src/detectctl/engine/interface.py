"""What the detector asks of an engine, whichever one runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from detectctl.engine.int8.agreement import Agreement

EngineName = Literal["openvino", "torch"]
Device = Literal["cpu", "cuda"]
Precision = Literal["fp32", "bf16", "fp16", "int8"]


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What runs.

    Attributes:
        name: which engine.
        device: where.
        precision: of the arithmetic, as chosen by the engine for `auto`.
        threads: CPU threads it may use.
        streams: batches it works on at the same time under load.
        batch: images that it takes together at most.
        agreement: of int8 with fp32; None for the other precisions.
    """

    name: EngineName
    device: Device
    precision: Precision
    threads: int
    streams: int
    batch: int = 1
    agreement: Agreement | None = None


class Engine(Protocol):
    """A network that is loaded and ready; may be called from many threads at once."""

    @property
    def info(self) -> EngineInfo:
        """What runs."""
        ...

    @property
    def labels(self) -> dict[int, str]:
        """The model's own name of each class id."""
        ...

    @property
    def stride(self) -> int:
        """Pixels; height and width of an input are multiples of it."""
        ...

    def infer(
        self, images: NDArray[np.uint8], confidences: Sequence[float], *, alone: bool
    ) -> list[NDArray[np.float32]]:
        """The candidates of each image: anchors whose greatest class confidence is above its threshold.

        Args:
            images: letterboxed RGB (B, height, width, 3).
            confidences: one threshold per image.
            alone: True if nothing else waits, so that every core may work on this.

        Returns:
            Per image (4 + classes, candidates): centre x, y, width, height in input pixels, then class confidences.
        """
        ...

    def close(self) -> None:
        """Free what the engine holds; it is not used any more."""
        ...
