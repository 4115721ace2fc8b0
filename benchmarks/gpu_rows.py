"""What `gpu.py` measures, and a row of its result."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from parity import Parity

if TYPE_CHECKING:
    from collections.abc import Callable

    from detectctl.wire import Device, Precision

Part = Literal["eager", "graphs", "compiled", "decoding", "loop", "service", "litserve"]


@dataclass(frozen=True)
class Plan:
    """What is measured on a device.

    Attributes:
        device: where networks compute.
        half: the precision, beside fp32.
        imgsz: longer side in pixels of what networks see.
        batches: images at a time, first what would be missed most.
        replicas: of the service, on one device, in the same order; workers of LitServe.
        clients: of either.
        seconds: of each measurement in one process.
        http_s: of each over HTTP.
        calls: at least in it, and before it: what is compiled records its CUDA graph in the second.
    """

    device: Device
    half: Precision
    imgsz: int
    batches: tuple[int, ...]
    replicas: tuple[int, ...]
    clients: tuple[int, ...]
    seconds: float
    http_s: float
    calls: int = 3


@dataclass(frozen=True)
class Row:
    """One measurement.

    Attributes:
        part: what it is of: `network`, `engine`, `decoding`, `loop`, `detector`, `service`, `litserve`.
        variant: how it was done.
        count: images in a batch, threads of `detector`; replicas of `service`, workers of `litserve`.
        images_per_s: the throughput.
        p50_ms: of a batch, or of a request.
        parity: with eager fp32 and decoding on the CPU.
        failed: why there are no figures; else empty.
    """

    part: str
    variant: str
    count: int = 0
    images_per_s: float | None = None
    p50_ms: float | None = None
    parity: Parity | None = None
    failed: str = ""

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Row:
        """The inverse of `asdict`."""
        return cls(**data | {"parity": data["parity"] and Parity(**data["parity"])})


def attempt(row: Row, measure: Callable[..., dict[str, Any]], *arguments: Any) -> Row:
    """The row with the figures that `measure` gives, or with what it raised."""
    try:
        return replace(row, **measure(*arguments))
    except Exception as error:  # noqa: BLE001 - whatever a GPU, its driver or a compiler leads to is a result, too
        return replace(row, failed=said(error))


def said(error: Exception) -> str:
    """Its kind, and the first line of what it says; of another process's traceback the last."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[-1 if 'Traceback' in lines[0] else 0]}"[:300]
