"""`config`: every setting, its value, and where that came from."""

from __future__ import annotations

from dataclasses import asdict

from detectctl.cli.options import Json, Session, command
from detectctl.precedence import rows
from detectctl.settings import Settings


@command
def config(session: Session, settings: Settings, as_json: Json = False) -> None:  # noqa: ARG001 - it has none
    """Show every setting, its value and where it came from."""
    found, file = tuple(rows(session.sources, session.flags)), session.sources.file
    if as_json:
        session.console.json({"file": file and str(file), "settings": [asdict(row) for row in found]})
    else:
        session.console.config(found, file)
