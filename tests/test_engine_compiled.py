"""Compiled models are made once, in time or not at all, with errors that say why."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from filelock import FileLock

from detectctl.engine.compiled import make_once
from detectctl.errors import ConversionFailed, ModelError
from detectctl.progress import silent

if TYPE_CHECKING:
    from pathlib import Path


def _never(_: Path) -> dict[str, Any]:
    raise AssertionError("nothing must be made")


def make(directory: Path, prepare: Any, **options: Any) -> None:
    settings: dict[str, Any] = {
        "checkpoint_sha256": "0" * 64,
        "timeout_s": 20,
        "environ": {"PYTHONPATH": str(directory.parent)},
        "report": silent,
        "name": "yolov8n",
    } | options
    make_once(directory, "the_child", prepare, **settings)


def test_no_time_left_does_not_mean_to_wait_for_ever(tmp_path: Path) -> None:
    """Another process is making the same, and the deadline has already passed."""
    begun = time.monotonic()
    with FileLock(tmp_path / "model.lock"), pytest.raises(ConversionFailed, match="within 0 s"):
        make(tmp_path / "model", _never, timeout_s=-3)
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("in_the_way", ["compiled", "compiled/model.lock/x"])
def test_a_folder_that_cannot_be_written_is_reported(in_the_way: str, tmp_path: Path) -> None:
    """A file where the folder should be, a folder where the lock should be: the system's words, and a next step."""
    file = tmp_path / in_the_way
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    with pytest.raises(ModelError, match="yolov8n cannot be converted in") as caught:
        make(tmp_path / "compiled" / "model", _never, timeout_s=5)
    assert str(tmp_path) in str(caught.value.why)
    assert "XDG_CACHE_HOME" in str(caught.value.hint)


def test_a_crash_brings_the_childs_last_words(tmp_path: Path) -> None:
    """The hint promises the whole output with --verbose: it is a note, which the traceback shows."""
    (tmp_path / "the_child.py").write_text("raise KeyError('the cause')")
    with pytest.raises(ConversionFailed) as caught:
        make(tmp_path / "model", lambda _: {})
    assert "Traceback" in caught.value.__notes__[0]
    assert "the cause" in caught.value.__notes__[0]
