"""Reading and writing files."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest

from detectctl import files


def test_the_hash_is_that_of_the_bytes(tmp_path: Path) -> None:
    """SHA-256 of "abc", from FIPS 180-2."""
    file = tmp_path / "abc"
    file.write_bytes(b"abc")
    assert files.sha256_of(file) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_file_is_written_whole_with_its_mode_and_nothing_beside_it(tmp_path: Path) -> None:
    """Text becomes UTF-8; the file that was there is replaced."""
    file = tmp_path / "state"
    file.write_text("old")
    files.write_atomically(file, "né", mode=0o600, durable=True)
    assert file.read_bytes() == "né".encode()
    assert file.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["state"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "state"
    file.write_text("old")

    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left") as caught:
        files.write_atomically(file, b"new")
    assert files.reason(caught.value) == "No space left on device"
    assert file.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["state"]


def test_a_temporary_folder_is_gone_although_somebody_still_writes(tmp_path: Path) -> None:
    """As a process does that was killed in the middle of a system call."""
    stop = threading.Event()

    def write(folder: Path) -> None:
        for number in range(2000):
            try:
                (folder / f"below {number}").mkdir()
            except FileNotFoundError:
                break
        stop.set()

    with files.temporary_folder(tmp_path) as folder:
        writer = threading.Thread(target=write, args=(folder,))
        writer.start()
    writer.join()
    assert stop.is_set()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["x" * 200, "a b#c"])
def test_a_plain_path_has_room_for_a_socket(tmp_path: Path, name: str) -> None:
    """The folder is the same; a path that is plain already stays as it is."""
    (tmp_path / name).mkdir()
    plain = files.plain_path(tmp_path / name)
    assert len(str(plain)) <= 24
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(str(plain / ("s" * 73)))
    assert os.listdir(tmp_path / name) == ["s" * 73]  # noqa: PTH208 - names
    assert files.plain_path(Path("/usr")) == Path("/usr")
