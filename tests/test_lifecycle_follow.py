"""What `up --follow` makes of what it sees, without a cluster; see `test_follow` for the installed command."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from detectctl.engine.compiled import CompiledModel
from detectctl.errors import CheckpointRefused, NotReady
from detectctl.lifecycle import follow
from detectctl.lifecycle import up as ups
from detectctl.lifecycle.deployment import Deployment, plan
from detectctl.lifecycle.follow import Follower
from detectctl.lifecycle.state import InstanceFolder, InstanceState
from detectctl.lifecycle.up import UpResult
from detectctl.paths import Paths
from detectctl.registry.model_version import ModelVersion
from detectctl.registry.store import Store
from detectctl.settings import UpSettings

if TYPE_CHECKING:
    from detectctl.progress import Progress

SETTINGS = UpSettings(model="acme/registry/yolo:latest", interval=1)


def _deployment(version: str, *, stale: bool = False) -> Deployment:
    digest = version[-1] * 64
    model = ModelVersion("acme/registry/yolo:latest", "wandb", "yolo", version, digest, Path("/m.pt"), 1, stale=stale)
    compiled = CompiledModel(Path("/compiled"), digest, {0: "person"}, (8, 16, 32))
    return plan(SETTINGS, model, compiled, "cpu", Path("/stats"), None)


def _result(deployment: Deployment) -> UpResult:
    return UpResult("default", "http://127.0.0.1:1", "updated", deployment.config.model, deployment.engine, 1, 0.1)


class Scene:
    """A follower whose instance is a state file, and what it said."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.paths = Paths.from_environ({"HOME": str(tmp_path)})
        self.said: list[str] = []
        self.follower = Follower(SETTINGS, self.paths, {}, self._report)
        self.folder = InstanceFolder(self.paths.state, "default")
        self.folder.create()
        self.temp_dir = tmp_path / "dctl-00000000"
        (self.temp_dir / "requests").mkdir(parents=True)
        self._monkeypatch = monkeypatch

    def _report(self, progress: Progress) -> None:
        self.said.append(progress.message)

    def state(self, deployment: Deployment) -> InstanceState:
        state = InstanceState(
            name="default",
            instance_id="0" * 16,
            head=None,
            temp_dir=self.temp_dir,
            dashboard_url="",
            host="127.0.0.1",
            port=1,
            deployed=deployment.to_json(),
            last_good=deployment.to_json(),
            last_failure=None,
            created_at=0,
        )
        self.folder.write(state)
        return state

    def look(self, before: Deployment, after: Deployment) -> None:
        """One `up` that finds the one and leaves the other."""

        def up(*_: Any, **__: Any) -> UpResult:
            self.state(after)
            return _result(after)

        self._monkeypatch.setattr(follow, "up", up)
        self.follower._up(self.state(before))


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(tmp_path, monkeypatch)


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


def test_a_model_that_could_not_be_planned_is_noted_with_its_digest(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the converter does not start again at every look."""
    model = ModelVersion(SETTINGS.model, "wandb", "yolo", "v1", "1" * 64, Path("/m.pt"), 1)

    def refuse(*_: Any, **__: Any) -> None:
        raise CheckpointRefused("it wants to run code")

    monkeypatch.setattr(ups, "resolve", lambda *_, **__: model)
    monkeypatch.setattr(ups, "compile_checkpoint", refuse)
    state = scene.state(_deployment("v0"))
    run = ups._Up(SETTINGS, scene.paths, {}, scene.folder, 0, scene._report, None, None, ups.Rejected())
    with pytest.raises(CheckpointRefused):
        run._change(state)
    written = scene.folder.read()
    assert written is not None
    assert written.last_failure is not None
    assert written.last_failure.digest == model.served.digest
