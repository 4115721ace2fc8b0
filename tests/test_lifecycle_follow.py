"""What `up --follow` makes of what it sees, without a cluster; see `test_follow` for the installed command."""

from __future__ import annotations

import contextlib
import errno
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from detectctl.engine.compiled import CompiledModel
from detectctl.engine.trained import Head, Trained
from detectctl.errors import CheckpointRefused, NotReady, NotRunning
from detectctl.lifecycle import conversion, follow
from detectctl.lifecycle import up as ups
from detectctl.lifecycle.deployment import Deployment, plan
from detectctl.lifecycle.exposure import Exposure
from detectctl.lifecycle.follow import Follower
from detectctl.lifecycle.state import InstanceFolder, InstanceState
from detectctl.lifecycle.up import UpJob, UpResult
from detectctl.paths import Paths
from detectctl.registry.model_version import ModelVersion
from detectctl.registry.store import Origin, Store
from detectctl.settings import UpSettings
from detectctl.waiting import Deadline
from lifecycle_values import COMPILED, PLACE, STATE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from detectctl.progress import Progress

SETTINGS = UpSettings(model="acme/registry/yolo:latest", interval=1)


def _deployment(version: str, *, stale: bool = False) -> Deployment:
    digest = version[-1] * 64
    model = ModelVersion("acme/registry/yolo:latest", "wandb", "yolo", version, digest, Path("/m.pt"), stale=stale)
    compiled = CompiledModel(Path("/compiled"), digest, Trained({0: "person"}, Head(strides=(8, 16, 32))))
    return plan(SETTINGS, model, compiled, "cpu", None)


def _result(deployment: Deployment) -> UpResult:
    return UpResult("default", "http://127.0.0.1:1", "updated", deployment.config.model, deployment.engine, 1, 0.1)


class Scene:
    """A follower whose instance is a state file, and what it said."""

    def __init__(self, tmp_path: Path) -> None:
        self.paths = Paths.from_environ({"HOME": str(tmp_path)})
        self.said: list[str] = []
        self.follower = Follower(SETTINGS, self.paths, {}, self._report)
        self.folder = InstanceFolder(self.paths.state, "default")
        self.folder.create()
        self.place = replace(PLACE, temp_dir=tmp_path / "dctl-00000000")

    def _report(self, progress: Progress) -> None:
        self.said.append(progress.message)

    def state(self, deployment: Deployment) -> InstanceState:
        state = replace(STATE, place=self.place, deployed=deployment, last_good=deployment)
        self.folder.write(state)
        return state

    def look(self, before: Deployment, after: Deployment) -> None:
        """One update that finds the one and leaves the other."""

        def apply(_: Follower, *, may_start: bool) -> UpResult:
            self.state(after)
            return _result(after)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Follower, "_apply", apply)
            self.follower._update(self.state(before))

    def job(self, state: InstanceState | None) -> UpJob:
        """What the steps of an update share; this instance cannot be reached."""
        deadline, exposed = Deadline.after(20), Exposure(None)
        running = state is not None
        state = state or replace(STATE, place=self.place)
        return UpJob(
            SETTINGS, self.paths, {}, self._report, 0, deadline, self.folder, state, running, "cpu", exposed, None, {}
        )


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_a_new_mark_on_a_model_is_no_new_model(scene: Scene) -> None:
    """W&B is away for a moment while v1 is on trial, and v1 is marked stale: what it replaced is still v0."""
    v0, v1, stale = _deployment("v0"), _deployment("v1"), _deployment("v1", stale=True)
    scene.look(v0, v1)
    trial = scene.follower._trial
    assert trial is not None
    assert (trial.good, trial.tried) == (v0, v1.config.model.digest)
    for before, after in ((v1, stale), (stale, v1)):
        scene.look(before, after)
        assert scene.follower._trial is trial


def test_what_a_trial_may_go_back_to_is_held(scene: Scene) -> None:
    """The state names v1 as good while it is on trial, so `models --prune` has to learn of v0 otherwise."""
    v0, v1 = _deployment("v0"), _deployment("v1")
    scene.look(v0, v1)
    scene.look(v1, v1)
    store = Store(scene.paths.cache)
    assert store.held() == {"0" * 64, "1" * 64}
    scene.follower._trial = None
    scene.look(v1, v1)
    assert store.held() == {"1" * 64}


def test_what_was_rolled_by_hand_is_not_rejected(scene: Scene) -> None:
    """The trial's requests fail, but somebody has rolled to another version meanwhile."""
    scene.look(_deployment("v0"), _deployment("v1"))
    trial = scene.follower._trial
    assert trial is not None
    scene.state(_deployment("v2"))
    written = scene.folder.state_file.read_bytes()
    scene.follower._go_back(trial, "9 of 9 requests fail")
    assert scene.follower._rejected == set()
    assert scene.folder.state_file.read_bytes() == written


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/state"), "No space left on device: /state"),
        (NotReady("the state cannot be written", why="full"), "the state cannot be written: full"),
    ],
)
def test_a_look_that_fails_is_not_the_last(
    error: Exception, says: str, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said, and the next look finds that the instance was taken down."""
    answers: list[Exception | None] = [error, error, None]

    def read(_: InstanceFolder) -> None:
        answer = answers.pop(0)
        if answer is not None:
            raise answer

    monkeypatch.setattr(InstanceFolder, "read", read)
    scene.follower.run()
    assert [line for line in scene.said if says in line] == scene.said[:-1]
    assert len(scene.said) == 2
    assert "taken down" in scene.said[-1]


def test_a_model_that_could_not_be_converted_is_noted_with_its_digest(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the converter does not start again at every look."""
    model = ModelVersion(SETTINGS.model, "wandb", "yolo", "v1", "1" * 64, Path("/m.pt"))

    def refuse(*_: Any, **__: Any) -> None:
        raise CheckpointRefused("it wants to run code")

    monkeypatch.setattr(conversion, "compile_checkpoint", refuse)
    job = scene.job(scene.state(_deployment("v0")))
    with pytest.raises(CheckpointRefused):
        ups.apply(job, lambda: ups.deployment_of(job, model), model.served.digest)
    written = scene.folder.read()
    assert written is not None
    assert written.last_failure is not None
    assert written.last_failure.digest == model.served.digest


def test_what_a_model_is_for_is_remembered(scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once its conversion has shown it: YOLOv8n must not stand in for a model that finds masks."""
    (tmp_path / "best.pt").write_bytes(b"x")
    store = Store(scene.paths.cache)
    stored = store.copy(tmp_path / "best.pt", Origin("yolo"))
    model = ModelVersion(SETTINGS.model, "wandb", "yolo", "v1", stored.sha256, stored.path)
    store.remember(model, site="")
    compiled = replace(COMPILED, trained=replace(COMPILED.trained, task="segment"))
    monkeypatch.setattr(conversion, "compile_checkpoint", lambda *_, **__: compiled)
    assert ups.deployment_of(scene.job(None), model).config.model.task == "segment"
    assert store.task_of(SETTINGS.model, site="") == "segment"


@pytest.mark.parametrize(
    ("running", "rejected", "applied"),
    [
        (True, False, "v1"),
        (True, True, None),  # what serves stays
        (False, True, "v0"),  # the last good version is started in its place
        (False, False, "v1"),
    ],
)
def test_a_rejected_version_is_never_deployed(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, running: bool, rejected: bool, applied: str | None
) -> None:
    v0, v1 = _deployment("v0"), _deployment("v1")
    model = ModelVersion(SETTINGS.model, "wandb", "yolo", "v1", "1" * 64, Path("/m.pt"))
    deployed: list[Deployment] = []

    def apply(_: UpJob, make: Callable[[], Deployment], digest: str) -> UpResult:
        deployed.append(make())
        return _result(deployed[-1])

    @contextlib.contextmanager
    def begin(*_: Any, **__: Any) -> Iterator[UpJob]:
        yield scene.job(scene.state(v0) if running else None)

    monkeypatch.setattr(follow, "begin", begin)
    monkeypatch.setattr(follow, "resolve", lambda *_, **__: model)
    monkeypatch.setattr(follow, "deployment_of", lambda *_: v1)
    monkeypatch.setattr(follow, "apply", apply)
    scene.follower._good = v0
    scene.follower._rejected = {v1.config.model.digest} if rejected else set()
    result = scene.follower._apply(may_start=True)
    assert [one.config.model.version for one in deployed] == ([] if applied is None else [applied])
    assert (result is None) == (applied is None)


def test_what_was_taken_down_during_an_update_stays_down(scene: Scene) -> None:
    """The follower had seen it alive, and waited for the lock that `down` held."""
    with pytest.raises(NotRunning):
        scene.follower._apply(may_start=False)
    scene.follower._update(None)
    assert not scene.follower._died
    assert scene.said == []
    assert scene.folder.read() is None
