"""From what the user named (files, folders, globs, URLs, stdin) to single images, without reading any of them.

A bad source does not raise: it becomes a `Source` whose `problem` says why, and the rest goes on.
"""

from __future__ import annotations

import glob
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from detectctl.errors import DetectctlError, SourceUnreadable
from detectctl.files import reason

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"})
"""What a folder is searched for; a file named outright may be called anything."""

MAX_FILE_BYTES = 256 * 2**20
"""No service takes more, and a video named by mistake must not fill the memory."""

_NAME = "name a file, a folder, a quoted glob, an http(s) URL, or - for stdin"


@dataclass(frozen=True, slots=True)
class Source:
    """Where one image is: exactly one of `path`, `url`, `data` and `problem` (why it cannot be read) is set.

    `name` is what outputs and messages call it: the path or URL as given, or `-` for stdin. A file is read by `read`.
    """

    name: str
    path: Path | None = None
    url: str | None = None
    data: bytes | None = None
    problem: DetectctlError | None = None

    @classmethod
    def of(cls, image: Source | Path | str | bytes) -> Source:
        """A text is a URL if it begins with `http://` or `https://`, else a file's path; bytes are an encoded image."""
        if isinstance(image, Source):
            return image
        if isinstance(image, bytes):
            return cls("bytes", data=image)
        if isinstance(image, str) and _is_url(image):
            return cls(image, url=image)
        return _file(str(image))

    def read(self) -> bytes:
        """The encoded image of a file or of stdin.

        Raises:
            DetectctlError: the file cannot be read, or there never was one.
        """
        if self.problem is not None:
            raise self.problem
        if self.data is not None:
            return self.data
        if self.path is None:
            raise TypeError(f"{self.name} must be downloaded, which is the client's work")
        try:
            if self.path.stat().st_size > MAX_FILE_BYTES:
                raise SourceUnreadable(
                    f"{self.name} is not sent",
                    why=f"it is larger than {MAX_FILE_BYTES >> 20} MiB",
                    hint="use a smaller image",
                )
            return self.path.read_bytes()
        except OSError as error:
            raise _unreadable(self.name, error) from error


def resolve(arguments: Iterable[str], *, recursive: bool = False, stdin: bytes | None = None) -> Iterator[Source]:
    """The images that the arguments name: arguments in the order given, what a folder or glob holds sorted by path.

    An argument that starts with `http://` or `https://` is a URL, `-` is `stdin`, an existing file or folder is itself,
    and one with `*`, `?` or `[` is a glob (`**` crosses folders). Hidden files in folders are left out; subfolders are
    too, unless `recursive`, and links to folders always.
    """
    for argument in arguments:
        name = _printable(argument)
        try:
            yield from _expand(argument, recursive=recursive, stdin=stdin)
        except SourceUnreadable as problem:
            yield Source(name, problem=problem)
        except OSError as error:  # a folder that may not be entered, a name longer than any file's
            yield Source(name, problem=_unreadable(name, error))
        except ValueError as error:  # a NUL byte
            yield Source(name, problem=SourceUnreadable(f"{name} is not a path", why=str(error), hint=_NAME))


def _expand(argument: str, *, recursive: bool, stdin: bytes | None) -> Iterator[Source]:
    if argument == "-":
        if not stdin:
            hint = "pipe one: `cat one.jpg | detectctl detect -`"
            raise SourceUnreadable("no image on stdin", why="stdin is empty", hint=hint)
        yield Source("-", data=stdin)
    elif _is_url(argument):
        yield Source(argument, url=argument)
    elif Path(argument).is_dir():
        yield from _folder(Path(argument), recursive=recursive)
    elif Path(argument).exists():
        yield _file(argument)
    elif glob.has_magic(argument):
        matches = sorted(path for path in glob.iglob(argument, recursive=True) if not Path(path).is_dir())  # noqa: PTH207 - pathlib's glob takes no absolute pattern
        if not matches:
            raise SourceUnreadable(
                f"nothing matches {_printable(argument)}", why="no file has a path like that", hint=_NAME
            )
        yield from map(_file, matches)
    else:
        raise SourceUnreadable(
            f"{_printable(argument)} not found",
            why="no file or folder has this name",
            hint=_NAME,
        )


def _folder(folder: Path, *, recursive: bool) -> Iterator[Source]:
    found = False
    errors: list[OSError] = []
    for where, folders, names in os.walk(folder, onerror=errors.append):
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if recursive else []
        for name in sorted(names):
            if Path(name).suffix.lower() in IMAGE_SUFFIXES and not name.startswith("."):
                found = True
                yield _file(os.path.join(where, name))  # noqa: PTH118 - the name as the user would type it
    for error in errors:
        name = _printable(str(error.filename))
        yield Source(name, problem=_unreadable(name, error))
    if not found and not errors:
        name = _printable(str(folder))
        hint = None if recursive else "search its subfolders, too: `--recursive`"
        problem = SourceUnreadable(f"no image in {name}", why="no file in it has an image suffix", hint=hint)
        yield Source(name, problem=problem)


def _is_url(text: str) -> bool:
    return text.lower().startswith(("http://", "https://"))


def _file(path: str) -> Source:
    return Source(_printable(path), path=Path(path))


def _unreadable(name: str, error: OSError) -> SourceUnreadable:
    return SourceUnreadable(f"{name} cannot be read", why=reason(error), hint="check its permissions with `ls -l`")


def _printable(name: str) -> str:
    """A file name need not be UTF-8; what is printed must be."""
    return os.fsencode(name).decode("utf-8", "replace")
