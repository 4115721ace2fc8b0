"""How many CPUs this process may use: fewer than the machine has, in a container or under taskset."""

from __future__ import annotations

import math
import os
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")


def available_cpus() -> int:
    """The CPUs it may run on, or its control group's quota if that is less, rounded up; at least 1."""
    own = Path("/proc/self/cgroup")
    groups = own.read_text() if own.exists() else ""  # not Linux
    return max(1, math.ceil(min(len(os.sched_getaffinity(0)), _quota(groups, _ROOT))))


def _quota(groups: str, root: Path) -> float:
    """CPUs that the tightest of the process's groups allows; infinite without a limit.

    Args:
        groups: /proc/self/cgroup: `0::/path` for version 2, `4:cpu,cpuacct:/path` for version 1 (cgroups(7)).
        root: where the groups are mounted. A container sees its own group there, whatever the path says.
    """
    least = math.inf
    for line in groups.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = root / "cpu" if controllers else root
        below = mount / path.lstrip("/")
        for folder in (below, *below.parents):
            least = min(least, _limit(folder))
            if folder == mount:
                break
    return least


def _limit(folder: Path) -> float:
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text()
            period = (folder / "cpu.cfs_period_us").read_text()
        cpus = int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):  # none here, or `max`
        return math.inf
    return cpus if cpus > 0 else math.inf  # -1: no limit
