"""The engine's threads: what the scheduler and the control group allow."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING

import pytest

from detectctl.engine.cpus import _quota, available_cpus

if TYPE_CHECKING:
    from pathlib import Path


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_it_follows_the_affinity() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert available_cpus() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert 1 <= available_cpus() <= len(before)


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({}, math.inf),
        ({"cpu.max": "max 100000\n"}, math.inf),
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"pod/cpu.max": "400000 100000\n", "pod/box/cpu.max": "max 100000\n"}, 4.0),
        ({"pod/cpu.max": "400000 100000\n", "pod/box/cpu.max": "50000 100000\n"}, 0.5),
        ({"cpu.max": "nonsense"}, math.inf),
    ],
)
def test_version_2_takes_the_tightest_group_on_the_way(tmp_path: Path, files: dict[str, str], cpus: float) -> None:
    for name, text in files.items():
        _write(tmp_path / name, text)
    assert _quota("0::/pod/box\n", tmp_path) == cpus


def test_a_container_sees_its_own_group_at_the_root(tmp_path: Path) -> None:
    """The path in /proc may be one of the host, which is not there."""
    _write(tmp_path / "cpu.max", "200000 100000\n")
    assert _quota("0::/../../not/here\n", tmp_path) == 2.0


@pytest.mark.parametrize(("quota", "cpus"), [("-1", math.inf), ("300000", 3.0)])
def test_version_1_has_the_quota_in_two_files(tmp_path: Path, quota: str, cpus: float) -> None:
    _write(tmp_path / "cpu" / "box" / "cpu.cfs_quota_us", quota)
    _write(tmp_path / "cpu" / "box" / "cpu.cfs_period_us", "100000\n")
    assert _quota("5:memory:/box\n4:cpu,cpuacct:/box\n0::/\n", tmp_path) == cpus
