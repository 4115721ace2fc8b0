"""A head that cannot be started."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import NoReturn

import pytest

from detectctl.errors import NotReady
from detectctl.hosts.local import ray_head
from detectctl.progress import silent
from installed import free_port


@pytest.mark.parametrize("step", ["pathlib.Path.mkdir", "subprocess.Popen"])
def test_what_the_system_does_not_let_it_do_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """A full disk, a limit of processes: that is not a bug of ours."""

    def fail(*_: object, **__: object) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/somewhere")

    record = ray_head.HeadRecord("0", tmp_path / "new", "127.0.0.1", 8000)
    monkeypatch.setattr("detectctl.hosts.local.haproxy.obstacle", lambda *_: "not here")
    monkeypatch.setattr(step, fail)
    with pytest.raises(NotReady, match="could not be started") as caught:
        ray_head.spawn(record, {}, tmp_path / "alive", silent)
    assert caught.value.why == "No space left on device: /somewhere"


def test_a_full_disk_is_left_to_what_is_written_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says where there is no room; Python's search for a folder for temporary files does not."""

    def fail() -> NoReturn:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp', '/home']")

    monkeypatch.setattr("tempfile.gettempdir", fail)
    assert ray_head.plan("127.0.0.1", free_port()).temp_dir.parent == Path("/tmp")  # noqa: S108 - nothing is written
