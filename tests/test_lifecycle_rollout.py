"""A change of what is served: what becomes of it when something is in its way."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from bent_service import INFO
from detectctl.errors import DeadlineExceeded, ModelError, NotReady
from detectctl.hosts.local.local_host import LocalHost
from detectctl.hosts.serve_rest import ServeApiError, ServeStatus
from detectctl.lifecycle import up
from detectctl.lifecycle.deployment import Deployment, plan
from detectctl.lifecycle.rollout import Rollout
from detectctl.lifecycle.state import InstanceFolder, InstanceState
from detectctl.processes import Process
from detectctl.progress import silent
from detectctl.settings import Replicas, UpSettings
from detectctl.waiting import Deadline
from lifecycle_values import COMPILED, MODEL, PLACE, STATE, with_head
from raw_server import RawServer, answer

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from detectctl.hosts.local.ray_head import HeadRecord


class Stopped(BaseException):
    """What the command line makes of a signal."""


@pytest.fixture
def stopped_by_sigterm() -> Iterator[None]:
    def stop(*_: object) -> NoReturn:
        raise Stopped

    before = signal.signal(signal.SIGTERM, stop)
    yield
    signal.signal(signal.SIGTERM, before)


def _planned(**settings: Any) -> Deployment:
    return plan(UpSettings(**settings), MODEL, COMPILED, "cpu", None)


GOOD, BAD = _planned(), _planned(conf=0.5)


class BentHost(LocalHost):
    """Its Serve takes what it is told, and cannot load `BAD`."""

    def __init__(
        self,
        running: Deployment,
        *,
        target: int = 1,
        on_deploy: Callable[[], None] = lambda: None,
        deployed: Sequence[str] = (),
        place: HeadRecord = PLACE,
    ) -> None:
        super().__init__(place)
        self.running = running
        self.target = target
        self.on_deploy = on_deploy
        self.deployed = list(deployed)

    def deploy(self, application: Mapping[str, Any]) -> None:
        fingerprint = application["deployments"][0]["user_config"]["fingerprint"]
        self.running = next(one for one in (GOOD, BAD) if one.fingerprint == fingerprint)
        if self.deployed:
            self.on_deploy()
        self.deployed.append(fingerprint)

    def status(self, deadline: Deadline | None = None) -> ServeStatus:
        word = "DEPLOY_FAILED" if self.running == BAD else "RUNNING"
        return ServeStatus(word, "", "no such file", self.target, (), self.running.fingerprint)


class DeadHost(LocalHost):
    """Its head was killed a moment ago."""

    def deploy(self, application: Mapping[str, Any]) -> None:
        pass

    def status(self, deadline: Deadline | None = None) -> ServeStatus:
        raise ServeApiError("connection refused")


@pytest.fixture
def folder(tmp_path: Path) -> InstanceFolder:
    made = InstanceFolder(tmp_path, "default")
    made.create()
    return made


def _state(good: Deployment) -> InstanceState:
    return with_head(replace(STATE, deployed=good, last_good=good), Process.of(os.getpid()))


def _rollout(host: LocalHost, folder: InstanceFolder) -> Rollout:
    return Rollout(host, folder, Deadline.after(20), silent)


@pytest.mark.usefixtures("stopped_by_sigterm")
def test_a_signal_does_not_keep_a_failed_update_from_being_taken_back(folder: InstanceFolder) -> None:
    """What served before is declared again and written down, and then the command ends as the signal wants."""
    host = BentHost(GOOD, on_deploy=lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Stopped):
        _rollout(host, folder).change(_state(GOOD), BAD)
    assert host.deployed == [BAD.fingerprint, GOOD.fingerprint]
    state = folder.read()
    assert state is not None
    assert state.deployed == state.last_good
    assert state.last_failure is not None
    assert state.last_failure.what == "the replicas could not start"


def test_a_command_that_is_killed_at_taking_back_has_written_what_to_trust(folder: InstanceFolder) -> None:
    """Before it asks Serve for anything."""
    seen: list[InstanceState | None] = []
    host = BentHost(GOOD, on_deploy=lambda: seen.append(folder.read()))
    with pytest.raises(ModelError, match="update failed"):
        _rollout(host, folder).change(_state(GOOD), BAD)
    (state,) = seen
    assert state is not None
    assert state.deployed == GOOD


@pytest.mark.usefixtures("stopped_by_sigterm")
def test_a_signal_at_taking_back_waits_until_serve_and_the_file_agree(folder: InstanceFolder) -> None:
    """Also where a follower takes back what had been served."""
    host = BentHost(BAD, on_deploy=lambda: os.kill(os.getpid(), signal.SIGTERM), deployed=["of the bad one"])
    with pytest.raises(Stopped):
        _rollout(host, folder).restore_last_good(replace(_state(GOOD), deployed=BAD))
    assert host.deployed == ["of the bad one", GOOD.fingerprint]
    written = folder.read()
    assert written is not None
    assert written.deployed == GOOD


def test_a_head_that_died_is_not_waited_for(folder: InstanceFolder, tmp_path: Path) -> None:
    """Its last words are the error's reason."""
    (tmp_path / "head.log").write_text("starting\nno space left for the object store\n")
    host = DeadHost(replace(PLACE, head=Process(os.getpid(), 1.0), temp_dir=tmp_path))
    begun = time.monotonic()
    with pytest.raises(NotReady, match="head ended while deploying") as caught:
        _rollout(host, folder).start(_state(GOOD), GOOD)
    assert caught.value.why == "no space left for the object store"
    assert time.monotonic() - begun < 10


def test_nothing_to_change_does_not_wake_a_service_that_sleeps(folder: InstanceFolder) -> None:
    """Nobody listens at its endpoint here, and nobody is missed."""
    sleeping = _planned(replicas=Replicas(0, 2))
    host = BentHost(sleeping, target=0)
    action, state = _rollout(host, folder).change(_state(sleeping), sleeping)
    assert (action, state, host.deployed) == ("unchanged", _state(sleeping), [])
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
        assert _rollout(host, folder).start(STATE, GOOD).last_good == GOOD
        assert len(server.requests) == 2
        fingerprints[:] = ["old"]
        with pytest.raises(DeadlineExceeded, match="did not answer in time") as caught:
            Rollout(host, folder, Deadline.after(0.3), silent).start(STATE, GOOD)
    assert "deployment old" in str(caught.value.why)
