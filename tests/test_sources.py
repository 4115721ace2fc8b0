from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from detectctl.errors import SourceUnreadable
from detectctl.sources import MAX_FILE_BYTES, Source, resolve


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(path.name.encode())


def names(*arguments: object, recursive: bool = False) -> list[str]:
    return [source.name for source in resolve([str(argument) for argument in arguments], recursive=recursive)]


def problem(source: Source) -> SourceUnreadable:
    assert isinstance(source.problem, SourceUnreadable)
    with pytest.raises(SourceUnreadable):
        source.read()
    return source.problem


def test_a_folder_holds_its_images_sorted_and_nothing_else(tmp_path: Path) -> None:
    touch(*(tmp_path / name for name in ("b.JPG", "a.png", "c.webp", "notes.txt", ".hidden.jpg", "below/d.jpg")))
    assert names(tmp_path) == [f"{tmp_path}/{name}" for name in ("a.png", "b.JPG", "c.webp")]


def test_recursive_also_takes_the_folders_below_but_not_hidden_ones(tmp_path: Path) -> None:
    touch(*(tmp_path / name for name in ("z.jpg", "b/y.jpg", "a/x.jpg", ".git/w.jpg")))
    assert names(tmp_path, recursive=True) == [f"{tmp_path}/{name}" for name in ("z.jpg", "a/x.jpg", "b/y.jpg")]


@pytest.mark.parametrize("bad", ["x" * 300, "a\0b", f"{'y' * 300}/*.jpg"])
def test_a_path_that_no_system_takes_is_one_bad_source(tmp_path: Path, bad: str) -> None:
    """It is reported, and the others go on."""
    touch(tmp_path / "good.jpg")
    first, second = resolve([bad, str(tmp_path / "good.jpg")])
    assert problem(first).what
    assert second.path == tmp_path / "good.jpg"


def test_a_folder_that_may_not_be_entered_is_one_bad_source(tmp_path: Path) -> None:
    """As an ordinary user: somebody else's 0700 folder."""
    touch(tmp_path / "closed" / "a.jpg", tmp_path / "good.jpg")
    script = (
        "import os, sys; from detectctl.sources import resolve; os.setuid(65534);"
        "print([source.problem for source in resolve(sys.argv[1:])])"
    )
    temporary = Path(tempfile.gettempdir())
    for folder in (tmp_path, *itertools.takewhile(lambda parent: parent != temporary, tmp_path.parents)):
        folder.chmod(0o755)
    (tmp_path / "closed").chmod(0o700)
    if os.getuid() != 0:
        pytest.skip("only root can become somebody else")
    paths = [str(tmp_path / "closed" / "a.jpg"), str(tmp_path / "good.jpg")]
    done = subprocess.run([sys.executable, "-c", script, *paths], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("[SourceUnreadable(")
    assert done.stdout.strip().endswith("None]")


def test_a_file_named_outright_may_be_called_anything(tmp_path: Path) -> None:
    touch(tmp_path / "image.dat")
    (source,) = resolve([str(tmp_path / "image.dat")])
    assert source.read() == b"image.dat"


@pytest.mark.parametrize(
    ("pattern", "expected"), [("*.jpg", ["a.jpg", "b.jpg"]), ("**/*.jpg", ["a.jpg", "b.jpg", "c/d.jpg"])]
)
def test_a_glob_takes_every_file_that_it_matches_sorted(tmp_path: Path, pattern: str, expected: list[str]) -> None:
    touch(*(tmp_path / name for name in ("b.jpg", "a.jpg", "c/d.jpg", "e.png")))
    (tmp_path / "folder.jpg").mkdir()
    assert names(f"{tmp_path}/{pattern}") == [f"{tmp_path}/{name}" for name in expected]


def test_a_file_with_brackets_in_its_name_is_that_file_and_no_glob(tmp_path: Path) -> None:
    touch(tmp_path / "a[1].jpg", tmp_path / "a1.jpg")
    assert names(tmp_path / "a[1].jpg") == [f"{tmp_path}/a[1].jpg"]


def test_a_url_is_kept_as_it_was_typed() -> None:
    (source,) = resolve(["HTTPS://host/a.jpg?size=[1]*"])
    assert source == Source("HTTPS://host/a.jpg?size=[1]*", url="HTTPS://host/a.jpg?size=[1]*")


def test_a_dash_is_the_image_on_stdin() -> None:
    (source,) = resolve(["-"], stdin=b"bytes")
    assert (source.name, source.read()) == ("-", b"bytes")


@pytest.mark.parametrize("stdin", [b"", None])
def test_an_empty_stdin_is_a_problem(stdin: bytes | None) -> None:
    (source,) = resolve(["-"], stdin=stdin)
    assert "stdin" in problem(source).what


def test_one_bad_argument_does_not_stop_the_others(tmp_path: Path) -> None:
    touch(tmp_path / "good.jpg")
    (tmp_path / "empty").mkdir()
    arguments = ["missing.jpg", str(tmp_path / "empty"), f"{tmp_path}/*.gif", str(tmp_path / "good.jpg")]
    missing, empty, unmatched, good = resolve(arguments)
    assert problem(missing).what == "missing.jpg not found"
    assert problem(empty).hint == "search its subfolders, too: `--recursive`"
    assert "nothing matches" in problem(unmatched).what
    assert good.read() == b"good.jpg"


def test_nothing_is_read_before_it_is_asked_for(tmp_path: Path) -> None:
    touch(tmp_path / "a.jpg")
    (source,) = resolve([str(tmp_path)])
    (tmp_path / "a.jpg").write_bytes(b"changed")
    assert source.read() == b"changed"
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(SourceUnreadable, match=r"a\.jpg cannot be read") as caught:
        source.read()
    assert caught.value.why == "No such file or directory"


def test_a_folder_is_walked_only_as_far_as_images_are_taken(tmp_path: Path) -> None:
    touch(tmp_path / "a.jpg")
    sources = resolve([str(tmp_path / "a.jpg"), str(tmp_path / "later")])
    next(sources)
    touch(tmp_path / "later" / "b.jpg")
    assert next(sources).name == f"{tmp_path}/later/b.jpg"


def test_a_video_named_by_mistake_does_not_fill_the_memory(tmp_path: Path) -> None:
    with (tmp_path / "film.mp4").open("wb") as film:
        film.truncate(MAX_FILE_BYTES + 1)
    (source,) = resolve([str(tmp_path / "film.mp4")])
    with pytest.raises(SourceUnreadable, match="is not sent"):
        source.read()


def test_a_name_that_is_not_utf8_can_be_read_and_printed(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jpg"))
    path.write_bytes(b"image")
    (source,) = resolve([str(tmp_path)])
    assert source.read() == b"image"
    assert source.name.encode() == f"{tmp_path}/caf�.jpg".encode()
