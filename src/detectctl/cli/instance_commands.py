"""`up`, `status`, `logs` and `down`: what is done to an instance."""

from __future__ import annotations

import time
from contextlib import nullcontext, suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from detectctl.cli.doctor_command import note_finding
from detectctl.cli.options import Every, Json, Session, asked, command
from detectctl.errors import DetectctlError, FallbackServed, NotReady, NotRunning, UsageError
from detectctl.settings import SERVICE, DownSettings, LogsSettings, StatusSettings, UpSettings
from detectctl.signals import Interrupted

if TYPE_CHECKING:
    from detectctl.lifecycle.down import DownResult
    from detectctl.lifecycle.status import InstanceStatus
    from detectctl.rendering import Seen


@command
def up(session: Session, settings: UpSettings, as_json: Json = False) -> None:
    """Start or update the service; return once it answers."""
    from detectctl.lifecycle.up import up as bring_up

    try:
        with session.console.progress() as report:
            result = bring_up(settings, session.paths, session.environ, report)
    except DetectctlError as error:
        note_finding(error, settings)
        raise
    session.console.json(asdict(result)) if as_json else session.console.up(result)
    if not settings.follow:
        if result.model.fallback:  # the service runs, but whatever comes next was not meant for this model
            raise FallbackServed(
                f"{result.model.reference} is not served: {result.model.name} stands in for it",
                why="W&B did not deliver it within `--model-timeout`, and `--fallback` is in effect",
                hint="run the same `detectctl up` again later; with `--no-fallback` it starts nothing instead",
            )
        return
    from detectctl.lifecycle.follow import Follower

    try:  # until Ctrl-C, somebody's `down`, or the signal by which systemd and containers end what they started
        with suppress(Interrupted), session.console.progress() as report:
            Follower(settings, session.paths, session.environ, report).run()
    finally:
        if settings.down_on_exit:
            there = DownSettings(name=settings.name, address=settings.address, ray_token_file=settings.ray_token_file)
            session.console.down(_take_down(session, there))


_WATCH_S = 2.0
_SECONDS = f"With --watch: seconds between refreshes [default: {_WATCH_S:g}]"


@command
def status(
    session: Session,
    settings: StatusSettings,
    every: Every = False,
    watch: Annotated[bool, asked("Refresh every SECONDS, until Ctrl-C", SERVICE, "--watch")] = False,
    seconds: Annotated[str | None, typer.Argument(metavar="[SECONDS]", help=_SECONDS, show_default=False)] = None,
    as_json: Json = False,
) -> int:
    """Show what runs: model, replicas, requests, latency."""
    if watch:
        _watch(session, settings, _interval_s(seconds), every=every, as_json=as_json)
    if seconds is not None:
        raise UsageError(
            f"unexpected argument {seconds!r}",
            why="only --watch takes a number of seconds",
            hint=f"`detectctl status --name {seconds}` shows the instance {seconds}",
        )
    found, document = _look(session, settings, every=every)
    if as_json:
        session.console.json(document)
    if not found:
        raise NotRunning("no instance is running", why="none was started", hint="start one: `detectctl up`")
    if not as_json:
        session.console.status(found)
    healthy = all(one.healthy for one in (found if isinstance(found, tuple) else (found,)))
    return 0 if healthy else NotReady.exit_code


def _interval_s(seconds: str | None) -> float:
    with suppress(ValueError):
        interval_s = _WATCH_S if seconds is None else float(seconds)
        if 0.1 <= interval_s <= 86400:
            return interval_s
    raise UsageError(
        f"--watch is {seconds!r}",
        why="must be a number of seconds from 0.1 to 86400",
        hint="`detectctl status --watch 5`; an instance is named by `--name`",
    )


def _watch(session: Session, settings: StatusSettings, interval_s: float, *, every: bool, as_json: bool) -> NoReturn:
    """Until a signal; an instance that is not there may come yet."""
    from detectctl.lifecycle.course import Course
    from detectctl.lifecycle.status import InstanceStatus

    found: Seen
    course = Course()
    with nullcontext(session.console.status) if as_json else session.console.redrawing() as show:
        while True:
            try:
                found, document = _look(session, settings, every=every)
            except NotRunning:
                found = f"instance {settings.name} is not running"
                document = {"name": settings.name, "state": "not running"}
            if isinstance(found, InstanceStatus):
                course.note(found.stats)
            if as_json:
                session.console.json(document, on_one_line=True)
            else:
                show(found or "no instance is running", course)
            time.sleep(interval_s)


def _look(
    session: Session, settings: StatusSettings, *, every: bool
) -> tuple[InstanceStatus | tuple[InstanceStatus, ...], dict[str, Any]]:
    """What runs now, and the same as JSON."""
    from detectctl.lifecycle import status as statuses
    from detectctl.lifecycle.state import InstanceFolder

    if every:
        found = statuses.all_statuses(session.paths)
        return found, {"instances": [one.to_json() for one in found]}
    one = statuses.status(InstanceFolder.named(settings, session.paths.state))
    return one, one.to_json()


@command
def logs(
    session: Session,
    settings: LogsSettings,
    follow: Annotated[bool, asked("Follow the log, like tail -f", SERVICE, "--follow", "-f")] = False,
    replica: Annotated[str | None, asked("Only the lines of this replica (see status)", SERVICE, metavar="ID")] = None,
    as_json: Json = False,
) -> None:
    """Show the service's log lines, even if it failed to start."""
    from detectctl.lifecycle import logs as log_files
    from detectctl.lifecycle.state import InstanceFolder

    wanted = log_files.LogFilter(replica, settings.level.upper())
    folder = InstanceFolder.named(settings, session.paths.state)
    for line in log_files.lines(folder, wanted, settings.tail, follow=follow):
        session.console.log_line(line, as_json=as_json)


@command
def down(
    session: Session,
    settings: DownSettings,
    every: Every = False,
    force: Annotated[bool, asked("Do not wait for accepted requests", SERVICE, "--force")] = False,
    as_json: Json = False,
) -> int:
    """Finish accepted requests, then stop what `up` started."""
    from detectctl.lifecycle.down import down_all
    from detectctl.wire import error_json

    outcomes: dict[str, DownResult | DetectctlError]
    if every:
        with session.console.progress() as report:
            outcomes = dict(down_all(session.paths, timeout_s=settings.timeout, force=force, report=report))
        if not outcomes and not as_json:
            session.console.line("nothing to stop: no instance is running")
    else:
        outcomes = {settings.name: _take_down(session, settings, force=force)}
    documents, exit_codes = [], [0]
    for name, outcome in outcomes.items():
        if isinstance(outcome, DetectctlError):
            documents.append({"name": name, "action": "failed", "error": error_json(outcome)})
            exit_codes.append(outcome.exit_code)
            session.console.error(outcome, about=name)
            continue
        documents.append(asdict(outcome))
        if outcome.action == "stopped" and not outcome.drained and not force:
            exit_codes.append(NotReady.exit_code)  # down, but before every accepted request was answered
        if not as_json:
            session.console.down(outcome)
    if as_json:
        session.console.json({"instances": documents} if every else documents[0])
    return max(exit_codes)


def _take_down(session: Session, settings: DownSettings, *, force: bool = False) -> DownResult:
    from detectctl.lifecycle.down import down as stop
    from detectctl.lifecycle.state import InstanceFolder

    folder = InstanceFolder.named(settings, session.paths.state)
    with session.console.progress() as report:
        return stop(folder, timeout_s=settings.timeout, force=force, report=report)
