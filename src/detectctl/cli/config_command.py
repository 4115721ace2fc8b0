"""`config`: every setting, its value, and where that came from."""

from __future__ import annotations

from detectctl.cli.options import Json, Session, command
from detectctl.settings import ConfigSettings, rows


@command
def config(session: Session, settings: ConfigSettings, as_json: Json = False) -> None:  # noqa: ARG001 - it has none
    """Show every setting, its value and where it came from."""
    sources = session.sources
    found = rows(sources, session.flags)
    if as_json:
        session.console.json({"file": sources.file and str(sources.file), "settings": [row.to_json() for row in found]})
    else:
        session.console.config(found, sources.file)
