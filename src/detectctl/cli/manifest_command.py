"""`manifest`: what to apply on Kubernetes; and `prepare`, which pods run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from detectctl.cli.image_commands import OneFile
from detectctl.cli.options import Session, command
from detectctl.settings import ManifestSettings, UpSettings


@command
def manifest(session: Session, settings: ManifestSettings, output: OneFile = None) -> None:
    """Write a Kubernetes manifest for the same service."""
    from detectctl.client.outputs import text_file
    from detectctl.lifecycle import manifest as manifests

    with text_file(output) as stream, session.console.progress() as report:
        text = manifests.manifest(settings, session.paths, session.environ, report)
        (stream or sys.stdout).write(text)


@command
def prepare(
    session: Session,
    settings: UpSettings,
    sha256: Annotated[str, typer.Argument(help="Of the checkpoint")],
    target: Annotated[Path, typer.Argument(help="Where the replica looks for the model")],
) -> None:
    """Put the model where a pod's replica looks for it."""
    from detectctl.lifecycle import manifest as manifests

    with session.console.progress() as report:
        manifests.prepare(settings, sha256, target, session.paths, session.environ, report)
