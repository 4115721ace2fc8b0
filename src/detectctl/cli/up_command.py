"""`up`."""

from __future__ import annotations

import sys
from dataclasses import asdict

from detectctl.cli.options import Json, Session, command
from detectctl.settings import UpSettings
from detectctl.signals import Interrupted


@command
def up(session: Session, settings: UpSettings, as_json: Json = False) -> None:
    """Start or update the service; return once it answers."""
    from detectctl.lifecycle.up import up as bring_up

    with session.console.progress() as progress:
        result = bring_up(settings, session.paths, session.environ, progress.report)
    session.console.json(asdict(result)) if as_json else session.console.up(result)
    if settings.follow:
        _follow(session, settings)


def _follow(session: Session, settings: UpSettings) -> None:
    """Until SIGTERM, Ctrl-C, or somebody's `down`."""
    from detectctl.cli.instance_commands import take_down
    from detectctl.lifecycle.follow import Follower
    from detectctl.settings import DownSettings

    sys.stdout.flush()
    try:
        with session.console.progress() as progress:
            Follower(settings, session.paths, session.environ, progress.report).run()
    except Interrupted:
        pass  # how systemd and containers end what they started
    finally:
        if settings.down_on_exit:
            session.console.down(take_down(session, DownSettings(name=settings.name)))
