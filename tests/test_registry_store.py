"""The store: content-addressed, private, verified at every opening, and never half of anything."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from detectctl import files
from detectctl.engine.compiled import MANIFEST, compiled_models
from detectctl.errors import ModelCorrupt, ModelError
from detectctl.registry.model_version import ModelVersion
from detectctl.registry.store import Origin, Store

if TYPE_CHECKING:
    from pathlib import Path

BYTES = b"checkpoint" * 1000
SHA256 = hashlib.sha256(BYTES).hexdigest()
FIRST = Origin("yolo", "acme/p/yolo", "v1", "d1", "best.pt")
SECOND = Origin("yolo", "acme/p/other", "v7", "d7", "last.pt")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "some.pt"
    path.write_bytes(BYTES)
    return path


def test_what_is_stored_is_private(store: Store, file: Path) -> None:
    """Folders are 0700 and files 0600, whatever the umask."""
    before = os.umask(0)
    try:
        store.copy(file, FIRST)
        store.remember(_model(store), site="")
    finally:
        os.umask(before)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in [store.cache, *store.cache.rglob("*")]}
    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}
    assert {mode for path, mode in modes.items() if path.is_file()} == {0o600}


def test_one_copy_knows_all_its_origins(store: Store, file: Path) -> None:
    """The same bytes from two artifacts are stored once, and found as either."""
    for origin in (FIRST, SECOND, FIRST):
        store.copy(file, origin)
    (stored,) = store.list()
    assert (stored.sha256, stored.size, stored.origins) == (SHA256, len(BYTES), (FIRST, SECOND))
    assert store.find(SECOND) == stored
    assert store.find(replace(SECOND, version="v8")) is None
    assert store.find(replace(SECOND, artifact_digest="d8")) is None
    assert store.find(replace(SECOND, member="best.pt")) is None
    assert file.exists()


def test_wrong_bytes_never_enter(store: Store, file: Path) -> None:
    """A file without its expected sha256 is refused, and nothing of it stays."""
    with pytest.raises(ModelCorrupt, match="not the file it should be"):
        store.copy(file, FIRST, expected="0" * 64)
    assert store.list() == ()
    assert list((store.cache / "tmp").iterdir()) == []


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_damage_is_noticed_and_repaired(store: Store, file: Path, damage: str) -> None:
    """A changed, shortened or missing checkpoint is not opened or found; adding it again repairs it."""
    path = store.copy(file, FIRST).path
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(BYTES[:-1] + b"x" if damage == "flipped" else BYTES[:-1])
    with pytest.raises(ModelCorrupt, match="missing or damaged"):
        store.open(SHA256)
    assert store.find(FIRST) is None
    store.copy(file, FIRST)
    assert store.open(SHA256).path.read_bytes() == BYTES


def test_a_lost_story_costs_no_bytes(store: Store, file: Path) -> None:
    """A damaged list of origins leaves the checkpoint usable by its sha256."""
    path = store.copy(file, FIRST).path
    (path.parent / "origins.json").write_text('{"half":')
    assert store.open(SHA256).origins == ()


def _model(store: Store) -> ModelVersion:
    path = store.cache / "checkpoints" / SHA256 / "checkpoint.pt"
    return ModelVersion("acme/p/yolo:latest", "wandb", "yolo", "v1", SHA256, path)


def test_a_reference_is_remembered_per_host(store: Store, file: Path) -> None:
    """The last pin of a reference is recalled whole, for the W&B server that it came from only, while it is sound."""
    model = _model(store)
    stored = store.copy(file, FIRST)
    store.remember(model, site="https://one")
    store.remember(replace(model, version="v2"), site="https://one")
    assert store.recall("acme/p/yolo:latest", site="https://one") == replace(model, version="v2")
    assert store.recall("acme/p/yolo:latest", site="https://two") is None
    assert store.recall("acme/p/yolo:prod", site="https://one") is None
    moved = Store(store.cache.rename(store.cache.with_name("moved")))
    recalled = moved.recall("acme/p/yolo:latest", site="https://one")
    assert recalled is not None
    assert recalled.checkpoint == moved.open(stored.sha256).path
    recalled.checkpoint.write_bytes(b"damaged")
    assert moved.recall("acme/p/yolo:latest", site="https://one") is None


def test_what_a_reference_is_for_outlives_its_bytes(store: Store, file: Path) -> None:
    """Noted with each reference that means the checkpoint; kept by `prune`, and by a version that is not yet known."""
    model = _model(store)
    store.copy(file, FIRST)
    other = replace(model, reference="acme/p/other:latest", sha256="1" * 64)
    for one in (model, replace(model, reference="acme/p/yolo:v1"), other):
        store.remember(one, site="")
    assert store.task_of(model.reference, site="") is None
    store.note_task(SHA256, "segment")
    store.prune((), {})
    assert store.recall(model.reference, site="") is None
    store.remember(replace(model, version="v2", sha256="2" * 64), site="")
    assert [store.task_of(f"acme/p/{name}", site="") for name in ("yolo:latest", "yolo:v1")] == ["segment"] * 2
    assert store.task_of("acme/p/yolo:latest", site="https://two") is None
    assert store.task_of(other.reference, site="") is None
    store.note_task("2" * 64, "detect")
    assert store.task_of("acme/p/yolo:latest", site="") == "detect"


def test_what_is_remembered_meanwhile_is_not_undone_by_a_note(
    store: Store, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process notes a task while another, which follows the same reference, pins its next version."""
    stored = store.copy(file, FIRST)
    model = _model(store)
    store.remember(replace(model, version="v0"), site="")
    other = threading.Thread(target=store.remember, args=(model,), kwargs={"site": ""})
    write = files.write_atomically

    def in_between(*args: Any, **options: Any) -> None:
        if threading.current_thread() is not other:
            other.start()
            other.join(0.5)  # it waits for us, but may not
        write(*args, **options)

    monkeypatch.setattr("detectctl.registry.store.write_atomically", in_between)
    store.note_task(stored.sha256, "pose")
    other.join()
    recalled = store.recall(model.reference, site="")
    assert recalled is not None
    assert recalled.version == model.version
    assert store.task_of(model.reference, site="") == "pose"


def test_a_damaged_memory_is_no_memory(store: Store, file: Path) -> None:
    """A half-written pin is as if nothing had been remembered."""
    store.copy(file, FIRST)
    store.remember(_model(store), site="")
    (pin,) = (store.cache / "references").iterdir()
    for damaged in (pin.read_text()[:20], "[]", "{}"):
        pin.write_text(damaged)
        assert store.recall("acme/p/yolo:latest", site="") is None
        assert store.recorded("acme/p/yolo:latest", site="") is None
        store.note_task(SHA256, "segment")


def test_a_reference_is_remembered_across_an_upgrade(store: Store, file: Path) -> None:
    """Earlier versions also noted sizes and metadata: without W&B their last model is served, not the base model."""
    model = _model(store)
    store.copy(file, FIRST)
    store.remember(model, site="")
    (pin,) = (store.cache / "references").iterdir()
    older = {"size": 5, "artifact_digest": "d1", "metadata": {"epochs": 3}, "source_version": None}
    pin.write_text(json.dumps(json.loads(pin.read_text()) | older))
    assert store.recall(model.reference, site="") == model


def test_prune_frees_checkpoints_and_their_compiled_models(store: Store, file: Path, tmp_path: Path) -> None:
    """What is not kept is removed, with what was compiled from it and what nobody can tell; files of others stay."""
    kept = store.copy(file, FIRST)
    other = tmp_path / "other.pt"
    other.write_bytes(b"other")
    gone = store.copy(other, SECOND)
    compiled = store.cache / "compiled"
    for name, sha256 in (("kept", kept.sha256), ("gone", gone.sha256)):
        (compiled / name).mkdir(parents=True)
        (compiled / name / MANIFEST).write_text(json.dumps({"checkpoint_sha256": sha256}))
    (compiled / "damaged").mkdir()
    (compiled / "damaged" / MANIFEST).write_text("{")
    (compiled / ".converting-x").mkdir()
    assert [stored.sha256 for stored in store.prune({kept.sha256}, compiled_models(store.cache))] == [gone.sha256]
    assert [stored.sha256 for stored in store.list()] == [kept.sha256]
    assert sorted(path.name for path in compiled.iterdir()) == [".converting-x", "kept"]
    assert list((store.cache / "tmp").iterdir()) == []


def test_scratch_is_removed_also_that_of_the_dead(store: Store) -> None:
    """A scratch folder goes at its end, and one that nobody touched for a day with the next."""
    tmp = store.cache / "tmp"
    (tmp / "dead").mkdir()
    (tmp / "alive").mkdir()
    two_days_ago = time.time() - 2 * 24 * 3600
    os.utime(tmp / "dead", (two_days_ago, two_days_ago))
    with store.scratch() as scratch:
        assert {path.name for path in tmp.iterdir()} == {"alive", scratch.name}
    assert [path.name for path in tmp.iterdir()] == ["alive"]


def test_an_unusable_cache_is_said(tmp_path: Path) -> None:
    """A cache folder that cannot be made is a model error with the system's words and a next step."""
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ModelError, match="cannot be used") as caught:
        Store(tmp_path / "file" / "cache")
    assert "Not a directory" in str(caught.value.why)
    assert caught.value.hint
