"""The files of the page at `/`: read once, and the same for every request."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from starlette.responses import Response

_TYPES: Final = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "require-trusted-types-for 'script'; trusted-types 'none'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
"""Its own files and pictures are all that a browser may use, and the service all that it may ask."""


@dataclass(frozen=True, slots=True)
class _File:
    body: bytes
    headers: dict[str, str]


def _read(path: Path) -> _File:
    body = path.read_bytes()
    headers = {
        "Content-Type": f"{_TYPES[path.suffix]}; charset=utf-8",
        "Content-Security-Policy": _POLICY,
        "Cache-Control": "no-cache",  # kept, and compared by its ETag: modules of two versions would not fit together
        "ETag": f'"{hashlib.sha256(body).hexdigest()[:32]}"',
    }
    return _File(body, headers)


FILES: Final = {
    "/" if path.name == "index.html" else f"/page/{path.name}": _read(path)
    for path in sorted((Path(__file__).parent / "page").iterdir())
    if path.suffix in _TYPES
}
"""Path of the route → file."""


def answer(path: str, if_none_match: str) -> Response:
    """The file at one of `FILES`, or 304 if the caller has it: `if_none_match` is its header of that name."""
    file = FILES[path]
    known = {tag.strip().removeprefix("W/") for tag in if_none_match.split(",")}
    if file.headers["ETag"] in known or "*" in known:
        # With all of them: a browser puts them in place of those that it kept.
        return Response(status_code=304, headers=file.headers)
    return Response(file.body, headers=file.headers)
