"""Rollouts that real signals meet: `test_lifecycle_rollout` runs these in a process of their own."""

from __future__ import annotations

import signal
from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn

import pytest

from bent_rollout import BAD, GOOD, BentHost, rollout_on, state_of
from detectctl.lifecycle.state import InstanceFolder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Stopped(BaseException):
    """What the command line makes of a signal."""


@pytest.fixture
def stopped_by_sigterm() -> Iterator[None]:
    def stop(*_: object) -> NoReturn:
        raise Stopped

    before = signal.signal(signal.SIGTERM, stop)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def folder(tmp_path: Path) -> InstanceFolder:
    made = InstanceFolder(tmp_path, "default")
    made.create()
    return made


@pytest.mark.usefixtures("stopped_by_sigterm")
def test_a_signal_does_not_keep_a_failed_update_from_being_taken_back(folder: InstanceFolder) -> None:
    """What served before is declared again and written down, and then the command ends as the signal wants."""
    host = BentHost(GOOD, on_deploy=lambda: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(Stopped):
        rollout_on(host, folder).change(state_of(GOOD), BAD)
    assert host.deployed == [BAD.fingerprint, GOOD.fingerprint]
    state = folder.read()
    assert state is not None
    assert state.deployed == state.last_good
    assert state.last_failure is not None
    assert state.last_failure.what == "the replicas could not start"


@pytest.mark.usefixtures("stopped_by_sigterm")
def test_a_signal_at_taking_back_waits_until_serve_and_the_file_agree(folder: InstanceFolder) -> None:
    """Also where a follower takes back what had been served."""
    host = BentHost(BAD, on_deploy=lambda: signal.raise_signal(signal.SIGTERM), deployed=["of the bad one"])
    with pytest.raises(Stopped):
        rollout_on(host, folder).restore_last_good(replace(state_of(GOOD), deployed=BAD))
    assert host.deployed == ["of the bad one", GOOD.fingerprint]
    written = folder.read()
    assert written is not None
    assert written.deployed == GOOD
