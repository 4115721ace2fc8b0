"""Files that the client writes: names that never collide, never half a file, originals left alone."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, TextIO
from urllib.parse import unquote

from detectctl.client.outcomes import Outcomes, work_on_all
from detectctl.errors import UsageError
from detectctl.files import reason, replacing
from detectctl.sources import IMAGE_SUFFIXES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from detectctl.client.service_client import Client
    from detectctl.sources import Source
    from detectctl.wire import DetectionResult, DetectOptions, DrawOptions

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
    raise UsageError(f"{path} cannot be written as an image", why=why, hint="end the name with .jpg, .png or .webp")


def annotate_all(
    client: Client,
    plan: Iterable[tuple[Source, Path]],
    options: DetectOptions | None = None,
    drawing: DrawOptions | None = None,
) -> Outcomes:
    """The outcome of each source, whose annotated image is written to its file: what `plan_outputs` planned."""

    def work(source: Source, path: Path) -> DetectionResult | None:
        data, result = client.annotate(source, image_format(path), options, drawing)
        with new_file(path) as file:
            file.write(data)
        return result

    return work_on_all(work, plan, workers=client.concurrency)


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
def new_file(path: Path) -> Iterator[BinaryIO]:
    """A file that appears at `path` whole when the block ends without an exception; the folder is made if missing.

    Raises:
        UsageError: the place cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        target = path.resolve()  # a link keeps pointing where it does
        if target.exists() and not target.is_file():
            with target.open("wb") as file:  # /dev/stdout or a pipe: nothing to replace
                yield file
        else:
            with replacing(target, mode=0o666) as file:
                yield file
    except OSError as error:
        raise UsageError(f"{path} cannot be written", why=reason(error), hint="choose another place: `-o`") from error


def plan_outputs(sources: Sequence[Source], output: str) -> list[Path]:
    """Where each source's annotated image goes: `output` itself for one source, else a file in the folder `output`.

    In a folder, a file keeps its name and its suffix if that is jpg, png or webp, else it becomes a `.jpg`; a name that
    is taken already gets `-2`, `-3`, …, in the order of the sources. `output` is a folder if it exists as one, ends
    with `/`, or has no suffix.

    Raises:
        UsageError: several sources for one file, an unknown suffix, or an original that would be overwritten.
    """
    target = Path(output)
    if target.is_dir() or output.endswith("/") or not target.suffix:
        return _plan_folder(sources, target)
    if len(sources) != 1:
        why = "it names a file, and there are several sources"
        raise UsageError(f"{output} cannot hold {len(sources)} images", why=why, hint="name a folder: `-o annotated/`")
    image_format(target)
    original = sources[0].path
    if original is not None and target.exists() and original.exists() and target.samefile(original):
        hint = "choose another file: `-o`"
        raise UsageError(f"{output} would be overwritten", why="it is the source itself", hint=hint)
    return [target]


def _plan_folder(sources: Sequence[Source], folder: Path) -> list[Path]:
    resolved = folder.resolve()
    for source in sources:
        if source.path is not None and source.path.resolve().parent == resolved:
            why = f"{source.name} is in it, and originals must not be overwritten"
            hint = "choose another folder: `-o annotated/`"
            raise UsageError(f"cannot write annotated images to {folder}", why=why, hint=hint)
    targets: dict[str, Path] = {}  # by name in lower case, because case-insensitive file systems would overwrite
    for source in sources:
        stem, suffix = _output_name(source)
        name, number = f"{stem}{suffix}", 1
        while name.lower() in targets:
            number += 1
            name = f"{stem}-{number}{suffix}"
        targets[name.lower()] = folder / name
    return list(targets.values())


def _output_name(source: Source) -> tuple[str, str]:
    """Stem and suffix of the annotated image's file."""
    if source.url is not None:
        # By hand, because `urlsplit` raises for a malformed URL, which is one bad source among others.
        host, _, path = re.split("[?#]", source.url.partition("://")[2])[0].partition("/")
        name = unquote(path).rstrip("/").rpartition("/")[2] or host.rpartition("@")[2]
    elif source.path is not None:
        name = source.path.name
    else:
        name = "stdin"
    name = "".join(letter if letter.isprintable() and letter not in '/\\:*?"<>|' else "_" for letter in name)
    suffix = Path(name).suffix
    stem = name.removesuffix(suffix) if suffix.lower() in IMAGE_SUFFIXES else name
    # 255 bytes is the limit of common file systems; the number and the temporary file's name need room too.
    stem = stem.encode()[:200].decode(errors="ignore").lstrip(".") or "image"
    return stem, suffix.lower() if suffix.lower() in FORMATS else ".jpg"
