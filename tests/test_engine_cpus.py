"""The engine's threads: what the scheduler and the control group allow."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from detectctl import cgroups
from detectctl.engine.cpus import available_cpus

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts this process, with 64 CPUs, into control groups with these files."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    monkeypatch.setattr(cgroups, "OWN", tmp_path / "own")
    monkeypatch.setattr(cgroups, "ROOT", tmp_path / "root")

    def put(own: str, files: dict[str, str]) -> None:
        (tmp_path / "own").write_text(own)
        for name, text in files.items():
            file = tmp_path / "root" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)

    return put


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
        ({}, 64),
        ({"cpu.max": "max 100000\n"}, 64),
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"pod/cpu.max": "400000 100000\n", "pod/box/cpu.max": "max 100000\n"}, 4),
        ({"pod/cpu.max": "400000 100000\n", "pod/box/cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "nonsense"}, 64),
        ({"cpu.max": "100000 0"}, 64),
    ],
)
def test_version_2_takes_the_tightest_group_on_the_way(
    groups: Callable[..., None], files: dict[str, str], cpus: int
) -> None:
    groups("0::/pod/box\n", files)
    assert available_cpus() == cpus


def test_a_container_sees_its_own_group_at_the_root(groups: Callable[..., None]) -> None:
    """The path in /proc may be one of the host, which is not there."""
    groups("0::/../../not/here\n", {"cpu.max": "200000 100000\n"})
    assert available_cpus() == 2


@pytest.mark.parametrize(("quota", "cpus"), [("-1", 64), ("300000", 3)])
def test_version_1_has_the_quota_in_two_files(groups: Callable[..., None], quota: str, cpus: int) -> None:
    files = {"cpu/box/cpu.cfs_quota_us": quota, "cpu/box/cpu.cfs_period_us": "100000\n"}
    groups("5:memory:/box\n4:cpu,cpuacct:/box\n0::/\n", files)
    assert available_cpus() == cpus
