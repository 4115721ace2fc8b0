"""One command changes an instance at a time, on file systems that have locks."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, NoReturn

import pytest

from detectctl.engine.compiled import make_once
from detectctl.errors import ModelError, NotReady
from detectctl.lifecycle.lock import locked
from detectctl.lifecycle.state import InstanceFolder
from detectctl.progress import silent
from detectctl.registry.store import Origin, Store

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(params=[errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP], ids=errno.errorcode.get)
def _without_locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Lustre and NFS are, if they were mounted so or a server's daemon is away."""

    def flock(*_: object) -> NoReturn:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr("fcntl.flock", flock)


@pytest.mark.usefixtures("_without_locks")
def test_a_folder_without_locks_is_named_with_the_way_out(tmp_path: Path) -> None:
    """Nothing takes the place of the lock: a file that marks it would outlive a command that is killed."""
    instance = InstanceFolder(tmp_path / "state", "default")
    with pytest.raises(NotReady, match="instance default cannot be locked") as state, locked(instance, "up", 1, silent):
        pass
    (tmp_path / "model").write_bytes(b"")
    store = Store(tmp_path / "cache")
    with pytest.raises(ModelError, match="cannot be used") as stored:
        store.copy(tmp_path / "model", Origin("model"))
    with pytest.raises(ModelError, match="cannot be used"):
        store.hold("0")
    model, environ = tmp_path / "cache" / "model", os.environ
    with pytest.raises(ModelError, match="cannot be converted") as made:
        make_once(
            model, "", lambda _: {}, checkpoint_sha256="", timeout_s=1, environ=environ, report=silent, name="model"
        )
    for error, folder, variable in (
        (state, "state", "XDG_STATE_HOME"),
        (stored, "cache", "XDG_CACHE_HOME"),
        (made, "cache", "XDG_CACHE_HOME"),
    ):
        assert str(tmp_path / folder) in error.value.what_and_why
        assert f"set {variable} to a folder on a local disk" in str(error.value.hint)
    assert list((tmp_path / "cache" / "tmp").iterdir()) == []


def test_whatever_else_keeps_it_from_being_locked_is_no_bug(tmp_path: Path) -> None:
    """As a file system that has become read-only since."""
    folder = InstanceFolder(tmp_path, "default")
    (folder.path / "lock").mkdir(parents=True)
    with pytest.raises(NotReady, match="cannot be locked") as caught, locked(folder, "up", 1, silent):
        pass
    assert os.strerror(errno.EISDIR) in str(caught.value.why)
    assert "XDG_STATE_HOME" in str(caught.value.hint)
