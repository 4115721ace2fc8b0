"""The request log: one JSON line per request, in files of bounded size."""

from __future__ import annotations

import json
import logging
import os
import time
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

LOGGER = "detectctl.requests"
_MAX_BYTES = 10 * 2**20
_BACKUPS = 2

logger = logging.getLogger(LOGGER)
_encode = json.JSONEncoder(ensure_ascii=False).encode


class _JsonLines(RotatingFileHandler):
    """Time (ISO 8601, UTC), level and message, then the record's `fields`.

    Each line is made once and written in one step, to a file whose size is known: Python's handler makes it twice, and
    asks four times where the file ends.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, maxBytes=_MAX_BYTES, backupCount=_BACKUPS, encoding="utf-8")
        self._size = path.stat().st_size
        self._between = b""
        self._traceback = logging.Formatter().formatException

    def emit(self, record: logging.LogRecord) -> None:
        fields = getattr(record, "fields", {})
        if record.exc_info:
            fields = {**fields, "traceback": self._traceback(record.exc_info)}
        self.write(record.created, record.levelname, record.getMessage(), fields)

    def write(self, created: float, level: str, message: str, fields: dict[str, Any]) -> None:
        """Write a line; a disk that takes none costs lines, not answers."""
        at = datetime.fromtimestamp(created, UTC).isoformat(timespec="milliseconds")
        line = _encode({"time": at, "level": level, "message": message, **fields}).encode(errors="replace") + b"\n"
        self.acquire()
        try:
            if self._size + len(line) > self.maxBytes:
                self.doRollover()
                self._size = 0
            self.stream = self.stream or self._open()  # the last attempt to begin a new file may have failed
            written = os.write(self.stream.fileno(), self._between + line)
            self._size += written
            # On a full disk it may have been a part, which must not begin the next line.
            self._between = b"" if written == len(self._between + line) else b"\n"
        except OSError:
            pass
        finally:
            self.release()


def log_request(message: str, fields: dict[str, Any]) -> None:
    """Log one request that ended as it should; Python's `logging` takes several times as long to find out who calls."""
    for handler in logger.handlers:
        if isinstance(handler, _JsonLines):
            handler.write(time.time(), "INFO", message, fields)


def open_request_log(path: Path) -> None:
    """Send this process's request log to `path`, 0600, kept below 30 MiB together with its predecessors."""
    path.touch(mode=0o600)
    logger.addHandler(_JsonLines(path))
    logger.setLevel(logging.INFO)
    logger.propagate = False
