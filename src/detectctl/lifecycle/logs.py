"""The log lines of an instance, sorted by time: its requests, and what Serve and the replicas said.

Ray Serve writes files of JSON lines, and so does our request log. An instance that failed to start has left copies of
them in its state folder.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from detectctl.colours import without_colours
from detectctl.errors import NotRunning
from detectctl.hosts.log_files import new_lines
from detectctl.lifecycle.elsewhere import require_here
from detectctl.lifecycle.state import not_running

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from detectctl.hosts.host import NewLines
    from detectctl.lifecycle.state import InstanceFolder

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_POLL_S = 0.3
# Ray's greeting, which recommends commands for clusters that are not ours, `ray stop` among them.
_GREETING = re.compile(r"[\d-]+ [\d:,]+\t(INFO|SUCC) ")


@dataclass(frozen=True, slots=True, order=True)
class LogLine:
    """One line, or several if there is a traceback.

    Attributes:
        time: seconds since the epoch.
        level: one of `LEVELS`.
        origin: `controller`, `proxy`, `head`, or a replica's id.
        fields: what else the line says.
    """

    time: float
    level: str = field(compare=False)
    origin: str = field(compare=False)
    message: str = field(compare=False)
    fields: dict[str, Any] = field(compare=False)

    def to_json(self) -> dict[str, Any]:
        """For `logs --json`."""
        stamp = datetime.fromtimestamp(self.time, UTC).isoformat(timespec="milliseconds")
        return {"time": stamp, "level": self.level, "origin": self.origin, "message": self.message} | self.fields


@dataclass(frozen=True, slots=True)
class LogFilter:
    """Which lines to show: `replica` is the beginning of an id, `level` the lowest."""

    replica: str | None = None
    level: str = "INFO"

    def accepts(self, line: LogLine) -> bool:
        """Whether to show the line."""
        its = line.origin.startswith(self.replica or "")
        return its and LEVELS.index(line.level) >= LEVELS.index(self.level)


def lines(folder: InstanceFolder, wanted: LogFilter, tail: int, *, follow: bool) -> Iterator[LogLine]:
    """The last `tail` lines of the instance, oldest first; of the last failed start if none is running.

    With `follow`, then lines as they are written, until the instance is gone. NotRunning if there is no such instance,
    and none failed to start; NotReady if it runs on another machine.
    """
    reached: dict[Any, Any] = {}
    yield from _last(_lines(folder, wanted, reached, unfinished=not follow), tail)
    while follow and folder.read() is not None:
        with contextlib.suppress(NotRunning):  # `down` was quicker
            yield from sorted(_lines(folder, wanted, reached))
        time.sleep(_POLL_S)


def _last(lines: Iterable[LogLine], tail: int) -> list[LogLine]:
    """Sorted by time; lines of the same time stay in the order in which they were written."""
    ordered = sorted(lines)  # all are read, even if none is shown: whoever follows goes on from here
    return ordered[-tail:] if tail else []


def _lines(
    folder: InstanceFolder, wanted: LogFilter, reached: dict[Any, Any], *, unfinished: bool = False
) -> Iterator[LogLine]:
    for found in _read(folder, reached, unfinished=unfinished):
        yield from filter(wanted.accepts, _parsed(found))


def _read(folder: InstanceFolder, reached: dict[Any, Any], *, unfinished: bool) -> Iterator[NewLines]:
    state = folder.read()
    if state is None:
        if not folder.failed_logs.is_dir():
            raise not_running(folder.name)
        files = sorted(file for file in folder.failed_logs.iterdir() if file.is_file())
        yield from new_lines(files, reached, unfinished=unfinished)
        return
    require_here(folder, state)
    with state.open_host() as host:
        yield from host.new_log_lines(reached, unfinished=unfinished)


def _parsed(found: NewLines) -> Iterator[LogLine]:
    origin = _origin(found.file_name)
    for raw in found.lines:
        text = without_colours(raw.decode(errors="replace")).rstrip()
        try:
            data = json.loads(text)
            yield _request_line(origin, data) if "time" in data else _serve_line(origin, data)
        except (ValueError, KeyError, TypeError):  # plain text: the head's own words
            if text:
                level = "DEBUG" if _GREETING.match(text) else "INFO"
                yield LogLine(found.modified, level, origin, text, {})


def _request_line(origin: str, data: dict[str, Any]) -> LogLine:
    when = datetime.fromisoformat(data.pop("time")).timestamp()
    return LogLine(when, data.pop("level"), origin, data.pop("message"), data)


def _serve_line(origin: str, data: dict[str, Any]) -> LogLine:
    message = data["message"]
    if data.get("exc_text"):
        message += "\n" + data["exc_text"]
    kept = {"id": data["request_id"]} if data.get("request_id") else {}
    level = data["levelname"]
    if origin == "proxy" and level == "INFO":  # each reload of HAProxy's configuration
        level = "DEBUG"
    return LogLine(data["timestamp_ns"] / 1e9, level, origin, message, kept)


def _origin(file_name: str) -> str:
    stem = file_name.partition(".")[0]
    return stem.rpartition("_")[2] if stem.startswith("replica_") else stem.partition("_")[0]
