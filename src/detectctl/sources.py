"""From what the user named (files, folders, globs, URLs, stdin) to single images, without reading any of them.

A bad source does not raise: it becomes a `Source` whose `problem` says why, and the rest goes on.
"""

from __future__ import annotations

import glob
import itertools
import os
import re
import stat
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from detectctl.addresses import foreign, is_url, masked, shortened
from detectctl.errors import DetectctlError, SourceUnreadable
from detectctl.files import at_home, reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

IMAGE_SUFFIXES = frozenset(
    {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".pjpeg", ".pjp", ".mpo"),
        *(".png", ".apng", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".gif"),
        *(".avif", ".heic", ".heif", ".hif", ".jp2", ".j2k", ".jpf", ".jpx", ".j2c", ".jpc"),
    }
)
"""What a folder is searched for; a file named outright may be called anything. The service says what it can decode."""

MAX_FILE_BYTES = 256 * 2**20
"""No service takes more, and a video named by mistake must not fill the memory."""

LINKED_FOLDERS = "links to folders"
"""Among what is left out; all else is a suffix."""

_LONGEST = 8192
_NAME = "name a file, a folder, a quoted glob, an http(s) URL, or - for stdin"
_LIKE_A_HOST = re.compile(r"www\.|(localhost|[a-z0-9-]+(\.[a-z0-9-]+)+)(:[0-9]+)?/", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Source:
    """Where one image is: exactly one of `path`, `url`, `data` and `problem` (why it cannot be read) is set.

    A file is read by `read`.

    Attributes:
        name: what outputs and messages call it: the path or URL as given, but without a password; `-` for stdin.
        within: the file's path below the folder, or the fixed part of the glob, that it was found by; None if it was
            named outright.
    """

    name: str
    path: Path | None = None
    url: str | None = field(default=None, repr=False)  # it may have a password in it
    data: bytes | None = field(default=None, repr=False)
    problem: DetectctlError | None = None
    within: Path | None = None

    @classmethod
    def of(cls, image: Source | Path | str | bytes) -> Source:
        """A text is a URL if it begins with `http://` or `https://`, else a file's path; bytes are an encoded image."""
        if isinstance(image, Source):
            return image
        if isinstance(image, bytes):
            return cls("bytes", data=image)
        if isinstance(image, str) and is_url(image):
            return cls(masked(image), url=image)
        if problem := _elsewhere(str(image)):
            return cls(_shown(str(image)), problem=problem)
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
            status = self.path.stat()
            is_file = stat.S_ISREG(status.st_mode)
            if not is_file and self.within is not None:  # a pipe that nobody writes to would be waited for
                hint = "remove it, or name the images themselves"
                raise SourceUnreadable(
                    f"{self.name} is not read", why="it is not a file, but a pipe or device", hint=hint
                )
            if status.st_size <= MAX_FILE_BYTES:
                data = self.path.read_bytes() if is_file else _read_some(self.path)
                if len(data) <= MAX_FILE_BYTES:
                    return data
        except OSError as error:
            raise _unreadable(self.name, error) from error
        raise SourceUnreadable(
            f"{self.name} is not sent", why=f"it is larger than {MAX_FILE_BYTES >> 20} MiB", hint="use a smaller image"
        )

    def again(self) -> Callable[[], bytes] | None:
        """What reads the image as it is now once more, if nobody has changed the file; None where that cannot be."""
        if self.data is not None:
            return partial(Source.read, self)
        stamp = None if self.path is None else _stamp(self.path)
        return None if stamp is None else partial(_unchanged, self, stamp)


def _stamp(path: Path) -> tuple[int, ...] | None:
    """What changes with a file; None for what can be read only once, or not at all."""
    try:
        status = path.stat()
    except (OSError, ValueError):  # such as a NUL byte
        return None
    return (status.st_ino, status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None


def _unchanged(source: Source, stamp: tuple[int, ...]) -> bytes:
    data = source.read()
    if source.path is not None and _stamp(source.path) != stamp:
        why = "the file has changed since the service saw it"
        raise SourceUnreadable(f"{source.name} is another image now", why=why, hint="detect it again")
    return data


def resolve(
    arguments: Iterable[str],
    *,
    recursive: bool = False,
    stdin: bytes | None = None,
    left_out: Counter[str] | None = None,
) -> Iterator[Source]:
    """The images that the arguments name: arguments in the order given, what a folder or glob holds sorted by path.

    An argument that starts with `http://` or `https://` is a URL, `-` is `stdin`, an existing file or folder is itself,
    and one with `*`, `?` or `[` is a glob (`**` crosses folders); `~` at the start is the home folder. Hidden files in
    folders are left out; subfolders are too, unless `recursive`, and links to folders always.

    `left_out` counts what folders have beside images, by suffix, and links to folders.
    """
    left_out = Counter() if left_out is None else left_out
    for given in arguments:
        argument = _without_the_shell(given)
        name = _shown(argument)
        try:
            if argument == "-":
                yield _stdin(stdin)
            elif is_url(argument):
                yield Source(name, url=argument)
            elif problem := _elsewhere(argument):
                yield Source(name, problem=problem)
            else:
                yield from _here(argument, left_out, recursive=recursive)
        except SourceUnreadable as problem:
            yield Source(name, problem=problem)
        except OSError as error:  # a folder that may not be entered, a name longer than any file's
            yield Source(name, problem=_unreadable(name, error))
        except ValueError as error:  # a NUL byte
            yield Source(name, problem=SourceUnreadable(f"{name} is not a path", why=str(error), hint=_NAME))


def _without_the_shell(argument: str) -> str:
    """A URL without space around it, such as the line end of a file of Windows; a path in quotes without its `~`."""
    if is_url(stripped := argument.strip()):
        return stripped
    if argument.startswith("~") and not os.path.lexists(argument):
        return at_home(argument)
    return argument


def _here(argument: str, left_out: Counter[str], *, recursive: bool) -> Iterator[Source]:
    """What a path or a glob names."""
    if Path(argument).is_dir():
        yield from _folder(Path(argument), left_out, recursive=recursive)
    elif _is_there(argument):
        yield _file(argument)
    elif glob.has_magic(argument):
        yield from _matches(argument)
    else:
        name, hint = _printable(argument), _NAME
        if _LIKE_A_HOST.match(argument):
            hint = f"if it is a URL, write it in full: `https://{name}`"
        elif name != name.rstrip():
            name, hint = repr(name), "leave out the space at its end, or the line end of a file of Windows"
        raise SourceUnreadable(f"{name} not found", why="no file or folder has this name", hint=hint)


def _stdin(data: bytes | None) -> Source:
    if not data:
        hint = "pipe one: `cat one.jpg | detectctl detect -`"
        raise SourceUnreadable("no image on stdin", why="stdin is empty", hint=hint)
    return Source("-", data=data)


def _elsewhere(argument: str) -> SourceUnreadable | None:
    """Why nothing, or an address of another kind than an http(s) URL, cannot be read; None for what may be a file."""
    if not argument:  # which would be the working folder
        return SourceUnreadable("a source is empty", why="its name is '', as of a variable that is not set", hint=_NAME)
    if (other := foreign(argument)) is None or os.path.lexists(argument):
        return None
    return SourceUnreadable(
        f"{shortened(_shown(argument))} cannot be read",
        why=f"it is {other.kind}, and what is read are files and http(s) URLs",
        hint=other.mended or (f"make a URL of it: `{other.signed}`" if other.signed else other.local),
    )


def _is_there(path: str) -> bool:
    """Whether anything has this name, a link that leads nowhere too; raises OSError if that cannot be known."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _matches(pattern: str) -> Iterator[Source]:
    matches = sorted(path for path in glob.iglob(pattern, recursive=True) if not os.path.isdir(path))  # noqa: PTH112, PTH207 - pathlib's glob takes no absolute pattern, and its is_dir raises
    if not matches:
        raise SourceUnreadable(f"nothing matches {_printable(pattern)}", why="no file has a path like that", hint=_NAME)
    fixed = Path(*itertools.takewhile(lambda part: not glob.has_magic(part), Path(pattern).parts))
    for path in matches:
        yield _file(path, within=Path(path).relative_to(fixed))


def _folder(folder: Path, left_out: Counter[str], *, recursive: bool) -> Iterator[Source]:
    found = False
    errors: list[OSError] = []
    for where, folders, names in os.walk(folder, onerror=errors.append):
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if recursive else []
        left_out[LINKED_FOLDERS] += sum(Path(where, name).is_symlink() for name in folders)
        for name in sorted(name for name in names if not name.startswith(".")):
            suffix = Path(name).suffix.lower()
            if suffix in IMAGE_SUFFIXES:
                found = True
                path = os.path.join(where, name)  # noqa: PTH118 - the name as the user would type it
                yield _file(path, within=Path(path).relative_to(folder))
            else:
                left_out[_printable(suffix)] += 1
    for error in errors:
        name = _printable(str(error.filename))
        yield Source(name, problem=_unreadable(name, error))
    if not found and not errors:
        name = _printable(str(folder))
        hint = _NAME if recursive else "search its subfolders, too: `--recursive`"
        raise SourceUnreadable(f"no image in {name}", why="no file in it has an image suffix", hint=hint)


def _file(path: str, *, within: Path | None = None) -> Source:
    return Source(_printable(path), path=Path(path), within=within)


def _read_some(path: Path) -> bytes:
    """Of what has no size, such as a pipe, enough to know that it is too much."""
    with path.open("rb") as file:
        return file.read(MAX_FILE_BYTES + 1)


def _unreadable(name: str, error: OSError) -> SourceUnreadable:
    why = reason(error)
    if isinstance(error, FileNotFoundError) and error.filename and Path(error.filename).is_symlink():
        why = f"it is a link, and nothing is at {_printable(str(Path(error.filename).readlink()))}"
    return SourceUnreadable(f"{name} cannot be read", why=why, hint="check it, and its permissions: `ls -l`")


def _shown(argument: str) -> str:
    """What an argument is called: in full, unless it is longer than any path or URL, without a password."""
    name = masked(_printable(argument))
    return name if len(name) <= _LONGEST else shortened(name)


def _printable(name: str) -> str:
    """A file name need not be UTF-8; what is printed must be."""
    return os.fsencode(name).decode("utf-8", "replace")
