"""The file of API keys."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

import pytest

from detectctl.errors import UsageError
from detectctl.keys import is_private, read_keys, write_new_key

if TYPE_CHECKING:
    from pathlib import Path


def test_one_key_a_line_with_comments_between(tmp_path: Path) -> None:
    """Order is kept, so that the client always sends the first."""
    file = tmp_path / "keys"
    file.write_text("# old and new\n\n first-key-1 \r\nsecond-key-2\n# end")
    assert read_keys(file) == ("first-key-1", "second-key-2")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"# only a comment\n",
        b"short\n",
        b"two words here\n",
        b"k\xc3\xa9y-with-accent\n",
        b"x" * 600,
        b"\xff" * 20,
    ],
    ids=["empty", "comment", "short", "space", "accent", "long", "binary"],
)
def test_a_file_without_a_good_key_is_refused_without_repeating_it(tmp_path: Path, content: bytes) -> None:
    """The error names file and line, and never quotes the line: it may be half a key."""
    file = tmp_path / "keys"
    file.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        read_keys(file)
    told = f"{caught.value.what} {caught.value.why} {caught.value.hint}"
    assert str(file) in told
    assert "two words" not in told
    assert "accent" not in told


def test_a_file_of_windows_has_a_mark_that_is_no_part_of_the_key(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_bytes(b"\xef\xbb\xbf0123456789\r\n9876543210\r\n")
    assert read_keys(file) == ("0123456789", "9876543210")


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    """The wrong file was named."""
    file = tmp_path / "keys"
    file.write_text("good-key-0123\n" * 10_000)
    with pytest.raises(UsageError, match="cannot be used"):
        read_keys(file)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    """It names the path."""
    with pytest.raises(UsageError, match="cannot be read"):
        read_keys(tmp_path / "nowhere")


def test_a_new_key_is_long_random_and_private(tmp_path: Path) -> None:
    """256 bits, 0600 whatever the umask, and no file is ever overwritten."""
    file = tmp_path / "key"
    key = write_new_key(file)
    assert read_keys(file) == (key,)
    assert len(key) >= 43
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert is_private(file)
    with pytest.raises(FileExistsError):
        write_new_key(file)
    assert read_keys(file) == (key,)
    assert write_new_key(tmp_path / "other") != key


def test_a_file_that_others_may_read_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("good-key-0123\n")
    file.chmod(0o640)
    assert not is_private(file)
