"""What results look like on a terminal: text with Rich's markup, tables and cards, which `console` prints."""

from __future__ import annotations

import math
from datetime import datetime
from itertools import chain, dropwhile, islice
from typing import TYPE_CHECKING

from rich import markup
from rich.cells import cell_len
from rich.console import Group
from rich.table import Table
from rich.text import Text

from detectctl import coco_pose
from detectctl.colours import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from detectctl.client.outcomes import Outcome
    from detectctl.lifecycle.course import Course
    from detectctl.lifecycle.status import InstanceStatus
    from detectctl.wire import Detection, DetectionResult, EngineInfo, ModelInfo

    Seen = InstanceStatus | tuple[InstanceStatus, ...] | str

_BARS = "▁▂▃▄▅▆▇█"


def escape(text: str) -> str:
    """The text as it may stand among Rich's markup; nothing in it does anything to the terminal.

    It may be of a model, or of a service that somebody else runs.
    """
    return markup.escape("\n".join(printable(line.expandtabs(), None) for line in text.split("\n")))


def detections_table(outcomes: Iterable[Outcome], width: int) -> Table | None:
    """A row for each object, in so many columns; None if no source was answered."""
    rows: list[tuple[str, dict[str, str]]] = []
    for outcome in outcomes:
        if outcome.result is None:
            continue
        found = [_cells(detection, outcome.result) for detection in outcome.result.detections]
        if outcome.result.truncated:
            found.append({"CLASS": "[dim]more left out[/]"})
        for number, cells in enumerate(found or [{"CLASS": "[dim]nothing found[/]"}]):
            rows.append(("" if number else outcome.source.name, cells))
    if not rows:
        return None
    columns = ["CLASS", *(name for name in (*_FIXED, *_OF_TASKS) if any(name in cells for _, cells in rows))]
    table = bare_table(" ".join(("SOURCE", "CLASS", *(f">{name}" for name in columns[1:]))))
    room = max(32, width - 2 - 8 * len(columns[1:]))  # what the numbers leave
    widest = max(Text.from_markup(cells["CLASS"]).cell_len for _, cells in rows)
    table.columns[1].max_width = most = min(max(widest, 11), room // 2)
    for name, cells in rows:
        table.add_row(escape(_end(name, room - most)), *(cells.get(column, "") for column in columns))
    return table


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


def bare_table(columns: str) -> Table:
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


def picture(seen: Seen, course: Course | None = None) -> Group | Table | str:
    """One instance as a card, with its course if that is known, or several as rows of a table, or why none is."""
    if isinstance(seen, str):
        return escape(seen)
    if not isinstance(seen, tuple):
        return _card(seen, course)
    table = bare_table("NAME~ STATE~ ENDPOINT MODEL~ READY >REQUESTS >P50")
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
    table = bare_table("REPLICA STATE >PID NODE VERSION >REQUESTS")
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
        yield "model", model_words(status.model)
        yield "", f"[dim]{short_digest(status.model.digest)}[/]"
        if status.model.reason:
            yield "", f"[yellow]{_condition(status.model)}[/]: {escape(status.model.reason)}"
        yield "task", status.model.task
    if status.engine is not None:
        yield "engine", engine_words(status.engine)
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


def model_words(model: ModelInfo) -> str:
    """Its name and version, and the reference if that says more."""
    words = _name_and_version(model)
    if model.reference not in {"", "base", model.name}:
        words += f" [dim]({escape(model.reference)})[/]"
    return words


def engine_words(engine: EngineInfo) -> str:
    """As in `openvino bf16 on cpu`."""
    return escape(" ".join(filter(None, (engine.name, engine.precision, "on", engine.device))))


def _condition(model: ModelInfo) -> str:
    return "fallback" if model.fallback else "stale"


def short_digest(digest: str) -> str:
    """Enough of `sha256:…` to tell two digests apart; `--json` shows all of it."""
    return escape(digest[:23])


def plural(count: int, word: str) -> str:
    """As in `1 image` and `2 images`."""
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
