"""`models`: what the store holds, and the versions of a W&B collection."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Annotated

import typer

from detectctl.cli.options import Json, Session, asked, command
from detectctl.errors import UsageError
from detectctl.settings import OPTIONS, ModelsSettings

_WHICH = "A W&B collection, entity/project/name; leave it out to list the stored models"
Collection = Annotated[str | None, typer.Argument(metavar="[REF]", help=_WHICH, show_default=False)]


@command
def models(
    session: Session,
    settings: ModelsSettings,
    reference: Collection = None,
    prune: Annotated[bool, asked("Delete cached models that no instance is serving", OPTIONS, "--prune")] = False,
    yes: Annotated[bool, asked("With --prune: do not ask", OPTIONS, "--yes", "-y")] = False,
    as_json: Json = False,
) -> None:
    """List stored models or a collection's versions, or free space."""
    if prune:
        _prune(session, settings, yes=yes, as_json=as_json)
        return
    from detectctl.lifecycle.state import served_artifacts, served_digests
    from detectctl.registry import collection
    from detectctl.registry.kept import kept_models

    if reference is None:
        kept = kept_models(session.paths.cache, served_digests(settings, session.paths.state))
        session.console.json({"models": [asdict(one) for one in kept]}) if as_json else session.console.kept(kept)
        return

    found = collection.versions(
        reference,
        cache=session.paths.cache,
        environ=session.environ,
        timeout_s=settings.model_timeout,
        served=served_artifacts(settings, session.paths.state),
    )
    if as_json:
        session.console.json({"versions": [{**asdict(one), "stored": one.stored} for one in found]})
    else:
        session.console.versions(found)


def _prune(session: Session, settings: ModelsSettings, *, yes: bool, as_json: bool) -> None:
    from detectctl.lifecycle import prune

    console = session.console
    doomed = prune.unserved(session.paths)
    if doomed and not yes:
        if not sys.stdin.isatty():
            raise UsageError(
                "models --prune needs a confirmation",
                why="standard input is not a terminal, so it cannot ask",
                hint="`detectctl models --prune --yes`",
            )
        if not as_json:
            console.pruned(doomed, done=False)
        if not typer.confirm(f"Remove {len(doomed)}?", err=True):
            console.json({"removed": []}) if as_json else console.line("nothing was removed")
            return
    agreed = {stored.sha256 for stored in doomed}
    timeout_s = settings.model_timeout
    removed = prune.prune(session.paths, agreed, timeout_s=timeout_s, report=lambda news: console.warning(news.message))
    if as_json:
        console.json({"removed": [{"sha256": stored.sha256, "size": stored.size} for stored in removed]})
    else:
        console.pruned(removed, done=True)
