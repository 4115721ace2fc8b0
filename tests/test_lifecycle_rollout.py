"""A change of what is served: what becomes of it when something is in its way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn, cast

import pytest

from bent_rollout import BAD, GOOD, BentHost, planned, rollout_on, state_of
from bent_service import INFO
from detectctl.errors import DeadlineExceeded, ModelError, NotReady
from detectctl.hosts.dashboard import ServeApiError
from detectctl.hosts.local.local_host import LocalHost
from detectctl.lifecycle import up
from detectctl.lifecycle.rollout import Rollout
from detectctl.lifecycle.state import InstanceFolder, InstanceState
from detectctl.processes import Process
from detectctl.progress import silent
from detectctl.values import Replicas
from detectctl.waiting import Deadline
from lifecycle_values import PLACE, STATE
from raw_server import RawServer, answer

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping

    from detectctl.hosts.local.ray_head import HeadRecord
    from detectctl.hosts.serve_rest import ServeStatus
    from detectctl.progress import Report


class DeadHost(LocalHost):
    """Its head was killed a moment ago."""

    def deploy(
        self, application: Mapping[str, Any], record: Mapping[str, Any], deadline: Deadline | None = None
    ) -> None:
        pass

    def status(self, deadline: Deadline | None = None) -> ServeStatus:
        raise ServeApiError("connection refused")


def test_signals_in_the_middle_of_an_update_leave_it_whole() -> None:
    """In a process of their own, because they are real."""
    tests = Path(__file__).with_name("signalled_rollout.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tests)]
    done = subprocess.run(command, cwd=tests.parent.parent, capture_output=True, text=True, timeout=120, check=False)
    assert "2 passed" in done.stdout, done.stdout


@pytest.fixture
def folder(tmp_path: Path) -> InstanceFolder:
    made = InstanceFolder(tmp_path, "default")
    made.create()
    return made


def test_a_command_that_is_killed_at_taking_back_has_written_what_to_trust(folder: InstanceFolder) -> None:
    """Before it asks Serve for anything."""
    seen: list[InstanceState | None] = []
    host = BentHost(GOOD, on_deploy=lambda: seen.append(folder.read()))
    with pytest.raises(ModelError, match="update failed"):
        rollout_on(host, folder).change(state_of(GOOD), BAD)
    (state,) = seen
    assert state is not None
    assert state.deployed == GOOD


def test_a_head_that_died_is_not_waited_for(folder: InstanceFolder, tmp_path: Path) -> None:
    """Its last words are the error's reason."""
    (tmp_path / "head.log").write_text("starting\nno space left for the object store\n")
    host = DeadHost(replace(PLACE, head=Process(os.getpid(), 1.0), temp_dir=tmp_path))
    begun = time.monotonic()
    with pytest.raises(NotReady, match="head ended while deploying") as caught:
        rollout_on(host, folder).start(state_of(GOOD), GOOD)
    assert caught.value.why == "no space left for the object store"
    assert time.monotonic() - begun < 10


class SharedHost(BentHost):
    """Somebody on another machine deploys to it a moment after us."""

    def __init__(self) -> None:
        super().__init__(GOOD)
        self.seen = 0
        self.stopped = False

    def start(self, environ: Mapping[str, str], alive_file: Path, report: Report) -> HeadRecord:
        return PLACE

    def stop(self) -> None:
        self.stopped = True

    def status(self, deadline: Deadline | None = None) -> ServeStatus:
        self.seen += bool(self.deployed)
        ours = replace(super().status(deadline), application="DEPLOYING")
        return ours if self.seen < 3 else replace(ours, application="RUNNING", fingerprint="theirs")


def test_of_two_who_deploy_at_once_one_is_told(folder: InstanceFolder) -> None:
    """And takes nothing back: what runs is the other's."""
    host = SharedHost()
    with pytest.raises(NotReady, match="another command has changed instance default meanwhile"):
        rollout_on(host, folder).change(state_of(GOOD), BAD)
    assert host.deployed == [BAD.fingerprint]


def test_nothing_to_change_does_not_wake_a_service_that_sleeps(folder: InstanceFolder) -> None:
    """Nobody listens at its endpoint here, and nobody is missed."""
    sleeping = planned(replicas=Replicas(0, 2))
    host = BentHost(sleeping, target=0)
    action, state = rollout_on(host, folder).change(state_of(sleeping), sleeping)
    assert (action, state, host.deployed) == ("unchanged", state_of(sleeping), [])
    assert state.last_good == sleeping


def test_an_answer_that_fails_once_is_asked_for_again() -> None:
    """A rollout that succeeded does not end in exit 4; what is refused for good is not asked again."""
    whole = answer(json.dumps(INFO.to_json()).encode())
    answers = [b"", answer(status="503 Service Unavailable"), whole, answer(status="401 Unauthorized")]

    async def handler(_head: str, writer: asyncio.StreamWriter) -> None:
        writer.write(answers.pop(0))
        await writer.drain()
        writer.close()

    with RawServer(handler) as server:
        endpoint = f"http://127.0.0.1:{server.port}"
        assert up._info(endpoint, None, Deadline.after(20)) == INFO
        with pytest.raises(NotReady, match="does not answer") as caught:
            up._info(endpoint, None, Deadline.after(20))
    assert "401" in str(caught.value.why)
    assert answers == []


def test_a_rollout_waits_for_its_own_deployment_to_answer(folder: InstanceFolder) -> None:
    """Not for just any: an old replica may answer for a moment longer. One that never comes is named by what did."""
    fingerprints = ["old", GOOD.fingerprint]

    async def handler(_head: str, writer: asyncio.StreamWriter) -> None:
        fingerprint = fingerprints.pop(0) if len(fingerprints) > 1 else fingerprints[0]
        writer.write(answer(json.dumps({"status": "ready", "deployment": fingerprint}).encode()))
        await writer.drain()

    with RawServer(handler) as server:
        host = BentHost(GOOD, place=replace(PLACE, port=server.port))
        assert rollout_on(host, folder).start(STATE, GOOD).last_good == GOOD
        assert len(server.requests) == 2
        fingerprints[:] = ["old"]
        with pytest.raises(DeadlineExceeded, match="did not answer in time") as caught:
            Rollout(host, folder, Deadline.after(0.3), silent).start(STATE, GOOD)
    assert "deployment old" in str(caught.value.why)


def test_of_two_who_start_at_once_none_takes_down_what_the_other_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a cluster they have one application, and the lock of neither holds up the other."""
    (tmp_path / "default").mkdir()
    host, folder = SharedHost(), InstanceFolder(tmp_path, "default")
    monkeypatch.setattr(InstanceState, "open_host", lambda _: host)
    job = SimpleNamespace(
        folder=folder, state=STATE, environ={}, report=silent, deadline=Deadline.after(20), exposure=None
    )
    with pytest.raises(NotReady, match="another command has changed instance default meanwhile"):
        up._start(cast("up.UpJob", job), lambda: BAD)
    assert not host.stopped
    assert not folder.state_file.exists()


def test_a_start_that_is_interrupted_at_its_first_step_leaves_no_state(tmp_path: Path) -> None:
    """Ctrl-C right after the state file was written, before Ray."""

    class Interrupted(InstanceFolder):
        def write(self, state: InstanceState) -> NoReturn:
            super().write(state)
            assert self.read() is not None
            raise KeyboardInterrupt

    (tmp_path / "default").mkdir()
    folder = Interrupted(tmp_path, "default")
    with pytest.raises(KeyboardInterrupt):
        up._start(cast("up.UpJob", SimpleNamespace(folder=folder, state=STATE)), lambda: pytest.fail("it went on"))
    assert folder.read() is None
