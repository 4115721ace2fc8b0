"""A result as a notebook shows it: the annotated picture where it can be had, and a table."""

from __future__ import annotations

import base64
from html import escape
from typing import TYPE_CHECKING

from detectctl.defaults import QUALITY
from detectctl.errors import DetectctlError
from detectctl.wire import DrawOptions

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from detectctl.wire import DetectionResult

PICTURE_PX = 800
"""The longer side, at most: notebooks are stored with what they show."""
ROWS = 20

_NUMBER = 'style="text-align: right"'


def html_of(result: DetectionResult) -> str:
    """A fragment of HTML without scripts, in which all text is escaped; the picture is a part of it."""
    try:
        picture = None if result.read_image is None else _picture(result, result.read_image())
        note = None
    except DetectctlError as error:
        picture, note = None, f"no picture: {error.what_and_why}"
    return "".join(_parts(result, picture, note))


def _picture(result: DetectionResult, data: bytes) -> bytes | None:
    """A JPEG; None if these pixels are not those of the result."""
    from detectctl.annotate import encode, fitted
    from detectctl.upright import open_upright

    image = open_upright(data)
    if image.size != (result.width, result.height):
        return None
    size = (min(PICTURE_PX, image.width), min(PICTURE_PX, image.height))
    return encode(fitted(image, result, size, DrawOptions()), "jpeg", QUALITY)


def _parts(result: DetectionResult, picture: bytes | None, note: str | None) -> Iterator[str]:
    model = result.model
    shown = result.detections[:ROWS]
    more = len(result.detections) - len(shown)
    yield "<div>"
    if picture is not None:
        data = base64.b64encode(picture).decode()
        names = ", ".join(dict.fromkeys(found.class_name for found in result.detections)) or "nothing found"
        yield f'<img alt="{escape(names)}" style="max-width: 100%" src="data:image/jpeg;base64,{data}">'
    yield f"<div>{escape(' '.join(filter(None, (model.name, model.version))))}, {result.width}x{result.height}"
    if model.fallback or model.stale:
        state = "fallback" if model.fallback else "stale"
        yield f", <strong>{state}: {escape(model.reason or '')}</strong>"
    yield "</div>"
    if note:
        yield f"<div>{escape(note)}</div>"
    if shown:
        columns = 1 if model.task == "classify" else 5  # or each box is the picture
        yield "<table>"
        yield _row("class", ("confidence", "x1", "y1", "x2", "y2")[:columns], cell="th")
        for found in shown:
            numbers = f"{found.confidence:.2f}", *(f"{value:.1f}" for value in found.xyxy)
            yield _row(found.class_name, numbers[:columns])
        yield "</table>"
    else:
        yield "<div>nothing found</div>"
    if more or result.truncated:
        yield f"<div>and {f'{more} more' if more else 'more, left out'}</div>"
    yield "</div>"


def _row(name: str, numbers: Sequence[str], *, cell: str = "td") -> str:
    cells = "".join(f"<{cell} {_NUMBER}>{each}</{cell}>" for each in numbers)
    return f"<tr><{cell}>{escape(name)}</{cell}>{cells}</tr>"
