"""What figures were measured on."""

from __future__ import annotations

import os
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

_PACKAGES = ("detectctl", "ray", "openvino", "torch", "fastapi", "uvicorn", "ultralytics-opencv-headless")


def conditions() -> dict[str, Any]:
    """This machine, and the versions of what computes and serves."""
    cpus = {line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")}
    return {
        "at": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "cpu": ", ".join(sorted(line.partition(": ")[2] for line in cpus)),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in _PACKAGES},
    }
