"""The request log's files: bounded, private, and whole lines only."""

from __future__ import annotations

import json
import logging
import os
from typing import TYPE_CHECKING

import pytest

from detectctl.serving import request_log

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(request_log, "_MAX_BYTES", 2000)
    before = os.umask(0o077)  # as every process of an instance has it
    path = tmp_path / "replica.log"
    request_log.open_request_log(path)
    yield path
    os.umask(before)
    logger = logging.getLogger(request_log.LOGGER)
    for handler in logger.handlers[:]:
        logger.removeHandler(handler)
        handler.close()
    logger.propagate = True


def test_it_is_rotated_by_size(log: Path) -> None:
    """However much is logged, there are at most three files of bounded size, with the newest lines."""
    logger = logging.getLogger(request_log.LOGGER)
    for number in range(500):
        logger.info("/detect", extra={"fields": {"id": str(number), "status": "ok"}})
    files = sorted(log.parent.iterdir())
    assert [file.name for file in files] == ["replica.log", "replica.log.1", "replica.log.2"]
    assert all(file.stat().st_size <= 2000 for file in files)
    newest_last = [json.loads(line)["id"] for file in reversed(files) for line in file.read_text().splitlines()]
    assert newest_last == [str(number) for number in range(500 - len(newest_last), 500)]
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}


def test_a_callers_text_cannot_forge_a_line(log: Path) -> None:
    logging.getLogger(request_log.LOGGER).info('/x\n{"level": "ERROR"}', extra={"fields": {"id": "a\nb"}})
    (line,) = log.read_text().splitlines()
    assert json.loads(line)["id"] == "a\nb"


def test_a_line_that_a_full_disk_cut_does_not_begin_the_next(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request_log.log_request("/detect", {"id": "a"})
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:20]))
    request_log.log_request("/detect", {"id": "b"})
    monkeypatch.undo()
    request_log.log_request("/detect", {"id": "c"})
    first, cut, last = log.read_text().splitlines()
    assert len(cut) == 20
    assert [json.loads(line)["id"] for line in (first, last)] == ["a", "c"]
