"""Reading and writing files."""

from __future__ import annotations

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
