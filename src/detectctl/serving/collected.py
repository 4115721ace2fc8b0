"""What all replicas of a service on a cluster have counted: in one file on its head, which outlives them all.

Whoever writes it holds a lock on the file beside it: for the length of an update, two do.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from detectctl.files import lock, write_atomically
from detectctl.serving.tally import Content, Key, total

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

LIVING_S = 6.0
"""Who was heard of so lately is taken to live."""
_FORGOTTEN_S = 600.0
_LOCK_S = 2.0
DAMAGED = (ValueError, LookupError, TypeError, AttributeError)
"""What a file raises that is none of ours."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What one replica has said of itself, and when: seconds since the epoch, by the head's clock."""

    at: float
    about: dict[str, Any]
    values: dict[Key, float]


@dataclass
class Collected:
    """What is known of an application.

    Attributes:
        replicas: the last word of each, by its id.
        ended: the sum over those that have not been heard of for long; else each that ever was would stay here.
        ended_ids: of these.
    """

    replicas: dict[str, Heard] = field(default_factory=dict)
    ended: dict[Key, float] = field(default_factory=dict)
    ended_ids: list[str] = field(default_factory=list)

    @classmethod
    def parse(cls, text: str | bytes) -> Self:
        """As it is in the file; one of `DAMAGED` if it is none."""
        told = json.loads(text)
        replicas = {
            replica: Heard(one["heard"], one["about"], _values(one["counted"]))
            for replica, one in told["replicas"].items()
        }
        return cls(replicas, _values(told["ended"]["counted"]), list(told["ended"]["replicas"]))

    def text(self) -> str:
        """For the file."""
        replicas = {
            replica: {"heard": one.at, "about": one.about, "counted": _rows(one.values)}
            for replica, one in self.replicas.items()
        }
        ended = {"replicas": self.ended_ids, "counted": _rows(self.ended)}
        return json.dumps({"replicas": replicas, "ended": ended}) + "\n"

    def add(self, news: Mapping[str, Heard], living: Collection[str], now: float) -> None:
        """Put news in the place of what was known of the same replicas, and make one sum of those long gone.

        Args:
            news: the last word of some.
            living: replicas that are not gone, whatever the clock says.
            now: seconds since the epoch.
        """
        self.replicas.update({replica: one for replica, one in news.items() if replica not in self.ended_ids})
        for replica, one in list(self.replicas.items()):
            if one.at < now - _FORGOTTEN_S and replica not in living:
                self.ended = total([self.ended, one.values])
                self.ended_ids.append(replica)
                del self.replicas[replica]

    def contents(self, now: float | None = None) -> list[Content]:
        """For sums. With `now`, seconds since the epoch, the dead say nothing of themselves but what they counted."""
        found: list[Content] = [({}, self.ended)]
        for replica, one in self.replicas.items():
            living = now is None or one.at > now - LIVING_S
            found.append(({**one.about, "replica": replica} if living else {}, one.values))
        return found


def update(file: Path, news: Mapping[str, Heard], living: Collection[str]) -> Collected:
    """As `Collected.add`, in the file; OSError if it cannot be written, or somebody does not let go of it."""
    with lock(_lock_file(file), _LOCK_S):
        try:
            known = Collected.parse(file.read_bytes())
        except (FileNotFoundError, *DAMAGED):
            known = Collected()
        known.add(news, living, time.time())
        write_atomically(file, known.text())
    return known


def file_name(application: str) -> str:
    """Among Serve's logs."""
    return f"counters_{application}.json"


def counters_file(application: str) -> Path:
    """On the head, where the dashboard shows it to whoever may read logs."""
    from ray.serve._private.logging_utils import get_serve_logs_dir

    return Path(get_serve_logs_dir()) / file_name(application)


def forget(application: str) -> None:
    """Whoever comes next under this name begins with nothing."""
    file = counters_file(application)
    for each in (file, _lock_file(file)):
        each.unlink(missing_ok=True)


def _lock_file(file: Path) -> Path:
    return file.with_suffix(".lock")


def _rows(values: Mapping[Key, float]) -> list[list[Any]]:
    return [[*key, value] for key, value in values.items()]


def _values(rows: list[list[Any]]) -> dict[Key, float]:
    return {tuple(key): float(value) for *key, value in rows}
