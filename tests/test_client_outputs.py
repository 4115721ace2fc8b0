from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from PIL import Image

from bent_service import Request, bent
from detectctl.client.outputs import annotate_all, image_format, new_file, plan_outputs, text_file
from detectctl.client.service_client import Client
from detectctl.errors import NotReady, SourceUnreadable, UsageError
from detectctl.sources import Source, resolve


def write(path: Path, data: bytes) -> None:
    with new_file(path) as file:
        file.write(data)


def files(*paths: str) -> list[Source]:
    return [Source(path, path=Path(path)) for path in paths]


def test_one_source_goes_to_the_file_named(tmp_path: Path) -> None:
    assert plan_outputs(files("in/a.png"), f"{tmp_path}/b.jpg") == [tmp_path / "b.jpg"]


@pytest.mark.parametrize("folder", ["out", "out.v2/", "exists.d"])
def test_a_name_without_suffix_with_a_slash_or_of_a_folder_is_a_folder(tmp_path: Path, folder: str) -> None:
    (tmp_path / "exists.d").mkdir()
    assert plan_outputs(files("in/a.png"), f"{tmp_path}/{folder}") == [tmp_path / folder / "a.png"]


def test_names_in_a_folder_never_collide_not_even_by_case(tmp_path: Path) -> None:
    sources = [
        *files("a/x.jpg", "b/x.jpg", "c/X.JPG", "a/x.bmp", "a/x-2.jpg"),
        Source("u1", url="http://h/p/x.jpg?page=1"),
        Source("u2", url="https://user:secret@h:80/"),
        Source("-", data=b""),
    ]
    planned = [path.name for path in plan_outputs(sources, f"{tmp_path}/out")]
    assert planned == [
        "x.jpg", "x-2.jpg", "X-3.jpg", "x-4.jpg", "x-2-2.jpg", "x-5.jpg", "h_80.jpg", "stdin.jpg",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://h/..%2F..%2Fetc%2Fpasswd", "passwd.jpg"),
        ("http://h/%2e%2e", "image.jpg"),
        ("http://h/a%00b.png", "a_b.png"),
        ("http://h/.bashrc", "bashrc.jpg"),
        ("http://h/" + "ä" * 300 + ".webp", "ä" * 100 + ".webp"),
        ("http://[::1/a.png", "a.png"),
    ],
)
def test_a_url_cannot_name_a_file_outside_the_folder_or_a_hidden_one(tmp_path: Path, url: str, name: str) -> None:
    (planned,) = plan_outputs([Source(url, url=url)], f"{tmp_path}/out")
    assert planned == tmp_path / "out" / name


def test_a_folder_that_holds_an_original_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(UsageError, match="cannot write annotated images"):
        plan_outputs(files(f"{tmp_path}/a.jpg", "elsewhere/b.jpg"), f"{tmp_path}/link")


def test_the_original_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    (tmp_path / "same.jpg").hardlink_to(tmp_path / "a.jpg")
    with pytest.raises(UsageError, match="would be overwritten"):
        plan_outputs(files(f"{tmp_path}/a.jpg"), f"{tmp_path}/same.jpg")


def found_by(folder: str, *paths: str) -> list[Source]:
    return [Source(path, path=Path(path), within=Path(path).relative_to(folder)) for path in paths]


def test_the_folders_below_the_one_that_was_searched_are_kept(tmp_path: Path) -> None:
    sources = [
        *found_by("photos", "photos/1.jpg", "photos/a/1.jpg", "photos/b/1.jpg", "photos/b/c:d/.../1.bmp"),
        *found_by("more", "more/a/1.jpg", "more/A/1.JPG"),
        *files("elsewhere/a/1.jpg"),
    ]
    planned = [str(path.relative_to(tmp_path)) for path in plan_outputs(sources, f"{tmp_path}/out")]
    assert planned == [
        "out/1.jpg", "out/a/1.jpg", "out/b/1.jpg", "out/b/c_d/_/1.jpg", "out/a/1-2.jpg", "out/A/1-3.jpg", "out/1-2.jpg",
    ]  # fmt: skip


def test_a_glob_that_climbs_does_not_leave_the_folder(tmp_path: Path) -> None:
    (planned, _) = plan_outputs(found_by(".", "a/../../1.jpg", "b.jpg"), f"{tmp_path}/out")
    assert planned == tmp_path / "out" / "a" / "_" / "_" / "1.jpg"


def test_originals_below_the_folder_are_kept_too(tmp_path: Path) -> None:
    """Annotating a tree into itself, and again what an earlier run wrote into it; beside it is fine."""
    (tmp_path / "a").mkdir()
    sources = found_by(str(tmp_path), f"{tmp_path}/a/1.jpg", f"{tmp_path}/a/2.jpg")
    with pytest.raises(UsageError, match="cannot write annotated images"):
        plan_outputs(sources, str(tmp_path))
    written = found_by(str(tmp_path), f"{tmp_path}/out/a/1.jpg")
    with pytest.raises(UsageError, match="cannot write annotated images"):
        plan_outputs([*sources, *written], f"{tmp_path}/out")
    assert plan_outputs(files(f"{tmp_path}/a/1.jpg", f"{tmp_path}/a/2.jpg"), str(tmp_path))[0] == tmp_path / "1.jpg"


def test_a_link_to_itself_among_the_sources_does_not_end_the_work(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "in" / "good.png").write_bytes(picture())
    (tmp_path / "out.jpg").symlink_to("out.jpg")
    sources = list(resolve([str(tmp_path / "in")]))
    assert plan_outputs(sources[1:], f"{tmp_path}/out.jpg")
    with bent(found) as service, Client(service.url) as client:
        outcomes = annotate_all(client, zip(sources, plan_outputs(sources, f"{tmp_path}/out"), strict=True))
        good, bad = outcomes
    assert (good.error, type(bad.error), outcomes.exit_code) == (None, SourceUnreadable, 6)
    write(tmp_path / "out.jpg", b"image")


@pytest.mark.parametrize("name", ["results_2024.06", "out.v2", "run.final"])
def test_a_name_with_a_dot_is_a_folder_for_several(tmp_path: Path, name: str) -> None:
    """Also for a folder that happens to hold one image, or none."""
    for sources in (files("a.jpg", "b.png"), found_by("in", "in/a.jpg"), list(resolve([str(tmp_path / "none")]))):
        assert plan_outputs(sources, f"{tmp_path}/{name}")[0].parent == tmp_path / name
    with pytest.raises(UsageError) as caught:
        plan_outputs(files("a.jpg"), name)
    assert f"`-o {name}/`" in str(caught.value.hint)


@pytest.mark.parametrize("name", ["out.jpg", "out.gif", "out.TIFF", "out.heic"])
def test_the_name_of_an_image_is_not_a_folder(name: str) -> None:
    with pytest.raises(UsageError, match="cannot hold 2 images"):
        plan_outputs(files("a.jpg", "b.jpg"), name)


def test_a_folder_that_may_not_be_entered_is_an_error_of_the_place(tmp_path: Path) -> None:
    """For an ordinary user, and not a bug: another's folder, and a name longer than any."""
    script = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from detectctl.client.outputs import plan_outputs\n"
        "from detectctl.errors import UsageError\n"
        "from detectctl.sources import Source\n"
        "os.setuid(65534)\n"
        "for output in sys.argv[1:]:\n"
        "    plan_outputs([Source('a.jpg', path=Path('a.jpg'))], output)\n"
    )
    if os.getuid() != 0:
        pytest.skip("only root can become somebody else")
    tmp_path.chmod(0o700)
    for output in (tmp_path / "closed" / "out", tmp_path / "closed" / "out.jpg", tmp_path / ("x" * 300)):
        subprocess.run([sys.executable, "-c", script, str(output)], check=True)


def test_several_sources_do_not_fit_into_one_file() -> None:
    with pytest.raises(UsageError, match="cannot hold 2 images"):
        plan_outputs(files("a.jpg", "b.jpg"), "out.jpg")


@pytest.mark.parametrize(
    ("name", "expected"), [("a.JPG", "jpeg"), ("a.jpeg", "jpeg"), ("a.png", "png"), ("a.webp", "webp")]
)
def test_the_suffix_chooses_the_format(name: str, expected: str) -> None:
    assert image_format(Path(name)) == expected


def test_an_unknown_suffix_is_refused_and_the_known_ones_are_named() -> None:
    with pytest.raises(UsageError) as caught:
        plan_outputs(files("a.jpg"), "out.gif")
    assert str(caught.value.hint).startswith("end the name with .jpg, .png or .webp")


def test_writing_makes_the_folder_and_gives_the_permissions_of_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        write(tmp_path / "new" / "a.jpg", b"image")
    finally:
        os.umask(old)
    assert (tmp_path / "new" / "a.jpg").stat().st_mode & 0o777 == 0o640
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.jpg"]


def test_a_write_that_fails_half_way_leaves_the_old_file_and_no_part(tmp_path: Path) -> None:
    """A limit on the size of files breaks the write in its middle, as a full disk would."""
    (tmp_path / "a.jpg").write_bytes(b"old")
    code = (
        "import pathlib, resource, signal, sys\n"
        "from detectctl.errors import UsageError\n"
        "from detectctl.client.outputs import new_file\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
        "try:\n"
        "    with new_file(pathlib.Path(sys.argv[1])) as file:\n"
        "        file.write(b'x' * 10000)\n"
        "except UsageError as error:\n"
        "    print(error.why)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "a.jpg"], capture_output=True, text=True, check=True)
    assert done.stdout == "File too large\n"
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.jpg", b"old")]


def test_a_link_keeps_pointing_to_the_file_that_is_written(tmp_path: Path) -> None:
    (tmp_path / "real.jpg").write_bytes(b"old")
    (tmp_path / "link.jpg").symlink_to(tmp_path / "real.jpg")
    write(tmp_path / "link.jpg", b"new")
    assert (tmp_path / "link.jpg").is_symlink()
    assert (tmp_path / "real.jpg").read_bytes() == b"new"


def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe.jpg").read_bytes()))
    reader.start()
    write(tmp_path / "pipe.jpg", b"image")
    reader.join(timeout=10)
    assert got == [b"image"]
    assert (tmp_path / "pipe.jpg").is_fifo()


def test_a_place_that_cannot_be_written_to_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be written"):
        write(tmp_path / "file" / "a.jpg", b"image")


def test_what_is_half_written_has_a_name_that_nobody_can_guess(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder that others may write to, a link in its way is not followed; the name is never the same."""
    seen: list[str] = []
    for _ in range(2):
        with text_file(tmp_path / "out.csv") as stream:
            assert stream is not None
            seen += [path.name for path in tmp_path.glob(".out*")]
        (tmp_path / "out.csv").unlink()
    assert len(set(seen)) == 2
    victim = tmp_path / "victim"
    victim.write_text("precious")
    monkeypatch.setattr("detectctl.files.secrets.token_hex", lambda _: "guessed")
    (tmp_path / ".out.csv.guessed.part").symlink_to(victim)
    with pytest.raises(UsageError, match=r"out\.csv cannot be written"), text_file(tmp_path / "out.csv"):
        pass
    assert victim.read_text() == "precious"


BUS = {"class": "bus", "coordinates": [10.0, 5.0, 90.0, 45.0], "confidence": 0.8734, "class_id": 5}


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (100, 50), "white").save(buffer, "PNG")
    return buffer.getvalue()


def found(request: Request) -> None:
    request.found(BUS)


def test_annotating_draws_on_the_bytes_that_were_sent_and_writes_them(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture())
    target = tmp_path / "out" / "a.png"
    with bent(found) as service, Client(service.url) as client:
        (outcome,) = annotate_all(client, [(Source("a.png", path=tmp_path / "a.png"), target)])
    assert outcome.error is None
    assert outcome.output == target
    assert outcome.result is not None
    assert len(outcome.result.detections) == 1
    drawn = Image.open(target)
    assert drawn.size == (100, 50)
    assert drawn.getpixel((10, 30)) != (255, 255, 255)
    assert service.requests[0].body == picture()


def test_another_format_than_asked_for_is_not_written(tmp_path: Path) -> None:
    def jpeg(request: Request) -> None:
        request.answer(200, b"jpeg bytes", Content_Type="image/jpeg")

    with bent(jpeg) as service, Client(service.url) as client:
        (outcome,) = annotate_all(client, [(Source("u", url="http://h/a"), tmp_path / "a.png")])
    assert isinstance(outcome.error, NotReady)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_to_fails_that_source_only(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    source = Source("-", data=picture())
    plan = [(source, tmp_path / "file" / "a.png"), (source, tmp_path / "b.png")]
    with bent(found) as service, Client(service.url) as client:
        outcomes = annotate_all(client, plan)
        first, second = outcomes
    assert isinstance(first.error, UsageError)
    assert second.error is None
    assert outcomes.exit_code == 6


def test_a_reader_who_left_meanwhile_is_no_fault_of_the_file(tmp_path: Path) -> None:
    """As `head` does, to which a command prints what it found."""
    with pytest.raises(BrokenPipeError), new_file(tmp_path / "sheet.jpg"):
        raise BrokenPipeError
    assert list(tmp_path.iterdir()) == []
