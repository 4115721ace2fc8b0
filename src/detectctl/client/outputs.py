"""Files that the client writes: names that never collide, never half a file, originals left alone."""

from __future__ import annotations

import contextlib
import io
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, TextIO
from urllib.parse import unquote

from detectctl.client.outcomes import Outcome, Outcomes, work_on_all
from detectctl.errors import DetectctlError, UsageError
from detectctl.files import reason, replacing
from detectctl.sources import IMAGE_SUFFIXES
from detectctl.wire import DrawOptions

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from detectctl.client.service_client import Client
    from detectctl.client.sheet import Sheet
    from detectctl.sources import Source
    from detectctl.wire import DetectOptions

FORMATS: dict[str, Literal["jpeg", "png", "webp"]] = {".jpg": "jpeg", ".jpeg": "jpeg", ".png": "png", ".webp": "webp"}
"""The image format of each suffix that can be written, as `annotate.encode` and `image/*` call it."""


def image_format(path: Path) -> Literal["jpeg", "png", "webp"]:
    """The image format that a file's suffix asks for.

    Raises:
        UsageError: it asks for another than jpg, png and webp.
    """
    if found := FORMATS.get(path.suffix.lower()):
        return found
    why = f"its suffix is {path.suffix or 'missing'}"
    hint = f"end the name with .jpg, .png or .webp, or that of a folder with a slash: `-o {path}/`"
    raise UsageError(f"{path} cannot be written as an image", why=why, hint=hint)


def annotate_all(
    client: Client,
    plan: Iterable[tuple[Source, Path | None]],
    options: DetectOptions | None = None,
    drawing: DrawOptions | None = None,
    sheet: Sheet | None = None,
) -> Outcomes:
    """The outcome of each source, whose annotated image is written to its file: what `plan_outputs` planned.

    With a `sheet`, which has a cell for each source, it goes there too, and so does what failed.
    """
    drawing = drawing or DrawOptions()

    def work(source: Source, place: tuple[int, Path | None]) -> Outcome:
        number, path = place
        kind = "jpeg" if path is None else image_format(path)
        try:
            drawn = client.drawing(source, kind, options, drawing)
            if path is not None:
                with new_file(path) as file:
                    file.write(drawn.encoded(kind, drawing))
            if sheet is not None:
                sheet.put(number, drawn.fitted(sheet.cell, drawing), short_name(source))
        except DetectctlError as error:
            if sheet is not None:
                sheet.put_failure(number, error, short_name(source))
            raise
        return Outcome(source, drawn.result, output=path)

    jobs = ((source, (number, path)) for number, (source, path) in enumerate(plan))
    return work_on_all(work, jobs, workers=client.concurrency)


@contextlib.contextmanager
def text_file(path: Path | None) -> Iterator[TextIO | None]:
    """A `new_file` of text; None for None."""
    if path is None:
        yield None
        return
    with new_file(path) as file:
        stream = io.TextIOWrapper(file, encoding="utf-8")
        yield stream
        stream.detach()  # flushes, and leaves the file open


@contextlib.contextmanager
def new_file(path: Path, *, option: str = "-o") -> Iterator[BinaryIO]:
    """A file that appears at `path` whole when the block ends without an exception; the folder is made if missing.

    Args:
        path: may be of a device or a pipe, which is written to as it is.
        option: what named it.

    Raises:
        UsageError: the place cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        target = Path(os.path.realpath(path))  # a link keeps pointing where it does; `resolve` fails at a loop
        if target.exists() and not target.is_file():
            with target.open("wb") as file:  # /dev/stdout or a pipe: nothing to replace
                yield file
        else:
            with replacing(target, mode=0o666) as file:
                yield file
    except BrokenPipeError:  # of whoever reads what the command prints meanwhile
        raise
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written", why=reason(error), hint=f"choose another place: `{option}`"
        ) from error


def plan_outputs(sources: Sequence[Source], output: str) -> list[Path]:
    """Where each source's annotated image goes: `output` itself for one source, else a file in the folder `output`.

    In a folder, a file keeps its name, its suffix if that is jpg, png or webp (else it becomes a `.jpg`), and the
    folders below the one that was searched for it. A name that is taken already gets `-2`, `-3`, …, in the order of the
    sources. `output` is a folder if it exists as one, ends with `/`, or has no suffix; for other than one image named
    outright, also if its suffix is not an image's.

    Raises:
        UsageError: several sources for one file, an unknown suffix, or an original that would be overwritten.
    """
    target = Path(output)
    one = sources[0] if len(sources) == 1 and sources[0].within is None and sources[0].problem is None else None
    is_image = target.suffix.lower() in IMAGE_SUFFIXES
    if os.path.isdir(output) or output.endswith("/") or not target.suffix or not (one or is_image):  # noqa: PTH112 - Path's raises
        return _plan_folder(sources, target)
    if len(sources) != 1:
        why = "it names a file, and there are several sources"
        raise UsageError(f"{output} cannot hold {len(sources)} images", why=why, hint="name a folder: `-o annotated/`")
    image_format(target)
    if (original := sources[0].path) is not None and _is_same_file(original, target):
        hint = "choose another file: `-o`"
        raise UsageError(f"{output} would be overwritten", why="it is the source itself", hint=hint)
    return [target]


@contextlib.contextmanager
def sheet_file(
    sources: Sequence[Source], outputs: Sequence[Path | None], path: Path | None, quality: int
) -> Iterator[Sheet | None]:
    """A sheet for the sources, which is at `path` when the block ends without an exception; None for None.

    Whether it can be written there, beside the sources' `outputs`, is known before the block begins.

    Raises:
        UsageError: too many sources, an unknown suffix, a source or an output that would be overwritten, or a place
            that cannot be written to.
    """
    if path is None:
        yield None
        return
    from detectctl.annotate import encode
    from detectctl.client.sheet import MOST_CELLS, Sheet

    kind = image_format(path)
    if len(sources) > MOST_CELLS:
        why, hint = f"a sheet holds {MOST_CELLS}", "name fewer, or write single images: `-o annotated/`"
        raise UsageError(f"{len(sources)} images do not fit on one sheet", why=why, hint=hint)
    if any(source.path is not None and _is_same_file(source.path, path) for source in sources):
        hint = "choose another file: `--grid`"
        raise UsageError(f"{path} would be overwritten", why="it is one of the sources", hint=hint)
    if os.path.realpath(path) in {os.path.realpath(output) for output in outputs if output is not None}:
        why, hint = "`-o` writes there, too", "choose another file: `--grid`"
        raise UsageError(f"{path} would be overwritten", why=why, hint=hint)
    sheet = Sheet(len(sources))
    with new_file(path, option="--grid") as file:
        yield sheet
        file.write(encode(sheet.image, kind, quality))


def _is_same_file(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:  # one of them is not there, or cannot be seen
        return False


def _plan_folder(sources: Sequence[Source], folder: Path) -> list[Path]:
    targets: dict[str, Path] = {}  # by path in lower case, because case-insensitive file systems would overwrite
    for source in sources:
        below, stem, suffix = _output_name(source)
        path, number = below / f"{stem}{suffix}", 1
        while str(path).lower() in targets:
            number += 1
            path = below / f"{stem}-{number}{suffix}"
        targets[str(path).lower()] = folder / path
    planned = list(targets.values())
    written = {os.path.realpath(parent) for parent in {path.parent for path in planned}}
    for source in sources:
        # Not `resolve`, which fails at a link to itself.
        if source.path is not None and os.path.dirname(os.path.realpath(source.path)) in written:  # noqa: PTH120
            why = f"{source.name} is in it, and originals must not be overwritten"
            hint = "choose another folder: `-o annotated/`"
            raise UsageError(f"cannot write annotated images to {folder}", why=why, hint=hint)
    return planned


def short_name(source: Source) -> str:
    """The end of its path, from below the folder that was searched for it, or of its URL; never a password."""
    if source.url is not None:
        # By hand, because `urlsplit` raises for a malformed URL, which is one bad source among others.
        host, _, path = re.split("[?#]", source.url.partition("://")[2])[0].partition("/")
        return unquote(path).rstrip("/").rpartition("/")[2] or host.rpartition("@")[2]
    if source.path is not None:
        return str(source.within or source.path.name)
    return source.name if source.problem else "stdin"


def _output_name(source: Source) -> tuple[Path, str, str]:
    """Folder below the one for all, stem and suffix of the annotated image's file."""
    name = _cleaned("stdin" if source.problem else Path(short_name(source)).name)
    suffix = Path(name).suffix
    stem = name.removesuffix(suffix) if suffix.lower() in IMAGE_SUFFIXES else name
    folders = () if source.within is None else source.within.parent.parts
    below = Path(*(_bounded(_cleaned(folder)) or "_" for folder in folders))
    return below, _bounded(stem) or "image", suffix.lower() if suffix.lower() in FORMATS else ".jpg"


def _cleaned(name: str) -> str:
    """A name that any common file system takes."""
    return "".join(letter if letter.isprintable() and letter not in '/\\:*?"<>|' else "_" for letter in name)


def _bounded(name: str) -> str:
    """Not hidden, and not longer than 200 bytes: common file systems take 255, and what is added needs room too."""
    return name.encode()[:200].decode(errors="ignore").lstrip(".")
