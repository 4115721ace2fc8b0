"""What computes: OpenVINO on this processor, and PyTorch on a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from detectctl import child
from detectctl.doctor.finding import Finding, Subject, failure, ok, warning
from detectctl.engine import devices
from detectctl.progress import silent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from detectctl.progress import Progress

_OPENVINO_S = 20.0
_PCI = Path("/sys/bus/pci/devices")
_NVIDIA = "0x10de"


def processor(subject: Subject) -> Iterator[Finding]:
    """Whether OpenVINO runs here, and in which precisions."""
    settings = subject.settings
    for_cpu = settings.device == "cpu" or not devices.has_device_file()
    request = {"precision": settings.precision if for_cpu and settings.precision != "auto" else None}
    try:
        answer = child.run(
            "detectctl.doctor.compute_child", request, timeout_s=_OPENVINO_S, env=subject.environ, report=silent
        )
    except child.ChildTimeout:
        yield failure(f"OpenVINO did not answer for {_OPENVINO_S:g} s", "see what keeps the processor or the disk busy")
    except child.ChildCrashed as error:
        yield failure(
            f"OpenVINO does not run on this processor: {error.last_words}", "install it again, or use `--device cuda`"
        )
    else:
        yield ok(f"computes in {answer['chosen']} here; --precision may be {', '.join(answer['precisions'])}")


def gpu(subject: Subject) -> Iterator[Finding]:
    """GPU, driver and PyTorch together."""
    settings = subject.settings
    news: list[Progress] = []
    chosen = devices.choose(settings.device, "auto", subject.environ, news.append)
    if settings.device != "cpu" and not devices.has_device_file() and _has_nvidia():
        yield warning(
            "there is an NVIDIA GPU, but no driver for it: the CPU is used",
            "install NVIDIA's driver, and give it to a container: `--gpus all` of Docker; or set `--device cpu`",
        )
    elif news:
        yield warning(
            news[0].message, "check `nvidia-smi`, and that the installed torch is for CUDA; or set `--device cpu`"
        )
    else:
        yield ok("PyTorch computes on it" if chosen == "cuda" else "none is used")


def _has_nvidia() -> bool:
    return any(file.read_text().strip() == _NVIDIA for file in _PCI.glob("*/vendor"))
