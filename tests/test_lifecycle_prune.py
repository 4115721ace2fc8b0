"""`models --prune` beside commands that are changing what is served."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from detectctl.errors import DeadlineExceeded
from detectctl.lifecycle.deployment import plan
from detectctl.lifecycle.lock import locked
from detectctl.lifecycle.prune import prune, unserved
from detectctl.lifecycle.state import InstanceFolder
from detectctl.paths import Paths
from detectctl.progress import Progress, silent
from detectctl.registry.resolve import resolve
from detectctl.registry.store import Origin, Store
from detectctl.settings import UpSettings
from lifecycle_values import COMPILED, STATE

if TYPE_CHECKING:
    from pathlib import Path

    from detectctl.registry.model_version import ModelVersion


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths.from_environ({"HOME": str(tmp_path / "home")})


def _resolved(paths: Paths, tmp_path: Path, name: str) -> ModelVersion:
    file = tmp_path / f"{name}.pt"
    file.write_bytes(name.encode())
    return resolve(str(file), cache=paths.cache, environ={}, timeout_s=60)


def _write_state(folder: InstanceFolder, model: ModelVersion) -> None:
    deployed = plan(UpSettings(), model, COMPILED, "cpu", None)
    state = replace(STATE, deployed=deployed, last_good=deployed)
    folder.write(state)


def test_what_an_up_has_resolved_stays(paths: Paths, tmp_path: Path) -> None:
    """An `up` is between the store and its state: prune waits for its end, says so, and keeps what it deployed."""
    folder = InstanceFolder(paths.state, "default")
    waits: list[Progress] = []
    removed: list[str] = []
    with locked(folder, "up", 1, silent):
        model, old = (_resolved(paths, tmp_path, name) for name in ("new", "old"))
        doomed = {stored.sha256 for stored in unserved(paths)}
        assert doomed == {model.sha256, old.sha256}

        def run() -> None:
            done = prune(paths, doomed, timeout_s=20, report=waits.append)
            removed.extend(stored.sha256 for stored in done)

        pruning = threading.Thread(target=run)
        pruning.start()
        deadline = time.monotonic() + 10
        while not waits and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(Store(paths.cache).list()) == 2
        _write_state(folder, model)
    pruning.join(20)
    assert "detectctl up" in waits[0].message
    assert removed == [old.sha256]
    assert model.checkpoint.exists()


def test_an_up_that_does_not_finish_ends_the_wait(paths: Paths, tmp_path: Path) -> None:
    """Nothing is removed then."""
    model = _resolved(paths, tmp_path, "new")
    with (
        locked(InstanceFolder(paths.state, "default"), "up", 1, silent),
        pytest.raises(DeadlineExceeded, match="default"),
    ):
        prune(paths, {model.sha256}, timeout_s=0.1, report=silent)
    assert model.checkpoint.exists()


def test_only_what_was_agreed_to_goes(paths: Paths, tmp_path: Path) -> None:
    """What became unserved while the question stood was not in it."""
    named, since = (_resolved(paths, tmp_path, name) for name in ("named", "since"))
    removed = prune(paths, {named.sha256}, timeout_s=1, report=silent)
    assert [stored.sha256 for stored in removed] == [named.sha256]
    assert since.checkpoint.exists()


def test_what_is_held_stays_until_it_is_let_go(paths: Paths, tmp_path: Path) -> None:
    """A running trial's good version is in no state file; the mark of a process that died counts for nothing."""
    model = _resolved(paths, tmp_path, "good")
    store = Store(paths.cache)
    mark = store.hold(model.sha256)
    assert unserved(paths) == ()
    assert prune(paths, {model.sha256}, timeout_s=1, report=silent) == ()
    mark.release()
    (store.cache / "locks" / f"in-use-{model.sha256}-dead.lock").touch()
    assert [stored.sha256 for stored in unserved(paths)] == [model.sha256]
    assert prune(paths, {model.sha256}, timeout_s=1, report=silent) != ()
    assert list((store.cache / "locks").glob("in-use-*")) == []


def test_the_served_and_the_base_model_stay(paths: Paths, tmp_path: Path, yolov8n_pt: Path) -> None:
    """What instances serve stays, and so does what `up` falls back to; the rest is named and removed."""
    served, unwanted = (_resolved(paths, tmp_path, name) for name in ("served", "unwanted"))
    folder = InstanceFolder(paths.state, "default")
    with locked(folder, "up", 1, silent):
        _write_state(folder, served)
    base = Store(paths.cache).copy(yolov8n_pt, Origin("yolov8n"))
    assert [stored.sha256 for stored in unserved(paths)] == [unwanted.sha256]
    everything = {served.sha256, unwanted.sha256, base.sha256}
    removed = prune(paths, everything, timeout_s=1, report=silent)
    assert [stored.sha256 for stored in removed] == [unwanted.sha256]
    assert {stored.sha256 for stored in Store(paths.cache).list()} == {served.sha256, base.sha256}
    assert unserved(paths) == ()
