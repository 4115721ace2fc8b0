"""A service outlives cleaners of the temporary folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from installed import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_KEEP = """
import pathlib, sys, time
from detectctl.hosts.local import keeper
keeper.HEARTBEAT_S = 0.05
keeper.TOUCH_EVERY_S = 0.1
keeper.keep(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
time.sleep(600)
"""


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Of an instance: a folder, a file, a socket, a link to nowhere, a log."""
    folder = tmp_path / "temporary" / "dctl"
    made = [
        folder,
        folder / "ray",
        folder / "ray" / "token",
        folder / "ray" / "s",
        folder / "latest",
        folder / "a.log.1",
    ]
    made[1].mkdir(parents=True)
    (tmp_path / "state").mkdir()
    for file in (made[2], made[5]):
        file.write_text("")
    with contextlib.chdir(made[1]), socket.socket(socket.AF_UNIX) as opened:  # its path would be too long
        opened.bind("s")
    made[4].symlink_to("/nowhere")
    return made


@pytest.fixture
def keeper(tmp_path: Path, files: list[Path]) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", _KEEP, files[0], tmp_path / "state" / "alive"]) as process:
        try:
            yield process
        finally:
            process.kill()


def _is_locked(folder: Path) -> bool:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _make_old(file: Path) -> None:
    old = time.time() - 11 * 86400
    os.utime(file, (old, old), follow_symlinks=False)


@pytest.mark.usefixtures("keeper")
def test_nothing_of_it_grows_old(tmp_path: Path, files: list[Path]) -> None:
    """For those who go by the last access as well as by the last change; a log's lines keep their time."""
    wait_until((tmp_path / "state" / "alive").exists)
    for file in [tmp_path / "state" / "alive", tmp_path / "state", *reversed(files)]:
        _make_old(file)
    yesterday = time.time() - 86400
    for file in files:
        wait_until(lambda file=file: file.lstat().st_atime > yesterday)
    assert [file for file in files if file.lstat().st_mtime < yesterday] == [files[5]]
    wait_until(lambda: (tmp_path / "state").stat().st_mtime > yesterday)
    wait_until(lambda: (tmp_path / "state" / "alive").stat().st_mtime > yesterday)


_TMPFILES = shutil.which("systemd-tmpfiles")


@pytest.mark.skipif(_TMPFILES is None, reason="this system has no systemd-tmpfiles")
def test_systemd_leaves_it_alone_while_it_lives(
    tmp_path: Path, files: list[Path], keeper: subprocess.Popen[bytes]
) -> None:
    """Whatever its age: here everything is too old at once."""
    (tmp_path / "rule").write_text(f"d {tmp_path}/temporary - - - 0\n")
    folder = files[0]
    wait_until(lambda: _is_locked(folder))

    def clean() -> bool:
        subprocess.run([str(_TMPFILES), "--clean", tmp_path / "rule"], check=True)
        return not folder.exists()

    before = sorted(folder.rglob("*"))
    assert not clean()
    assert sorted(folder.rglob("*")) == before
    keeper.kill()
    keeper.wait()
    assert clean()
