"""The only module that prints: data to stdout; progress, warnings and errors to stderr."""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, TextIO

from rich.console import Console as RichConsole
from rich.filesize import decimal

from detectctl.rendering import (
    bare_table,
    detections_table,
    engine_words,
    escape,
    model_words,
    picture,
    plural,
    short_digest,
)
from detectctl.wire import versioned

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from detectctl.client.outcomes import Outcome
    from detectctl.doctor.finding import Finding
    from detectctl.errors import DetectctlError
    from detectctl.lifecycle.course import Course
    from detectctl.lifecycle.down import DownResult
    from detectctl.lifecycle.logs import LogLine
    from detectctl.lifecycle.up import UpResult
    from detectctl.precedence import Row
    from detectctl.progress import Progress, Report
    from detectctl.registry.collection import CollectionVersion
    from detectctl.registry.kept import KeptModel
    from detectctl.registry.store import StoredCheckpoint
    from detectctl.rendering import Seen


class _Rich(RichConsole):
    """Lets the command line decide what happens when the reader of our output has gone; Rich would exit 1."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        raise BrokenPipeError


class Console:
    """Renders results for people, or as JSON for programs; `quiet` leaves out progress, not warnings and errors."""

    def __init__(self, *, quiet: bool = False, no_color: bool = False) -> None:
        colours: Literal["auto"] | None = None if no_color else "auto"
        self.quiet = quiet
        self.out = _Rich(highlight=False, color_system=colours)
        self.err = _Rich(highlight=False, color_system=colours, stderr=True)

    def json(self, data: dict[str, Any], *, on_one_line: bool = False) -> None:
        """A document with the number of its schema, neither wrapped nor coloured; one of many is on one line."""
        text = json.dumps(versioned(data), indent=None if on_one_line else 2, ensure_ascii=False)
        sys.stdout.write(text + "\n")
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
        for label, text in (
            ("why", error.why),
            ("try", error.hint),
            ("doctor", error.finding),
            ("request", error.request_id),
        ):
            if text:
                self.err.print(f"  [dim]{label}:[/] {escape(text)}", soft_wrap=True)

    @contextmanager
    def progress(self) -> Iterator[Report]:
        """Shows steps on stderr: a spinner on a terminal, a line per finished step elsewhere."""
        spinner, step, begun = self.err.status(""), "", time.monotonic()

        def report(progress: Progress) -> None:
            nonlocal step, begun
            with self._perhaps_unread():
                if progress.warning:
                    self.warning(progress.message)
                    return
                if self.quiet:
                    return
                if progress.step != step:
                    step, begun = progress.step, time.monotonic()
                message = escape(progress.message)
                if progress.done:
                    took = f"[dim]{time.monotonic() - begun:.1f} s[/]"
                    self.err.print(f"[green]✓[/] {step:<9} {message} {took}", soft_wrap=True)
                if self.err.is_terminal:
                    percent = "" if progress.fraction is None else f" {progress.fraction:.0%}"
                    spinner.update(f"{step}: {message}{percent}")
                    spinner.start()

        try:
            yield report
        finally:
            with self._perhaps_unread():
                spinner.stop()

    @contextmanager
    def _perhaps_unread(self) -> Iterator[None]:
        """Work goes on if the reader of stderr has gone, or its disk is full: the rest goes nowhere, also at exit."""
        try:
            yield
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
            self.err.quiet = True

    def up(self, result: UpResult) -> None:
        """What `up` did, and what to do next."""
        model = f"{model_words(result.model)}, {result.model.task}"
        if result.action == "unchanged":
            self.line(f"[green]nothing to change[/]: {escape(result.name)} serves {model}")
        else:
            engine = engine_words(result.engine)
            self.line(f"[green]{result.action}[/] {escape(result.name)} in {result.seconds:.1f} s: {model}, {engine}")
        if result.api_key is not None:
            self.err.print(f"[bold]API key[/], shown this once: {escape(result.api_key)}", soft_wrap=True)
        key = "" if result.api_key_file is None else "-H 'X-API-Key: …' "
        self.line(f"  curl {key}'{result.endpoint}/detect?image_url=https://…'")
        if len(result.endpoints) > 1:
            self.line(f"  {result.endpoint} stays; while they have replicas, also at {', '.join(result.endpoints[1:])}")
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

    def status(self, seen: Seen, course: Course | None = None) -> None:
        """What is known of one instance, or of several, or why none is."""
        self.out.print(picture(seen, course))

    @contextmanager
    def redrawing(self) -> Iterator[Callable[[Seen, Course | None], None]]:
        """As `status`, again and again: in the place of the old on a terminal, below it elsewhere."""
        if not self.out.is_terminal:
            yield self.status
            return
        from rich.live import Live

        with Live(console=self.out, auto_refresh=False, vertical_overflow="visible") as live:
            yield lambda seen, course: live.update(picture(seen, course), refresh=True)

    def log_line(self, line: LogLine, *, as_json: bool) -> None:
        """One line of the service's log."""
        if as_json:
            self.json(line.to_json(), on_one_line=True)
            return
        style = {"WARNING": "yellow", "ERROR": "red", "CRITICAL": "bold red"}.get(line.level, "dim")
        clock = datetime.fromtimestamp(line.time).astimezone().strftime("%H:%M:%S.%f")[:-3]
        details = " ".join(f"{key}={value}" for key, value in line.fields.items() if key != "traceback")
        self.line(
            f"[dim]{clock}[/] [{style}]{escape(line.level):<7}[/] [dim]{escape(line.origin):<10}[/] "
            f"{escape(line.message)} [dim]{escape(details)}[/]"
        )
        if "traceback" in line.fields:
            self.line(escape(line.fields["traceback"]))

    def finding(self, finding: Finding) -> None:
        """One line of the doctor's report."""
        if finding.level == "ok" and self.quiet:
            return
        style = {"ok": "green", "warning": "yellow", "failure": "bold red"}[finding.level]
        fix = f" [dim]try:[/] {escape(finding.fix)}" if finding.fix else ""
        self.line(f"[{style}]{finding.level:<7}[/] {finding.check}: {escape(finding.message)}{fix and ';'}{fix}")

    def config(self, rows: tuple[Row, ...], file: Path | None) -> None:
        """Every setting, and the file that was read."""
        table = bare_table("COMMAND SETTING VALUE~ FROM~")
        for row in rows:
            style = "dim" if row.origin == "default" else "green"
            table.add_row(row.command or "every", row.key, f"[{style}]{escape(row.words)}[/]", escape(row.origin))
        self.line(f"settings file: {'none' if file is None else escape(str(file))}")
        self.out.print(table)

    def left_out(self, kinds: Counter[str]) -> None:
        """How many files of folders are not sent, by kind: one line on stderr."""
        if (+kinds) and not self.quiet:
            words = ", ".join(f"{count} {kind or 'without a suffix'}" for kind, count in (+kinds).most_common(8))
            more = ", …" if len(+kinds) > 8 else ""
            self.err.print(f"[dim]left out, by kind:[/] {escape(words)}{more}", soft_wrap=True)

    def tracked(self, outcomes: Iterator[Outcome], total: int) -> Iterator[Outcome]:
        """The outcomes, with a progress bar up to `total` on a terminal; each failure is reported as it comes.

        At the end, how many answers were cut.
        """
        from rich.progress import Progress as Bars

        cut, shown = 0, self.err.is_terminal and not self.quiet and total > 1
        with Bars(console=self.err, transient=True, disable=not shown) as bars:
            task = bars.add_task("images", total=total)
            for outcome in outcomes:
                bars.advance(task)
                if outcome.error is not None:
                    self.error(outcome.error, about=None if total == 1 else outcome.source.name)
                cut += outcome.result is not None and outcome.result.truncated
                yield outcome
        if cut:
            self.warning(f"not all objects of {plural(cut, 'image')} are reported: raise --max-det or --conf")

    def annotated(self, outcomes: Iterator[Outcome]) -> None:
        """Which files were written."""
        for outcome in outcomes:
            if outcome.output is not None:
                found = "" if outcome.result is None else f"  {plural(len(outcome.result.detections), 'object')}"
                if outcome.result is not None and outcome.result.truncated:
                    found += ", more left out"
                self.line(f"{escape(str(outcome.output))}[dim]{found}[/]")

    def sheet(self, path: Path, count: int) -> None:
        """Which file has them all."""
        self.line(f"{escape(str(path))}[dim]  {plural(count, 'image')}[/]")

    def versions(self, versions: tuple[CollectionVersion, ...]) -> None:
        """The versions of a collection, newest first."""
        table = bare_table("VERSION ALIASES CREATED >SIZE DIGEST STORED SERVED")
        for each in versions:
            aliases, stored = escape(", ".join(each.aliases)), "yes" if each.stored else "no"
            known = (escape(each.version), aliases, escape(each.created[:10]), decimal(each.size))
            table.add_row(*known, escape(each.digest[:12]), stored, escape(each.served or ""))
        self.out.print(table)

    def kept(self, models: tuple[KeptModel, ...]) -> None:
        """What the store keeps."""
        if not models:
            self.line("no model is stored yet")
            return
        table = bare_table("MODEL~ SOURCE >SIZE DIGEST SERVED")
        for each in models:
            known = (escape(each.model), each.source, decimal(each.size), short_digest(each.digest))
            table.add_row(*known, escape(each.served or ""))
        self.out.print(table)

    def pruned(self, checkpoints: Sequence[StoredCheckpoint], *, done: bool) -> None:
        """What prune removed, or would remove."""
        if not checkpoints:
            self.line("nothing to prune: every stored model is served, or is the base model")
            return
        for stored in checkpoints:
            self.line(f"{short_digest('sha256:' + stored.sha256)}  {decimal(stored.size):>9}")
        total = decimal(sum(stored.size for stored in checkpoints))
        self.line(f"{'freed' if done else 'would free'} {total} of {plural(len(checkpoints), 'model')}")

    def detections(self, outcomes: Iterator[Outcome], stream: TextIO | None = None) -> None:
        """A table of detections, for people; on stdout unless `stream` says otherwise."""
        target = self.out if stream is None else _Rich(file=stream, width=120)
        if (found := detections_table(outcomes, target.width)) is not None:
            target.print(found)
