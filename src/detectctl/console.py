"""The only module that prints: data to stdout; progress, warnings and errors to stderr."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from contextlib import contextmanager
from datetime import datetime
from itertools import chain, dropwhile, islice
from typing import TYPE_CHECKING, Any, Literal, TextIO

from rich import markup
from rich.cells import cell_len
from rich.console import Console as RichConsole
from rich.console import Group
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from detectctl import coco_pose
from detectctl.colours import printable
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
    from detectctl.lifecycle.status import InstanceStatus
    from detectctl.lifecycle.up import UpResult
    from detectctl.precedence import Row
    from detectctl.progress import Progress, Report
    from detectctl.registry.collection import CollectionVersion
    from detectctl.registry.kept import KeptModel
    from detectctl.registry.store import StoredCheckpoint
    from detectctl.wire import Detection, DetectionResult, EngineInfo, ModelInfo

    Seen = InstanceStatus | tuple[InstanceStatus, ...] | str

_BARS = "▁▂▃▄▅▆▇█"


def escape(text: str) -> str:
    """The text as it may stand among Rich's markup; nothing in it does anything to the terminal.

    It may be of a model, or of a service that somebody else runs.
    """
    return markup.escape("\n".join(printable(line.expandtabs(), None) for line in text.split("\n")))


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
        model = f"{_model_words(result.model)}, {result.model.task}"
        if result.action == "unchanged":
            self.line(f"[green]nothing to change[/]: {escape(result.name)} serves {model}")
        else:
            engine = _engine_words(result.engine)
            self.line(f"[green]{result.action}[/] {escape(result.name)} in {result.seconds:.1f} s: {model}, {engine}")
        if result.api_key is not None:
            self.err.print(f"[bold]API key[/], shown this once: {escape(result.api_key)}", soft_wrap=True)
        key = "" if result.api_key_file is None else "-H 'X-API-Key: …' "
        self.line(f"  curl {key}'{result.endpoint}/detect?image_url=https://…'")
        if len(result.endpoints) > 1:  # the first is the one that stays
            self.line(f"  also at {', '.join(result.endpoints[1:])}")
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
        """One instance as a card, with its course if that is known, or several as rows of a table, or why none is."""
        self.out.print(_picture(seen, course))

    @contextmanager
    def redrawing(self) -> Iterator[Callable[[Seen, Course | None], None]]:
        """As `status`, again and again: in the place of the old on a terminal, below it elsewhere."""
        if not self.out.is_terminal:
            yield self.status
            return
        from rich.live import Live

        with Live(console=self.out, auto_refresh=False, vertical_overflow="visible") as live:
            yield lambda seen, course: live.update(_picture(seen, course), refresh=True)

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
        table = _table("COMMAND SETTING VALUE~ FROM~")
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
            self.warning(f"not all objects of {_plural(cut, 'image')} are reported: raise --max-det or --conf")

    def annotated(self, outcomes: Iterator[Outcome]) -> None:
        """Which files were written."""
        for outcome in outcomes:
            if outcome.output is not None:
                found = "" if outcome.result is None else f"  {_plural(len(outcome.result.detections), 'object')}"
                if outcome.result is not None and outcome.result.truncated:
                    found += ", more left out"
                self.line(f"{escape(str(outcome.output))}[dim]{found}[/]")

    def sheet(self, path: Path, count: int) -> None:
        """Which file has them all."""
        self.line(f"{escape(str(path))}[dim]  {_plural(count, 'image')}[/]")

    def versions(self, versions: tuple[CollectionVersion, ...]) -> None:
        """The versions of a collection, newest first."""
        table = _table("VERSION ALIASES CREATED >SIZE DIGEST STORED SERVED")
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
        table = _table("MODEL~ SOURCE >SIZE DIGEST SERVED")
        for each in models:
            known = (escape(each.model), each.source, decimal(each.size), _short_digest(each.digest))
            table.add_row(*known, escape(each.served or ""))
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
        rows: list[tuple[str, dict[str, str]]] = []
        for outcome in outcomes:
            if outcome.result is None:
                continue
            found = [_cells(detection, outcome.result) for detection in outcome.result.detections]
            if outcome.result.truncated:
                found.append({"CLASS": "[dim]more left out[/]"})
            for number, cells in enumerate(found or [{"CLASS": "[dim]nothing found[/]"}]):
                rows.append(("" if number else outcome.source.name, cells))
        columns = ["CLASS", *(name for name in (*_FIXED, *_OF_TASKS) if any(name in cells for _, cells in rows))]
        table = _table(" ".join(("SOURCE", "CLASS", *(f">{name}" for name in columns[1:]))))
        room = max(32, target.width - 2 - 8 * len(columns[1:]))  # what the numbers leave
        widest = max((Text.from_markup(cells["CLASS"]).cell_len for _, cells in rows), default=0)
        table.columns[1].max_width = most = min(max(widest, 11), room // 2)
        for name, cells in rows:
            table.add_row(escape(_end(name, room - most)), *(cells.get(column, "") for column in columns))
        if rows:
            target.print(table)


def _end(name: str, room: int) -> str:
    """As much of a name's end, where names differ, as fits into so many columns."""
    if cell_len(name) <= room:
        return name
    while cell_len(name) >= room:
        name = name[1:]
    return f"…{name}"


_FIXED = ("CONF", "X1", "Y1", "X2", "Y2")
_OF_TASKS = ("AREA", "POINTS", "ANGLE")


def _cells(detection: Detection, result: DetectionResult) -> dict[str, str]:
    """By column what fits into a line: of a mask its share of the picture, of keypoints how many are sure."""
    cells = {"CLASS": escape(detection.class_name), "CONF": f"{detection.confidence:.2f}"}
    if result.model.task != "classify":  # or the box is the picture
        cells |= {name: f"{value:.1f}" for name, value in zip(("X1", "Y1", "X2", "Y2"), detection.xyxy, strict=True)}
    if detection.mask is not None:
        cells["AREA"] = f"{detection.area / (result.width * result.height):.1%}"
    if detection.keypoints is not None:
        seen = sum(len(point) == 2 or point[2] >= coco_pose.SEEN for point in detection.keypoints)
        cells["POINTS"] = f"{seen}/{len(detection.keypoints)}"
    if detection.angle is not None:
        cells["ANGLE"] = f"{math.degrees(detection.angle):.0f}°"
    return cells


def _table(columns: str) -> Table:
    """Bare columns, two spaces apart, as `kubectl` prints them; `>` is aligned to the right, `~` is folded to fit."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for column in columns.split():
        table.add_column(
            column.strip(">~"),
            justify="right" if column.startswith(">") else "left",
            no_wrap=not column.endswith("~"),
            overflow="fold" if column.endswith("~") else "ellipsis",
        )
    return table


def _picture(seen: Seen, course: Course | None = None) -> Group | Table | str:
    if isinstance(seen, str):
        return escape(seen)
    if not isinstance(seen, tuple):
        return _card(seen, course)
    table = _table("NAME~ STATE~ ENDPOINT MODEL~ READY >REQUESTS >P50")
    for each in seen:
        model = _name_and_version(each.model) if each.model else "-"
        if each.model and each.model.task != "detect":  # there is no room to name what nearly all are for
            model += f" [dim]{each.model.task}[/]"
        ready = f"{each.ready}/{each.wanted}"
        counted = (str(each.requests), _milliseconds(each.p50_ms))
        table.add_row(escape(each.name), each.state, escape(each.endpoint), model, ready, *counted)
    return table


def _card(status: InstanceStatus, course: Course | None) -> Group:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column(overflow="fold")
    for label, text in chain(_card_lines(status), _course_lines(course) if course else ()):
        grid.add_row(label, text)
    if not status.replicas:
        return Group(grid)
    table = _table("REPLICA STATE >PID NODE VERSION >REQUESTS")
    for replica in status.replicas:
        short_id = escape(replica.replica_id.rpartition("#")[2])
        counted = (escape((replica.version or "-")[:15]), "-" if replica.requests is None else str(replica.requests))
        table.add_row(short_id, replica.state, str(replica.pid or "-"), replica.node_ip or "-", *counted)
    return Group(grid, "", table)


def _card_lines(status: InstanceStatus) -> Iterator[tuple[str, str]]:
    """Each line with its label; a line without one belongs to the line above."""
    style = "green" if status.state == "running" else "yellow" if status.healthy else "red"
    yield "instance", f"{escape(status.name)}  [{style}]{status.state}[/]  up {_duration(status.uptime_s)}"
    if status.message:
        yield "", escape(status.message.strip().splitlines()[-1])
    yield "endpoint", escape(status.endpoint)
    if status.model is not None:
        yield "model", _model_words(status.model)
        yield "", f"[dim]{_short_digest(status.model.digest)}[/]"
        if status.model.reason:
            yield "", f"[yellow]{_condition(status.model)}[/]: {escape(status.model.reason)}"
        yield "task", status.model.task
    if status.engine is not None:
        yield "engine", _engine_words(status.engine)
        if status.engine.agreement is not None:
            yield "", str(status.engine.agreement)
    scales = "" if status.minimum == status.maximum else f", may be {status.minimum}..{status.maximum}"
    sized = f"; auto: {status.sizing}" if status.sizing else ""
    yield "replicas", f"{status.ready}/{status.wanted} ready{scales}{sized}"
    latency = f"; p50 {_milliseconds(status.p50_ms)}, p99 {_milliseconds(status.p99_ms)}"
    failed = f"{sum(status.errors.values())} failed"
    yield "requests", f"{status.requests}, {failed}{latency if status.p50_ms is not None else ''}"
    if status.errors:
        yield "", ", ".join(f"{escape(code)} {count}" for code, count in sorted(status.errors.items()))


def _course_lines(course: Course) -> Iterator[tuple[str, str]]:
    """Curves from the oldest look to this one, each beside its last value, and the last errors."""
    steps = course.steps
    if steps:
        rates = [step.requests_per_s for step in steps]
        yield "per second", f"{_curve(rates)} {rates[-1]:.1f}"
        for label, times in (("p50", [step.p50_ms for step in steps]), ("p99", [step.p99_ms for step in steps])):
            yield label, f"{_curve(times)} {_milliseconds(times[-1])}"
    for place, (at, code, count) in enumerate(course.errors):
        clock = datetime.fromtimestamp(at).astimezone().strftime("%H:%M:%S")
        yield "" if place else "errors", f"[dim]{clock}[/] {escape(code)} {count}"


def _curve(values: Sequence[float | None]) -> str:
    """A character for each, as high as it is beside the highest; nothing where there is none."""
    highest = max((value for value in values if value is not None), default=0.0) or 1.0
    return "".join(" " if value is None else _BARS[round(value / highest * (len(_BARS) - 1))] for value in values)


def _name_and_version(model: ModelInfo) -> str:
    words = escape(" ".join(filter(None, (model.name, model.version))))
    return f"{words} [yellow]{_condition(model)}[/]" if model.reason else words


def _model_words(model: ModelInfo) -> str:
    words = _name_and_version(model)
    if model.reference not in {"", "base", model.name}:
        words += f" [dim]({escape(model.reference)})[/]"
    return words


def _engine_words(engine: EngineInfo) -> str:
    return escape(" ".join(filter(None, (engine.name, engine.precision, "on", engine.device))))


def _condition(model: ModelInfo) -> str:
    return "fallback" if model.fallback else "stale"


def _short_digest(digest: str) -> str:
    """Enough of `sha256:…` to tell two digests apart; `--json` shows all of it."""
    return escape(digest[:23])


def _plural(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def _milliseconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f} ms" if value >= 10 else f"{value:.1f} ms"


def _duration(seconds: float) -> str:
    """In the two largest units that are not zero, as in `3h 5m`."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    units = ((days, "d"), (hours, "h"), (minutes, "m"), (seconds, "s"))
    return " ".join(f"{count}{unit}" for count, unit in islice(dropwhile(lambda each: not each[0], units), 2)) or "0s"
