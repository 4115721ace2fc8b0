"""Which device and precision this machine can serve with: decided once, before anything starts."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, cast

from detectctl.errors import UsageError

if TYPE_CHECKING:
    from detectctl.wire import Device, Precision


def choose(device: str, precision: str) -> Device:
    """The device for `--device` and `--precision`: `auto` is the GPU if there is one that PyTorch can use.

    Neither torch nor, without need, OpenVINO is imported: that takes seconds. What only they can tell is left to the
    replica, which reports it.

    Raises:
        UsageError: there is no such device, or it does not compute in that precision.
    """
    chosen: Device = "cpu"
    if device != "cpu":
        lack = _lack_of_gpu()
        if lack is None:
            chosen = "cuda"
        elif device == "cuda":
            raise UsageError("--device cuda is not available here", why=lack, hint="use `--device cpu` or `auto`")
    if chosen == "cuda" and precision == "int8":
        raise UsageError(
            "--precision int8 does not run on cuda",
            why="only the engine for CPUs computes in int8",
            hint="use `--device cpu` or `--precision fp16`",
        )
    if chosen == "cpu" and precision in {"bf16", "fp16"}:  # every CPU has the others
        from detectctl.engine.openvino_engine import choose_precision

        choose_precision(cast("Precision", precision))
    return chosen


def _lack_of_gpu() -> str | None:
    """Why a replica could not compute on a GPU; None if it could."""
    if not Path("/dev/nvidiactl").exists():
        return "this machine has no NVIDIA GPU, or no driver for it"
    torch = version("torch")
    return f"the installed torch {torch} is built for CPUs only" if torch.endswith("+cpu") else None
