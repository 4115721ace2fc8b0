"""The only module that prints: data to stdout; progress, warnings and errors to stderr."""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import contextmanager, nullcontext
from datetime import datetime
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console as RichConsole
from rich.console import Group
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from detectctl.wire import versioned

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from rich.status import Status

    from detectctl.client.outcomes import Outcome
    from detectctl.errors import DetectctlError
    from detectctl.lifecycle.down import DownResult
    from detectctl.lifecycle.logs import LogLine
    from detectctl.lifecycle.status import InstanceStatus
    from detectctl.lifecycle.up import UpResult
    from detectctl.precedence import Row
    from detectctl.progress import Progress
    from detectctl.registry.collection import CollectionVersion
    from detectctl.registry.store import StoredCheckpoint
    from detectctl.wire import EngineInfo, ModelInfo


class _Rich(RichConsole):
    """Lets the command line decide what happens when the reader of our output has gone; Rich would exit 1."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        raise BrokenPipeError


class Console:
    """Renders results for people, or as JSON for programs.

    Args:
        quiet: show warnings and errors, but no progress.
        no_color: never use colour.
    """

    def __init__(self, *, quiet: bool = False, no_color: bool = False) -> None:
        colour = None if no_color else "auto"
        self.quiet = quiet
        self.out = _Rich(highlight=False, color_system=colour, no_color=no_color or None)  # type: ignore[arg-type]
        self.err = _Rich(stderr=True, highlight=False, color_system=colour, no_color=no_color or None)  # type: ignore[arg-type]

    @property
    def is_terminal(self) -> bool:
        """Whether stdout is a terminal."""
        return self.out.is_terminal

    def json(self, data: dict[str, Any]) -> None:
        """One JSON document, with the number of its schema."""
        self.data(json.dumps(versioned(data), indent=2, ensure_ascii=False) + "\n")

    def json_line(self, data: dict[str, Any]) -> None:
        """One JSON document of many, on a line of its own."""
        self.data(json.dumps(versioned(data), ensure_ascii=False) + "\n")

    def data(self, text: str) -> None:
        """Text as it is: no wrapping, no markup."""
        sys.stdout.write(text)
        sys.stdout.flush()

    def line(self, text: str) -> None:
        """One line on stdout, not wrapped; `text` may hold markup."""
        self.out.print(text, soft_wrap=True)

    def warning(self, text: str) -> None:
        """One line on stderr."""
        self.err.print(f"[yellow]warning:[/] {escape(text)}", soft_wrap=True)

    def error(self, error: DetectctlError, about: str | None = None) -> None:
        """What failed, why, and the next command to try; `about` names the source among many."""
        prefix = "" if about is None or about in error.what else f"{about}: "
        self.err.print(f"[bold red]error:[/] {escape(prefix + error.what)}", soft_wrap=True)
        if error.why:
            self.err.print(f"  [dim]why:[/] {escape(error.why)}", soft_wrap=True)
        if error.hint:
            self.err.print(f"  [dim]try:[/] {escape(error.hint)}", soft_wrap=True)
        if error.request_id:
            self.err.print(f"  [dim]request:[/] {escape(error.request_id)}", soft_wrap=True)

    def lose_stderr(self) -> None:
        """Send what is still written there nowhere, also at exit: its reader has gone, or its disk is full."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
        self.err.quiet = True

    @contextmanager
    def progress(self) -> Iterator[ProgressLines]:
        """Live progress on stderr: a spinner on a terminal, a line per finished step elsewhere."""
        lines = ProgressLines(self)
        try:
            yield lines
        finally:
            lines.stop()

    def up(self, result: UpResult) -> None:
        """What `up` did, and what to do next."""
        model = _model_words(result.model)
        if result.action == "unchanged":
            self.line(f"[green]nothing to change[/]: {escape(result.name)} serves {model}")
        else:
            engine = _engine_words(result.engine)
            self.line(f"[green]{result.action}[/] {escape(result.name)} in {result.seconds:.1f} s: {model}, {engine}")
        _fallback_line(self, result.model)
        if result.api_key is not None:
            self.err.print(f"[bold]API key[/], shown this once: {escape(result.api_key)}", soft_wrap=True)
        key = "" if result.api_key_file is None else "-H 'X-API-Key: …' "
        self.line(f"  curl {key}'{result.endpoint}/detect?image_url=https://…'")
        if result.api_key_file is not None:
            self.line(f"  keys: {escape(result.api_key_file)}")

    def down(self, result: DownResult) -> None:
        """What `down` did."""
        name = escape(result.name)
        if result.action == "nothing":
            self.line(f"nothing to stop: instance {name} is not running")
        elif result.action == "cleaned":
            self.line(f"[green]cleaned up[/] after {name}, which was dead")
        else:
            drained = "every accepted request was answered" if result.drained else "requests may have been cut off"
            self.line(f"[green]stopped[/] {name} in {result.seconds:.1f} s; {drained}")

    def status(self, status: InstanceStatus) -> None:
        """One instance as a card."""
        self.out.print(self._card(status))

    def statuses(self, statuses: tuple[InstanceStatus, ...]) -> None:
        """All instances, one row each."""
        self.out.print(self._rows(statuses))

    @contextmanager
    def redrawing(self) -> Iterator[Callable[[InstanceStatus | tuple[InstanceStatus, ...] | str], None]]:
        """A function that shows what is new: in the place of the old on a terminal, below it elsewhere."""
        from rich.live import Live

        live = Live(console=self.out, auto_refresh=False, vertical_overflow="visible")

        def show(seen: InstanceStatus | tuple[InstanceStatus, ...] | str) -> None:
            new = (
                escape(seen)
                if isinstance(seen, str)
                else self._rows(seen)
                if isinstance(seen, tuple)
                else self._card(seen)
            )
            live.update(new, refresh=True) if self.is_terminal else self.out.print(new)

        with live if self.is_terminal else nullcontext():
            yield show

    def _card(self, status: InstanceStatus) -> Group:
        style = "green" if status.state == "running" else "yellow" if status.healthy else "red"
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="dim")
        grid.add_column(overflow="fold")
        grid.add_row("instance", f"{escape(status.name)}  [{style}]{status.state}[/]  up {_duration(status.uptime_s)}")
        if status.message:
            grid.add_row("", escape(status.message.strip().splitlines()[-1]))
        grid.add_row("endpoint", escape(status.endpoint))
        if status.model is not None:
            grid.add_row("model", _model_words(status.model))
            grid.add_row("", f"[dim]{_short_digest(status.model.digest)}[/]")
            if status.model.reason:
                grid.add_row("", f"[yellow]{_condition(status.model)}[/]: {escape(status.model.reason)}")
        if status.engine is not None:
            grid.add_row("engine", _engine_words(status.engine))
            if status.engine.agreement is not None:
                grid.add_row("", str(status.engine.agreement))
        wanted = "" if status.minimum == status.maximum else f", may be {status.minimum}..{status.maximum}"
        grid.add_row("replicas", f"{status.ready}/{status.wanted} ready{wanted}")
        failed = sum(status.errors.values())
        grid.add_row("requests", f"{status.requests}, {failed} failed{_latency(status)}")
        if status.errors:
            grid.add_row("", ", ".join(f"{escape(code)} {count}" for code, count in sorted(status.errors.items())))
        if not status.replicas:
            return Group(grid)
        table = _table("REPLICA", "STATE", "PID", "NODE", right=("PID",))
        for replica in status.replicas:
            short_id = escape(replica.replica_id.rpartition("#")[2])
            table.add_row(short_id, replica.state, str(replica.pid or "-"), replica.node_ip or "-")
        return Group(grid, "", table)

    def log_line(self, line: LogLine, *, as_json: bool) -> None:
        """One line of the service's log."""
        if as_json:
            self.json_line(line.to_json())
            return
        style = {"WARNING": "yellow", "ERROR": "red", "CRITICAL": "bold red"}.get(line.level, "dim")
        clock = datetime.fromtimestamp(line.time).astimezone().strftime("%H:%M:%S.%f")[:-3]
        details = " ".join(f"{key}={value}" for key, value in line.fields.items() if key != "traceback")
        self.line(
            f"[dim]{clock}[/] [{style}]{line.level:<7}[/] [dim]{escape(line.origin):<10}[/] "
            f"{escape(line.message)} [dim]{escape(details)}[/]"
        )
        if "traceback" in line.fields:
            self.line(escape(line.fields["traceback"]))

    def _rows(self, statuses: tuple[InstanceStatus, ...]) -> Table:
        table = _table("NAME", "STATE", "ENDPOINT", "MODEL", "READY", "REQUESTS", "P50", right=("REQUESTS", "P50"))
        for status in statuses:
            table.add_row(
                escape(status.name),
                status.state,
                escape(status.endpoint),
                _name_and_version(status.model) if status.model else "-",
                f"{status.ready}/{status.wanted}",
                str(status.requests),
                _milliseconds(status.p50_ms),
            )
        return table

    def config(self, rows: tuple[Row, ...], file: Path | None) -> None:
        """Every setting, and the file that was read."""
        table = _table("COMMAND", "SETTING", "VALUE", "FROM")
        for column in table.columns[2:]:
            column.no_wrap, column.overflow = False, "fold"
        for row in rows:
            style = "dim" if row.origin == "default" else "green"
            table.add_row(row.command or "every", row.key, f"[{style}]{escape(row.words)}[/]", escape(row.origin))
        self.line(f"settings file: {'none' if file is None else escape(str(file))}")
        self.out.print(table)

    def tracked(self, outcomes: Iterator[Outcome], total: int) -> Iterator[Outcome]:
        """The outcomes, with a progress bar on a terminal; each failure is reported as it comes.

        Args:
            outcomes: passed through.
            total: how many there will be.
        """
        from rich.progress import Progress as Bars

        shown = self.err.is_terminal and not self.quiet and total > 1
        with Bars(console=self.err, transient=True, disable=not shown) as bars:
            task = bars.add_task("images", total=total)
            for outcome in outcomes:
                bars.advance(task)
                if outcome.error is not None:
                    self.error(outcome.error, about=None if total == 1 else outcome.source.name)
                yield outcome

    def annotated(self, outcomes: Iterator[Outcome]) -> None:
        """Which files were written."""
        for outcome in outcomes:
            if outcome.output is not None:
                found = "" if outcome.result is None else f"  {_plural(len(outcome.result.detections), 'object')}"
                self.line(f"{escape(str(outcome.output))}[dim]{found}[/]")

    def versions(self, versions: tuple[CollectionVersion, ...]) -> None:
        """The versions of a collection, newest first."""
        table = _table("VERSION", "ALIASES", "CREATED", "SIZE", "DIGEST", "STORED", "SERVED", right=("SIZE",))
        for version in versions:
            table.add_row(
                escape(version.version),
                escape(", ".join(version.aliases)),
                escape(version.created[:10]),
                decimal(version.size),
                escape(version.digest[:12]),
                "yes" if version.stored else "no",
                escape(version.served or ""),
            )
        self.out.print(table)

    def pruned(self, checkpoints: Sequence[StoredCheckpoint], *, done: bool) -> None:
        """What prune removed, or would remove."""
        if not checkpoints:
            self.line("nothing to prune: every stored model is served, or is the base model")
            return
        for stored in checkpoints:
            self.line(f"{_short_digest('sha256:' + stored.sha256)}  {decimal(stored.size):>9}")
        total = decimal(sum(stored.size for stored in checkpoints))
        self.line(f"{'freed' if done else 'would free'} {total} of {_plural(len(checkpoints), 'model')}")

    def detections(self, outcomes: Iterator[Outcome], stream: TextIO | None = None) -> None:
        """A table of detections, for people; on stdout unless `stream` says otherwise."""
        target = self.out if stream is None else _Rich(file=stream, width=120)
        table = _table("SOURCE", "CLASS", "CONF", "X1", "Y1", "X2", "Y2", right=("CONF", "X1", "Y1", "X2", "Y2"))
        room = max(16, target.width - 52)  # what the other columns leave
        for outcome in outcomes:
            name = escape(_shortened(outcome.source.name, room))
            if outcome.result is None:
                continue
            if not outcome.result.detections:
                table.add_row(name, "[dim]nothing found[/]")
            for index, found in enumerate(outcome.result.detections):
                corners = (f"{value:.1f}" for value in found.xyxy)
                table.add_row(name if index == 0 else "", escape(found.class_name), f"{found.confidence:.2f}", *corners)
        if table.row_count:
            target.print(table)


class ProgressLines:
    """Reports on stderr what `up` and `down` do."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Status | None = None
        self._step = ""
        self._begun = time.monotonic()

    def report(self, progress: Progress) -> None:
        """Show one step; the work goes on even if nobody can see it any more."""
        try:
            self._report(progress)
        except OSError:
            self._console.lose_stderr()

    def _report(self, progress: Progress) -> None:
        if progress.warning:
            self._console.warning(progress.message)
            return
        if self._console.quiet:
            return
        if progress.step != self._step:
            self._step, self._begun = progress.step, time.monotonic()
        if progress.done:
            seconds = time.monotonic() - self._begun
            self._console.err.print(
                f"[green]✓[/] {progress.step:<9} {escape(progress.message)} [dim]{seconds:.1f} s[/]", soft_wrap=True
            )
        if self._console.err.is_terminal:
            self._show(progress)

    def _show(self, progress: Progress) -> None:
        percent = "" if progress.fraction is None else f" {progress.fraction:.0%}"
        text = f"{progress.step}: {escape(progress.message)}{percent}"
        if self._live is None:
            self._live = self._console.err.status(text)
            self._live.start()
        self._live.update(text)

    def stop(self) -> None:
        """Remove the spinner."""
        if self._live is not None:
            try:
                self._live.stop()
            except OSError:
                self._console.lose_stderr()
            self._live = None


def _table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    """Bare columns, two spaces apart, as `kubectl` prints them."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", no_wrap=True)
    return table


def _name_and_version(model: ModelInfo) -> str:
    words = escape(" ".join(filter(None, (model.name, model.version))))
    return f"{words} [yellow]{_condition(model)}[/]" if model.reason else words


def _model_words(model: ModelInfo) -> str:
    words = _name_and_version(model)
    if model.reference not in {"", "base", model.name}:
        words += f" [dim]({escape(model.reference)})[/]"
    return words


def _engine_words(engine: EngineInfo) -> str:
    return " ".join(filter(None, (engine.name, engine.precision, "on", engine.device)))


def _condition(model: ModelInfo) -> str:
    return "fallback" if model.fallback else "stale"


def _fallback_line(console: Console, model: ModelInfo) -> None:
    if model.reason:
        console.line(f"  [yellow]{_condition(model)}[/]: {escape(model.reason)}")


def _shortened(name: str, most: int) -> str:
    """The end of a long path or URL: that is where names differ."""
    return name if len(name) <= most else f"…{name[1 - most :]}"


def _short_digest(digest: str) -> str:
    """Enough of `sha256:…` to tell two digests apart; `--json` shows all of it."""
    return escape(digest[:23])


def _plural(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def _latency(status: InstanceStatus) -> str:
    if status.p50_ms is None:
        return ""
    return f"; p50 {_milliseconds(status.p50_ms)}, p99 {_milliseconds(status.p99_ms)}"


def _milliseconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f} ms" if value >= 10 else f"{value:.1f} ms"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d {hours}h"
    if hours:
        return f"{hours}h {minutes}m"
    return f"{minutes}m {seconds}s" if minutes else f"{seconds}s"
