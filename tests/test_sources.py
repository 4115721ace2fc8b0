from __future__ import annotations

import itertools
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path

import pytest

from detectctl.errors import SourceUnreadable
from detectctl.sources import LINKED_FOLDERS, MAX_FILE_BYTES, Source, resolve


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


@pytest.mark.parametrize("text", [" http://host/a.jpg", "http://host/a.jpg\r", "\thttp://host/a.jpg\n"])
def test_space_around_a_url_is_no_part_of_it(text: str) -> None:
    """Such as the line end of a list that was written on Windows."""
    assert list(resolve([text])) == [Source("http://host/a.jpg", url="http://host/a.jpg")]


def test_the_line_end_of_windows_after_a_name_is_told(tmp_path: Path) -> None:
    touch(tmp_path / "a.jpg")
    (source,) = resolve([f"{tmp_path}/a.jpg\r"])
    assert problem(source).what == rf"'{tmp_path}/a.jpg\r' not found"
    assert "a file of Windows" in str(problem(source).hint)


def test_nothing_is_not_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of `detect "$FILE"` where FILE is not set."""
    touch(tmp_path / "a.jpg")
    monkeypatch.chdir(tmp_path)
    for source in (*resolve([""]), Source.of("")):
        assert problem(source).what == "a source is empty"


def test_a_tilde_in_quotes_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A glob has to be quoted, so no shell has seen to its `~`; a file that is called so is that file."""
    home, here = tmp_path / "home", tmp_path / "here"
    touch(home / "a.jpg", home / "below" / "b.jpg", here / "~a.jpg", here / "~" / "c.jpg")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    assert names("~/a.jpg", "~/*/*.jpg") == [f"{home}/a.jpg", f"{home}/below/b.jpg"]
    assert names("~a.jpg", "~/c.jpg") == ["~a.jpg", "~/c.jpg"]
    (source,) = resolve(["~nobody-of-this-name/a.jpg"])
    assert problem(source).what == "~nobody-of-this-name/a.jpg not found"


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


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".mpo", ".avif", ".heic", ".jp2", ".HEIF"])
def test_every_kind_of_image_is_taken_from_a_folder(tmp_path: Path, suffix: str) -> None:
    touch(tmp_path / f"a{suffix}")
    assert names(tmp_path) == [f"{tmp_path}/a{suffix}"]


def test_what_is_left_out_of_folders_is_counted_by_kind(tmp_path: Path) -> None:
    """Not what is hidden, nor what a glob does not match."""
    touch(*(tmp_path / name for name in ("a.jpg", "b.txt", "c.TXT", "d.mp4", "e", ".f.txt", "below/g.txt", "x/y.pdf")))
    (tmp_path / "x" / "linked").symlink_to(tmp_path / "below")
    left_out: Counter[str] = Counter()
    assert len(list(resolve([str(tmp_path)], left_out=left_out))) == 1
    assert +left_out == {".txt": 2, ".mp4": 1, "": 1}
    left_out.clear()
    list(resolve([str(tmp_path), f"{tmp_path}/x/*"], recursive=True, left_out=left_out))
    assert +left_out == {".txt": 3, ".mp4": 1, "": 1, ".pdf": 1, LINKED_FOLDERS: 1}


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("a.jpg", "Too many levels of symbolic links"),
        ("gone.jpg", "it is a link, and nothing is at gone.jpg"),
        ("b.jpg", "Too many levels of symbolic links"),
    ],
    ids=["to itself", "to nothing", "in a circle"],
)
@pytest.mark.parametrize("way", ["folder", "glob", "name"])
def test_a_link_that_leads_nowhere_is_one_bad_source(tmp_path: Path, target: str, why: str, way: str) -> None:
    (tmp_path / "a.jpg").symlink_to(target)
    if target == "b.jpg":
        (tmp_path / "b.jpg").symlink_to("a.jpg")
    argument = {"folder": tmp_path, "glob": f"{tmp_path}/a*", "name": tmp_path / "a.jpg"}[way]
    source = next(resolve([str(argument)]))
    with pytest.raises(SourceUnreadable, match=r"a\.jpg cannot be read") as caught:
        source.read()
    assert caught.value.why == why


def test_folders_that_are_linked_in_a_circle_end(tmp_path: Path) -> None:
    touch(tmp_path / "below" / "a.jpg")
    (tmp_path / "below" / "up").symlink_to(tmp_path)
    assert names(tmp_path, recursive=True) == [f"{tmp_path}/below/a.jpg"]


def test_a_pipe_in_a_folder_is_not_waited_for_but_one_named_outright_is_read(tmp_path: Path) -> None:
    """As `detect <(curl …)` names it."""
    os.mkfifo(tmp_path / "a.jpg")
    for argument in (tmp_path, f"{tmp_path}/*"):
        (source,) = resolve([str(argument)])
        with pytest.raises(SourceUnreadable, match="is not read"):
            source.read()
    (source,) = resolve([str(tmp_path / "a.jpg")])
    writer = threading.Thread(target=(tmp_path / "a.jpg").write_bytes, args=(b"image",))
    writer.start()
    assert source.read() == b"image"
    writer.join()


def test_a_socket_and_an_endless_device_are_bad_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detectctl.sources.MAX_FILE_BYTES", 1000)
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("a.jpg")
        for argument in (".", "a.jpg", "/dev/zero"):
            (source,) = resolve([argument])
            with pytest.raises(SourceUnreadable):
                source.read()


@pytest.mark.parametrize(
    ("argument", "within"),
    [("photos", "x/a.jpg"), ("photos/x", "a.jpg"), ("photos/**/*.jpg", "x/a.jpg"), ("*/x/a.jpg", "photos/x/a.jpg")],
)
def test_what_was_searched_for_knows_where_it_was_found(
    tmp_path: Path, argument: str, within: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path / "photos" / "x" / "a.jpg")
    monkeypatch.chdir(tmp_path)
    assert [source.within for source in resolve([argument], recursive=True)] == [Path(within)]
    assert [source.within for source in resolve(["photos/x/a.jpg"])] == [None]


@pytest.mark.parametrize(
    ("argument", "why", "hint"),
    [
        ("s3://bucket/x.jpg", "an object in S3", "make a URL of it: `aws s3 presign s3://bucket/x.jpg`"),
        ("s3://bucket/*.jpg", "an object in S3", "make a URL of it: `aws s3 presign 's3://bucket/*.jpg'`"),
        ("hdfs://name/x.jpg", "begins with hdfs://", "download it first, and name the file"),
        ("www.example.org/x.jpg", "no file or folder", "write it in full: `https://www.example.org/x.jpg`"),
        ("localhost:8000/x.jpg", "no file or folder", "write it in full: `https://localhost:8000/x.jpg`"),
        ("photos/x.jpg", "no file or folder", "name a file, a folder"),
        (f"data:image/png;base64,{'a/b' * 5000}", "a data: URL", "base64 -d"),
    ],
)
def test_an_address_of_another_kind_is_told_with_what_to_do(argument: str, why: str, hint: str) -> None:
    (source,) = resolve([argument])
    found = problem(source)
    assert why in str(found.why)
    assert hint in str(found.hint)
    assert max(map(len, (source.name, found.what))) < 200
    if "://" in argument:
        assert Source.of(argument).problem is not None


def test_a_file_may_be_called_like_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    touch(Path("C:\\me.jpg"), Path("s3:/b/x.jpg"))
    assert [source.read() for source in resolve(["C:\\me.jpg", "s3://b/x.jpg"])] == [b"C:\\me.jpg", b"x.jpg"]


def test_a_password_is_in_no_name() -> None:
    url = "http://user:geheim@camera/x.jpg"
    for source in (*resolve([url, "rtsp://user:geheim@camera/live"]), Source.of(url)):
        assert "geheim" not in f"{source.name} {source!r} {source.problem and source.problem.what}"
    assert Source.of(url).url == url
