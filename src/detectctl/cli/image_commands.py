"""`detect` and `annotate`: images go to the service, and results come back."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detectctl import limits
from detectctl.cli.options import Session, asked, command, path
from detectctl.errors import UsageError
from detectctl.files import at_home
from detectctl.keys import read_keys
from detectctl.settings import OUTPUT, AnnotateSettings, DetectSettings, RequestSettings
from detectctl.thresholds import Thresholds
from detectctl.wire import DetectOptions

if TYPE_CHECKING:
    from detectctl.client.service_client import Client
    from detectctl.sources import Source

_WHAT = "URL, file, folder, quoted glob, or - for image bytes on stdin"
Sources = Annotated[list[str], typer.Argument(metavar="SOURCE…", help=_WHAT)]
_INSTEAD = "Write to FILE instead of stdout"
OneFile = Annotated[Path | None, asked(_INSTEAD, OUTPUT, "--output", "-o", metavar="FILE", parser=path)]
_WHERE = "A .jpg, .png or .webp file for one source, a folder for several"
FileOrFolder = Annotated[str | None, asked(_WHERE, OUTPUT, "--output", "-o", metavar="FILE|DIR", parser=at_home)]
_SHEET = "Put all images on one sheet, a .jpg, .png or .webp file; with or without -o"
SheetFile = Annotated[Path | None, asked(_SHEET, OUTPUT, "--grid", metavar="FILE", parser=path)]


@command
def detect(session: Session, settings: DetectSettings, sources: Sources, output: OneFile = None) -> int:
    """Send images and print their detections."""
    from detectctl.client import formats, outputs

    images = _images(session, sources, settings)
    shape = settings.format or ("table" if session.console.out.is_terminal and output is None else "jsonl")
    with _client(session, settings) as client, outputs.text_file(output) as stream:
        outcomes = client.detect_all(images, _options(settings))
        tracked = session.console.tracked(outcomes, len(images))
        if shape == "table":
            session.console.detections(tracked, stream)
        else:
            formats.WRITERS[shape](tracked, stream or sys.stdout, client.labels)
    return outcomes.exit_code


@command
def annotate(
    session: Session,
    settings: AnnotateSettings,
    sources: Sources,
    output: FileOrFolder = None,
    grid: SheetFile = None,
) -> int:
    """Send images and write them with their detections drawn on."""
    if output is None and grid is None:
        raise UsageError(
            "missing option '--output' or '--grid'",
            why="images are written, and no place is named",
            hint="name a folder, or one sheet for all: `-o annotated/`, `--grid sheet.jpg`",
        )
    from PIL import Image

    from detectctl.client import outputs
    from detectctl.wire import DrawOptions

    Image.MAX_IMAGE_PIXELS = None  # the service's own limit counts, and it has accepted what is drawn on
    images = _images(session, sources, settings)
    planned = [None] * len(images) if output is None else outputs.plan_outputs(images, output)
    options = _options(settings)
    drawing = DrawOptions(settings.labels, settings.line_width, settings.quality)
    with _client(session, settings) as client, outputs.sheet_file(images, planned, grid, settings.quality) as sheet:
        outcomes = outputs.annotate_all(client, zip(images, planned, strict=True), options, drawing, sheet)
        session.console.annotated(session.console.tracked(outcomes, len(images)))
    if grid is not None:
        session.console.sheet(grid, len(images))
    return outcomes.exit_code


def _images(session: Session, arguments: list[str], settings: RequestSettings) -> list[Source]:
    from detectctl import sources

    stdin = sys.stdin.buffer.read() if "-" in arguments else None
    left_out: Counter[str] = Counter()
    found = list(sources.resolve(arguments, recursive=settings.recursive, stdin=stdin, left_out=left_out))
    session.console.left_out(left_out)
    return found


def _options(settings: RequestSettings) -> DetectOptions:
    conf = settings.conf or Thresholds()
    return DetectOptions(
        conf.confidence, settings.iou, settings.class_, conf.by_class, settings.max_det, settings.agnostic_nms
    )


def _client(session: Session, settings: RequestSettings) -> Client:
    from detectctl.client.service_client import Client

    endpoints, key_file = settings.url, settings.api_key_file
    if not endpoints:
        from detectctl.lifecycle.state import reach

        endpoints, own_key_file = reach(session.paths.state, settings.name)
        key_file = key_file or own_key_file
    return Client(
        endpoints[0],
        others=endpoints[1:],
        api_key=None if key_file is None else read_keys(key_file)[0],
        timeout_s=settings.timeout,
        retries=settings.retries,
        concurrency=min(settings.concurrency, limits.requests()),
        fetch=settings.fetch,
        wait_for_restart=not settings.url,  # its head lives, so a service that does not answer now will again
    )
