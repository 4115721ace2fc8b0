"""Numbers that outlive the process that counts them: after each change, whoever reads the file sees it."""

from __future__ import annotations

import json
import logging
import os
from array import array
from typing import TYPE_CHECKING, Any

from detectctl.files import reason, write_atomically
from detectctl.serving.request_log import LOGGER

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

Key = tuple[str, ...]
"""What is counted, and the values of its labels."""
Content = tuple[dict[str, Any], dict[Key, float]]
"""What a tally says of its numbers, and these."""
SUFFIX = ".tally"
_LOOKS = 20

logger = logging.getLogger(LOGGER)


class Tally:
    """Numbers by key, in memory and in a file that has one writer.

    The file is a line of JSON, which says what the numbers are, and then the numbers as they lie in memory. A change is
    one short write to the system's cache, which loses nothing when the process is killed. Memory mapped from a file
    would do the same, until the disk is full: then it ends the process.

    Args:
        path: continued if it is there; None keeps the numbers in memory only.
        about: what else the file says of them, as JSON.
    """

    def __init__(self, path: Path | None, about: dict[str, Any] | None = None) -> None:
        self.path = path
        self.about = about or {}
        self._places: dict[Key, int] = {}
        self._values = array("d")
        self._descriptor: int | None = None
        self._start = 0
        self._failed = False
        if path is not None and (there := readable(path)) is not None:
            self._note(there[1].items())

    @property
    def values(self) -> dict[Key, float]:
        """The numbers; may be asked for in another thread than the one that changes them."""
        return dict(zip(self._places, self._values, strict=False))  # one of them may be new, and not yet named

    def describe(self, about: dict[str, Any]) -> None:
        """Say something else of the numbers."""
        self.about = about
        self.close()
        self.add()

    def add(self, *changes: tuple[Key, float]) -> None:
        """Change some of the numbers, all at once."""
        self._note(changes)
        if self.path is None:
            return
        try:
            if self._descriptor is None:
                self._descriptor = self._replace(self.path)
            elif os.pwrite(self._descriptor, self._values, self._start) < len(self._values) * self._values.itemsize:
                self.close()  # the disk is full: the next change tries again
        except OSError as error:  # it costs figures, not answers
            self.close()
            if not self._failed:
                logger.warning("the counters could not be written to %s: %s", self.path, reason(error))
            self._failed = True
        else:
            self._failed = False

    def close(self) -> None:
        """Let go of the file, until the next change."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _note(self, changes: Iterable[tuple[Key, float]]) -> None:
        for key, amount in changes:
            place = self._places.get(key)
            if place is None:
                place = len(self._values)
                self._values.append(0.0)
                self._places[key] = place  # last, for `values` in another thread
                self.close()  # the file must say what is new
            self._values[place] += amount

    def _replace(self, path: Path) -> int:
        """Write the whole file, and open it for changes of its numbers."""
        head = json.dumps({"about": self.about, "keys": list(self._places)}).encode()
        # So that no number lies across two pages, of which a process that is killed may have written one.
        head += b" " * (-(len(head) + 1) % self._values.itemsize) + b"\n"
        write_atomically(path, head + self._values.tobytes(), mode=0o600)
        self._start = len(head)
        return os.open(path, os.O_WRONLY)


def read(path: Path) -> Content:
    """What a tally's file says of its numbers, and these; OSError, ValueError, KeyError or TypeError if it is none."""
    data = path.read_bytes()
    for _ in range(_LOOKS):
        before, data = data, path.read_bytes()
        if data == before:  # else it has just been written, and may be half of it
            break
    head, _, body = data.partition(b"\n")
    told = json.loads(head)
    values = array("d", body)
    return told["about"], dict(zip((tuple(key) for key in told["keys"]), values, strict=True))


def read_all(folder: Path) -> list[Content]:
    """Of each tally in the folder; a file that cannot be understood is left out."""
    return [content for path in tally_files(folder) if (content := readable(path)) is not None]


def tally_files(folder: Path) -> Iterable[Path]:
    """Those in the folder."""
    return folder.glob(f"*{SUFFIX}")


def readable(path: Path) -> Content | None:
    """As `read`; None for a file that cannot be understood."""
    try:
        return read(path)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def total(tallies: Iterable[dict[Key, float]]) -> dict[Key, float]:
    """The sum for each key."""
    found: dict[Key, float] = {}
    for values in tallies:
        for key, value in values.items():
            found[key] = found.get(key, 0.0) + value
    return found
