"""`status`, `logs` and `down`: what is done to a running instance."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detectctl.cli.options import Every, Json, Session, asked, command
from detectctl.errors import DetectctlError, NotReady, NotRunning, UsageError
from detectctl.settings import SERVICE, DownSettings, LogsSettings, StatusSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from detectctl.lifecycle.down import DownResult
    from detectctl.lifecycle.status import InstanceStatus


_SECONDS = "With --watch: time between two looks [default: 2]"


@command
def status(
    session: Session,
    settings: StatusSettings,
    every: Every = False,
    watch: Annotated[bool, asked("Show it again every SECONDS, until Ctrl-C", SERVICE, "--watch")] = False,
    seconds: Annotated[str | None, typer.Argument(metavar="[SECONDS]", help=_SECONDS, show_default=False)] = None,
    as_json: Json = False,
) -> int:
    """Show what runs: model, replicas, requests, latency."""
    if watch:
        _watch(session, settings, _interval(seconds), every=every, as_json=as_json)
    if seconds is not None:
        raise UsageError(
            f"unexpected argument {seconds!r}",
            why="only --watch takes a number of seconds",
            hint=f"`detectctl status --name {seconds}` shows the instance {seconds}",
        )
    found = _look(session, settings, every=every)
    if as_json:
        session.console.json(_status_json(found, every=every))
    if not found:
        raise NotRunning("no instance is running", hint="start one: `detectctl up`")
    if every and not as_json:
        session.console.statuses(found)
    elif not as_json:
        session.console.status(found[0])
    return 0 if all(one.healthy for one in found) else NotReady.exit_code


def _interval(seconds: str | None) -> float:
    try:
        interval_s = 2.0 if seconds is None else float(seconds)
    except ValueError:
        interval_s = 0.0
    if not 0.1 <= interval_s <= 86400:
        raise UsageError(
            f"--watch is {seconds!r}",
            why="must be a number of seconds from 0.1 to 86400",
            hint="`detectctl status --watch 5`; an instance is named by `--name`",
        )
    return interval_s


def _look(session: Session, settings: StatusSettings, *, every: bool) -> tuple[InstanceStatus, ...]:
    from detectctl.lifecycle import status as statuses

    return statuses.all_statuses(session.paths) if every else (statuses.status(settings.name, session.paths),)


def _status_json(found: tuple[InstanceStatus, ...], *, every: bool) -> dict[str, Any]:
    told = [asdict(one) for one in found]
    return {"instances": told} if every else told[0]


def _watch(session: Session, settings: StatusSettings, interval_s: float, *, every: bool, as_json: bool) -> None:
    """Until a signal."""
    looks = _looks(session, settings, interval_s, every=every)
    if as_json:
        for found in looks:
            absent = {"name": settings.name, "state": "not running"}
            session.console.json_line(_status_json(found, every=every) if found or every else absent)
    with session.console.redrawing() as show:
        for found in looks:
            show(found if every else found[0] if found else f"instance {settings.name} is not running")


def _looks(
    session: Session, settings: StatusSettings, interval_s: float, *, every: bool
) -> Iterator[tuple[InstanceStatus, ...]]:
    """What runs, again and again; an instance that is not there may come yet."""
    while True:
        try:
            yield _look(session, settings, every=every)
        except NotRunning:
            yield ()
        time.sleep(interval_s)


@command
def logs(
    session: Session,
    settings: LogsSettings,
    follow: Annotated[bool, asked("Follow the log, like tail -f", SERVICE, "--follow", "-f")] = False,
    replica: Annotated[str | None, asked("Only the lines of this replica (see status)", SERVICE, metavar="ID")] = None,
    as_json: Json = False,
) -> None:
    """Show the service's log lines, also of one that failed to start."""
    from detectctl.lifecycle import logs as log_files

    wanted = log_files.LogFilter(replica, settings.level.upper())
    for line in log_files.lines(settings.name, session.paths, wanted, settings.tail, follow=follow):
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
    outcomes: dict[str, DownResult | DetectctlError]
    if every:
        outcomes = _take_all_down(session, settings, force=force)
        if not outcomes and not as_json:
            session.console.line("nothing to stop: no instance is running")
    else:
        outcomes = {settings.name: take_down(session, settings, force=force)}
    for name, outcome in outcomes.items():
        if isinstance(outcome, DetectctlError):
            session.console.error(outcome, about=name)
        elif not as_json:
            session.console.down(outcome)
    if as_json:
        told = [_down_json(name, outcome) for name, outcome in outcomes.items()]
        session.console.json({"instances": told} if every else told[0])
    return max((_down_code(outcome, force=force) for outcome in outcomes.values()), default=0)


def _down_json(name: str, outcome: DownResult | DetectctlError) -> dict[str, Any]:
    from detectctl.wire import error_json

    if isinstance(outcome, DetectctlError):
        return {"name": name, "action": "failed", "error": error_json(outcome)}
    return asdict(outcome)


def _down_code(outcome: DownResult | DetectctlError, *, force: bool) -> int:
    """4 also for one that is down, if the deadline passed before every accepted request was answered."""
    if isinstance(outcome, DetectctlError):
        return outcome.exit_code
    cut_off = outcome.action == "stopped" and not outcome.drained and not force
    return NotReady.exit_code if cut_off else 0


def _take_all_down(session: Session, settings: DownSettings, *, force: bool) -> dict[str, DownResult | DetectctlError]:
    from detectctl.lifecycle.down import down_all

    with session.console.progress() as progress:
        return dict(down_all(session.paths, timeout_s=settings.timeout, force=force, report=progress.report))


def take_down(session: Session, settings: DownSettings, *, force: bool = False) -> DownResult:
    """One instance, with its progress shown."""
    from detectctl.lifecycle.down import down as stop

    with session.console.progress() as progress:
        return stop(settings.name, session.paths, timeout_s=settings.timeout, force=force, report=progress.report)
