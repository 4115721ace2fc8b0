"""Which device and precision this machine can serve with: decided once, before anything starts."""

from __future__ import annotations

import functools
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, cast

from detectctl import child
from detectctl.errors import UsageError
from detectctl.progress import Progress, silent

if TYPE_CHECKING:
    from collections.abc import Mapping

    from detectctl.progress import Report
    from detectctl.wire import Device, Precision

_DEVICE_FILES = (Path("/dev/nvidiactl"), Path("/dev/dxg"))  # the second is what WSL 2 has
_PATIENCE_S = 60.0  # for torch: on a slow disk, its import alone takes half of that
_HIDING = ("", "-1", "NoDevFiles")  # CUDA sees the GPUs before the first of the list that does not exist


def choose(device: str, precision: str, environ: Mapping[str, str], report: Report) -> Device:
    """The device for `--device` and `--precision`: `auto` is the GPU if PyTorch can use one for it.

    Neither torch nor, without need, OpenVINO is imported: that takes seconds. Only where the system has a device file
    of a GPU is torch asked, in a child process that inherits `environ`; `report` is told if it cannot use the GPU.

    Raises:
        UsageError: there is no such device, or it does not compute in that precision.
    """
    chosen: Device = "cpu"
    if device == "cuda" or (device == "auto" and precision != "int8"):  # which only the engine for CPUs computes in
        lack = lack_of_gpu(environ)
        if lack is None:
            chosen = "cuda"
        elif device == "cuda":
            raise UsageError("--device cuda is not available here", why=lack, hint="use `--device cpu` or `auto`")
        elif has_device_file():
            report(Progress("device", f"running on the CPU, not on the GPU: {lack}", warning=True))
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


def lack_of_gpu(environ: Mapping[str, str]) -> str | None:
    """Why a replica with this environment could not compute on a GPU; None if it could."""
    if not has_device_file():
        return "this machine has no NVIDIA GPU, or no driver for it"
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.split(",")[0].strip() in _HIDING:
        return f'CUDA_VISIBLE_DEVICES="{visible}" hides every GPU'
    try:
        torch = version("torch")
    except PackageNotFoundError:
        return "PyTorch is not installed"
    if torch.endswith("+cpu"):
        return f"the installed torch {torch} is built for CPUs only"
    failure = _ask_torch(tuple(environ.items()))
    if failure is None or visible is None:
        return failure
    return f'{failure}, with CUDA_VISIBLE_DEVICES="{visible}"'


def has_device_file() -> bool:
    """Whether the system has a driver for an NVIDIA GPU."""
    return any(file.exists() for file in _DEVICE_FILES)


# Once in the life of this process, which may follow an alias for months: whoever else fills the GPU's memory for a
# minute must not move the service to the CPU.
@functools.cache
def _ask_torch(environ: tuple[tuple[str, str], ...]) -> str | None:
    try:
        answer = child.run(
            "detectctl.engine.devices_child", {}, timeout_s=_PATIENCE_S, env=dict(environ), report=silent
        )
    except child.ChildTimeout:
        return f"PyTorch did not answer for {_PATIENCE_S:g} s when it tried to use the GPU"
    except child.ChildCrashed as error:
        return f"PyTorch crashed when it tried to use the GPU: {error.last_words}"
    failure: str | None = answer["failure"]
    return failure and f"PyTorch cannot use the GPU: {failure}"
