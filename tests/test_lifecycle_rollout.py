"""A change of what is served: what becomes of it when something is in its way."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import httpx
import pytest

from detectctl.errors import ModelError, NotReady, UsageError
from detectctl.hosts.serve_rest import ServeApiError, ServeStatus
from detectctl.lifecycle import up
from detectctl.lifecycle.deployment import Deployment, plan
from detectctl.lifecycle.rollout import Rollout
from detectctl.lifecycle.state import InstanceFolder, InstanceState
from detectctl.processes import Process
from detectctl.settings import Replicas, UpSettings
from detectctl.signals import uninterrupted
from processor import capabilities
from test_lifecycle_deployment import COMPILED, MODEL
from test_lifecycle_state import STATE
from test_wire import INFO

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


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
    return plan(UpSettings(**settings), MODEL, COMPILED, "cpu", Path("/stats"), None)


GOOD, BAD = _planned(), _planned(conf=0.5)


@dataclass
class BentServe:
    """Serve's REST interface, where `BAD` does not load."""

    running: Deployment
    target: int = 1
    on_put: Callable[[], None] = lambda: None
    puts: list[str] = field(default_factory=list)

    def put(self, config: dict[str, Any]) -> None:
        fingerprint = config["applications"][0]["deployments"][0]["user_config"]["fingerprint"]
        self.running = next(one for one in (GOOD, BAD) if one.fingerprint == fingerprint)
        if self.puts:
            self.on_put()
        self.puts.append(fingerprint)

    def status(self) -> ServeStatus:
        word = "DEPLOY_FAILED" if self.running == BAD else "RUNNING"
        return ServeStatus(word, "", "no such file", self.target, (), (), self.running.fingerprint)


class DeadServe:
    def put(self, config: dict[str, Any]) -> None:
        pass

    def status(self) -> ServeStatus:
        raise ServeApiError("connection refused")


@pytest.fixture
def folder(tmp_path: Path) -> InstanceFolder:
    made = InstanceFolder(tmp_path, "default")
    made.create()
    return made


def _state(good: Deployment) -> InstanceState:
    return replace(STATE, head=Process.of(os.getpid()), deployed=good.to_json(), last_good=good.to_json())


def _rollout(api: Any, folder: InstanceFolder) -> Rollout:
    return Rollout(api, folder, time.monotonic() + 20, lambda _: None)


@pytest.mark.usefixtures("stopped_by_sigterm")
def test_a_signal_does_not_keep_a_failed_update_from_being_taken_back(folder: InstanceFolder) -> None:
    """What served before is declared again and written down, and then the command ends as the signal wants."""
    api = BentServe(GOOD, on_put=lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Stopped):
        _rollout(api, folder).change(_state(GOOD), BAD)
    assert api.puts == [BAD.fingerprint, GOOD.fingerprint]
    state = folder.read()
    assert state is not None
    assert state.deployed == state.last_good
    assert state.last_failure is not None
    assert state.last_failure.what == "the replicas could not start"


def test_a_command_that_is_killed_at_taking_back_has_written_what_to_trust(folder: InstanceFolder) -> None:
    """Before it asks Serve for anything."""
    seen: list[InstanceState | None] = []
    api = BentServe(GOOD, on_put=lambda: seen.append(folder.read()))
    with pytest.raises(ModelError, match="update failed"):
        _rollout(api, folder).change(_state(GOOD), BAD)
    (state,) = seen
    assert state is not None
    assert state.deployed is not None
    assert Deployment.from_json(state.deployed) == GOOD


@pytest.mark.usefixtures("stopped_by_sigterm")
def test_a_signal_at_taking_back_waits_until_serve_and_the_file_agree(folder: InstanceFolder) -> None:
    """Also where a follower takes back what had been served."""
    api = BentServe(BAD, on_put=lambda: os.kill(os.getpid(), signal.SIGTERM), puts=["of the bad one"])
    with pytest.raises(Stopped):
        _rollout(api, folder).put_back(replace(_state(GOOD), deployed=BAD.to_json()))
    assert api.puts == ["of the bad one", GOOD.fingerprint]
    written = folder.read()
    assert written is not None
    assert written.deployed is not None
    assert written.deployed["config"]["fingerprint"] == GOOD.fingerprint


def test_a_head_that_died_is_not_waited_for(folder: InstanceFolder, tmp_path: Path) -> None:
    """Its last words are the error's reason."""
    (tmp_path / "head.log").write_text("starting\nno space left for the object store\n")
    state = replace(_state(GOOD), head=Process(os.getpid(), 1.0), temp_dir=tmp_path)
    begun = time.monotonic()
    with pytest.raises(NotReady, match="head ended while deploying") as caught:
        _rollout(DeadServe(), folder).start(state, GOOD)
    assert caught.value.why == "no space left for the object store"
    assert time.monotonic() - begun < 10


def test_nothing_to_change_does_not_wake_a_service_that_sleeps(folder: InstanceFolder) -> None:
    """Nobody listens at its endpoint here, and nobody is missed."""
    sleeping = _planned(replicas=Replicas(0, 2))
    api = BentServe(sleeping, target=0)
    action, state = _rollout(api, folder).change(_state(sleeping), sleeping)
    assert (action, state, api.puts) == ("unchanged", _state(sleeping), [])
    assert state.last_good is not None
    assert Deployment.from_json(state.last_good) == sleeping


@pytest.mark.usefixtures("stopped_by_sigterm")
def test_a_signal_waits_for_the_end_and_is_not_lost() -> None:
    done = False
    with pytest.raises(Stopped), uninterrupted():  # noqa: PT012 - the signal comes in the middle
        os.kill(os.getpid(), signal.SIGTERM)
        done = True
    assert done
    with pytest.raises(Stopped):
        os.kill(os.getpid(), signal.SIGTERM)


def test_an_answer_that_fails_once_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rollout that succeeded does not end in exit 4; what is refused for good is not asked again."""
    request = httpx.Request("GET", "http://x/info")
    answers: list[Any] = [
        httpx.ConnectError("refused"),
        httpx.Response(503, request=request),
        httpx.Response(200, json=INFO.to_json(), request=request),
        httpx.Response(401, request=request),
    ]

    def get(*_: Any, **__: Any) -> httpx.Response:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, httpx.Response)
        return answer

    monkeypatch.setattr("httpx.get", get)
    assert up._info("http://x", None, time.monotonic() + 20) == INFO
    with pytest.raises(NotReady, match="does not answer"):
        up._info("http://x", None, time.monotonic() + 20)
    assert answers == []


def test_a_precision_that_the_processor_lacks_is_refused_before_anything_starts() -> None:
    """Only one that was asked for by name costs the look."""
    for precision in ("bf16", "fp16"):
        if precision.upper() in capabilities():
            up._require_precision(precision, "cpu")
        else:
            with pytest.raises(UsageError, match=f"precision {precision} is not available") as caught:
                up._require_precision(precision, "cpu")
            assert caught.value.exit_code == 2
        up._require_precision(precision, "cuda")


@pytest.mark.parametrize(
    ("wish", "lack", "device"),
    [("auto", None, "cuda"), ("auto", "none", "cpu"), ("cuda", None, "cuda"), ("cpu", None, "cpu")],
)
def test_the_gpu_is_taken_where_it_can_be_used(
    monkeypatch: pytest.MonkeyPatch, wish: str, lack: str | None, device: str
) -> None:
    monkeypatch.setattr(up, "_lack_of_gpu", lambda: lack)
    assert up._device(wish) == device


def test_a_gpu_that_is_not_there_is_refused_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(up, "_lack_of_gpu", lambda: "there is none")
    with pytest.raises(UsageError, match="--device cuda") as caught:
        up._device("cuda")
    assert caught.value.why == "there is none"
