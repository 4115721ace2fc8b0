"""What processes cost: CPU seconds, memory, bytes on disk."""

from __future__ import annotations

import contextlib
import importlib.metadata
import time
from collections import Counter
from pathlib import Path

import psutil
from packaging.requirements import Requirement

from detectctl.processes import family

# A process is what its command line contains first in this list.
_KINDS = {
    "ray::ServeReplica": "replica",
    "ray::ServeController": "controller",
    "ray::ProxyActor": "fallback proxy",
    "ray::HAProxyManager": "HAProxy manager",
    "bin/haproxy": "HAProxy",
    "ray::DashboardAgent": "dashboard agent",
    "ray::RuntimeEnvAgent": "runtime env agent",
    "ray-dashboard-": "dashboard modules",
    "from multiprocessing": "dashboard helpers",
    "dashboard/dashboard.py": "dashboard",
    "_private/monitor.py": "autoscaler",
    "gcs/gcs_server": "gcs",
    "raylet/raylet": "raylet",
    "hosts.local.ray_head_child": "ray start",
    "ray::IDLE": "idle workers",
}


def kind(command: str) -> str:
    """What a process of an instance is for, by its command line."""
    return next((name for part, name in _KINDS.items() if part in command), "other")


class Group:
    """The processes that carry one marker in their environment, and all below them, by kind."""

    def __init__(self, marker: str) -> None:
        self._marker = marker

    def living(self) -> list[psutil.Process]:
        """Those that run now."""
        return family(self._marker)

    def cpu_s(self) -> Counter[str]:
        """CPU seconds that the living have used so far."""
        used: Counter[str] = Counter()  # of floats, which Counter counts as well
        for process in self.living():
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                used[kind(" ".join(process.cmdline()))] += times.user + times.system  # type: ignore[assignment]
        return used

    def busy_interpreters(self, seconds: float = 1) -> list[int]:
        """The processes of Python that use more than a twentieth of a core now."""
        pythons = [process for process in self.living() if "python" in Path(process.exe()).name]
        before = [sum(process.cpu_times()[:2]) for process in pythons]
        time.sleep(seconds)
        used = [sum(process.cpu_times()[:2]) - each for process, each in zip(pythons, before, strict=True)]
        return [process.pid for process, each in zip(pythons, used, strict=True) if each > 0.05 * seconds]

    def memory(self) -> dict[str, dict[str, float]]:
        """MB (a million bytes) of RSS, which counts shared pages in each process, and of PSS, which divides them."""
        found: dict[str, dict[str, float]] = {}
        for process in self.living():
            with contextlib.suppress(psutil.Error):
                used = process.memory_full_info()
                entry = found.setdefault(kind(" ".join(process.cmdline())), {"processes": 0, "rss": 0, "pss": 0})
                entry["processes"] += 1
                entry["rss"] += used.rss / 1e6
                entry["pss"] += used.pss / 1e6
        return found

    def settle(self, timeout_s: float = 30) -> None:
        """Return when they use less than a fifth of one core: what was asked for before is done."""
        deadline = time.monotonic() + timeout_s
        before, begun = self.cpu_s().total(), time.monotonic()
        while time.monotonic() < deadline:
            time.sleep(0.3)
            now, ended = self.cpu_s().total(), time.monotonic()
            if now - before < 0.2 * (ended - begun):
                return
            before, begun = now, ended


def installed_bytes(name: str = "detectctl") -> dict[str, int]:
    """Bytes of each distribution that an installation of `name` without extras brings, by name."""
    sizes: dict[str, int] = {}
    wanted = [Requirement(name)]
    while wanted:
        requirement = wanted.pop()
        extras = requirement.extras or {""}
        key = f"{requirement.name.lower().replace('_', '-')}[{','.join(sorted(extras))}]"
        if key in sizes:
            continue
        try:
            distribution = importlib.metadata.distribution(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            continue  # for another platform
        sizes[key] = sum(path.stat().st_size for path in map(_located, distribution.files or ()) if path.is_file())
        for line in distribution.requires or ():
            needed = Requirement(line)
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
                wanted.append(needed)
    # One distribution may be required with and without extras.
    return {key.partition("[")[0]: size for key, size in sizes.items()}


def _located(path: importlib.metadata.PackagePath) -> Path:
    return Path(str(path.locate()))
