"""How many CPUs this process may use: fewer than the machine has, in a container or under taskset."""

from __future__ import annotations

import math
import os

from detectctl.cgroups import pairs


def available_cpus() -> int:
    """Its share, rounded up; at least 1."""
    return max(1, math.ceil(cpu_share()))


def cpu_share() -> float:
    """The CPUs it may run on, or its control groups' tightest quota if that is less; half a CPU is 0.5."""
    both_versions = (*pairs("cpu", "cpu.max"), *pairs("cpu", "cpu.cfs_quota_us", "cpu.cfs_period_us"))
    quotas = (quota / period for quota, period in both_versions if quota > 0 and period > 0)
    return min([float(len(os.sched_getaffinity(0))), *quotas])
