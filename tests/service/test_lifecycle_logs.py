"""`detectctl logs`: what a running service says; test_life.py has one that failed to start."""

from __future__ import annotations

import json
import socket
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
import pytest

from detectctl.hosts.host import NewLines
from detectctl.hosts.log_files import new_lines
from detectctl.lifecycle import logs
from detectctl.lifecycle.logs import LogFilter, LogLine
from detectctl.lifecycle.state import InstanceFolder
from detectctl.paths import Paths
from lifecycle_values import PLACE, STATE

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet
    from pathlib import Path

    from installed import Home, Service


def _lines(home: Home, *options: str) -> list[dict[str, Any]]:
    done = home.run("logs", "--json", *options)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def _wait_for(ids: AbstractSet[str], home: Home) -> dict[str, dict[str, Any]]:
    """The lines of the log under their request's id, once these are among them."""
    deadline = time.monotonic() + 20
    while not ids <= (by_id := {line.get("id", ""): line for line in _lines(home)}).keys():
        assert time.monotonic() < deadline, ids
    return by_id


def _ask(service: Service, body: bytes) -> str:
    return httpx.post(f"{service.url}/detect", content=body, timeout=30).headers["X-Request-ID"]


@pytest.mark.cluster
def test_a_line_says_what_became_of_a_request(service: Service, bus_jpg: Path) -> None:
    """Id, source, milliseconds, objects, status; under the id that the answer's `X-Request-ID` gave."""
    good, bad = _ask(service, bus_jpg.read_bytes()), _ask(service, b"no image")
    by_id = _wait_for({good, bad}, service.home)
    line = by_id[good]
    assert (line["message"], line["source"], line["status"], line["objects"]) == ("/detect", "body", "ok", 6)
    assert line["infer_ms"] > 0
    assert line["decode_ms"] > 0
    assert line["total_ms"] >= line["infer_ms"] + line["decode_ms"]
    assert by_id[bad]["status"] == "unsupported_image"
    (replica,) = service.home.json("status", "--json")["replicas"]
    assert line["origin"] == replica["replica_id"]


@pytest.mark.cluster
def test_what_is_refused_at_once_is_logged_too(service: Service) -> None:
    """Wrong parameters and unknown routes: each answer's id has its line."""
    asked = {
        httpx.post(f"{service.url}/{path}", timeout=30).headers["X-Request-ID"]: code
        for path, code in (
            ("detect?conf=2", "bad_parameter"),
            ("detect?colour=red", "bad_parameter"),
            ("nowhere", "not_found"),
            ("info", "method_not_allowed"),
        )
    }
    by_id = _wait_for(asked.keys(), service.home)
    assert {request_id: by_id[request_id]["status"] for request_id in asked} == asked


@pytest.mark.cluster
def test_a_caller_that_hangs_up_is_no_failure_of_the_service(service: Service) -> None:
    """Else `up --follow` would blame the model for it."""
    address = urlsplit(service.url)
    for _ in range(3):
        with socket.create_connection((address.hostname, address.port), timeout=60) as upload:
            upload.sendall(
                b"POST /detect HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\nExpect: 100-continue\r\n\r\n"
            )
            assert b" 100 " in upload.recv(1000)  # the replica reads, and waits for more than it gets
            upload.sendall(b"x" * 10)
    deadline = time.monotonic() + 20
    while (errors := service.home.json("status", "--json")["errors"]).get("client_closed", 0) < 3:
        assert time.monotonic() < deadline, errors
    assert "internal_error" not in errors
    closed = [line for line in _lines(service.home) if line.get("status") == "client_closed"]
    assert {line["level"] for line in closed} == {"INFO"}


@pytest.mark.cluster
def test_tail_replica_and_level_narrow_it(service: Service, bus_jpg: Path) -> None:
    asked = _ask(service, bus_jpg.read_bytes())
    _wait_for({asked}, service.home)
    everything = _lines(service.home, "--tail", "1000", "--level", "debug")
    assert [line["time"] for line in everything] == sorted(line["time"] for line in everything)
    replica = service.home.json("status", "--json")["replicas"][0]["replica_id"]
    assert {line["origin"] for line in _lines(service.home, "--replica", replica[:4])} == {replica}
    assert {line["origin"] for line in everything} > {replica}
    assert len(_lines(service.home, "--tail", "2")) == 2
    assert {line["level"] for line in _lines(service.home, "--level", "warning")} <= {"WARNING", "ERROR", "CRITICAL"}
    assert "DEBUG" not in {line["level"] for line in _lines(service.home, "--tail", "1000")}


@pytest.mark.cluster
def test_follow_goes_on_as_requests_come(service: Service, bus_jpg: Path) -> None:
    with service.home.start("logs", "--follow", "--tail", "0", "--json") as process:
        assert process.stdout is not None
        seen: list[str] = []

        def read() -> None:
            assert process.stdout is not None
            seen.extend(json.loads(line).get("id", "") for line in process.stdout)

        reader = threading.Thread(target=read)
        reader.start()
        asked: list[str] = []
        deadline = time.monotonic() + 60
        while not set(asked) & set(seen):
            assert time.monotonic() < deadline
            asked.append(_ask(service, bus_jpg.read_bytes()))
            time.sleep(0.3)
        process.terminate()
        reader.join()
    assert process.returncode == 130


def test_following_without_a_tail_shows_only_what_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `tail -n 0 -f` does, not the whole log."""
    paths = Paths.from_environ({"HOME": str(tmp_path)})
    place = replace(PLACE, temp_dir=tmp_path)
    folder = InstanceFolder(paths.state, "default")
    folder.create()
    folder.write(replace(STATE, place=place))
    place.head_log.write_text("old\n")
    later = iter((lambda: place.head_log.write_text("old\nnew\n"), folder.forget))
    monkeypatch.setattr(time, "sleep", lambda _: next(later)())
    shown = logs.lines(folder, LogFilter(), 0, follow=True)
    assert [line.message for line in shown] == ["new"]


def test_lines_are_in_the_order_of_time_across_files() -> None:
    """What is shown last was said last, whoever said it."""
    lines = [LogLine(at, "INFO", origin, "", {}) for at, origin in ((2.0, "b"), (1.0, "a"), (3.0, "c"))]
    assert [line.origin for line in logs._last(lines, 10)] == ["a", "b", "c"]
    assert [line.origin for line in logs._last(lines, 2)] == ["b", "c"]
    assert logs._last(lines, 0) == []
    at_once = [LogLine(1.0, "INFO", "head", str(number), {}) for number in range(5)]
    assert [line.message for line in logs._last(at_once, 3)] == ["2", "3", "4"], "a traceback stays the right way up"
    assert LogFilter(replica="ab").accepts(LogLine(0, "INFO", "abc", "", {}))
    assert not LogFilter(replica="ab").accepts(LogLine(0, "INFO", "bca", "", {}))
    assert not LogFilter(level="ERROR").accepts(LogLine(0, "WARNING", "abc", "", {}))


def test_the_heads_words_have_no_colours_and_rays_greeting_is_only_for_debugging(tmp_path: Path) -> None:
    """A pipe gets no escape sequences; the greeting recommends `ray stop`, which ends other people's Ray too."""
    file = tmp_path / "head.log"
    file.write_bytes(b"")
    said = [
        b"2026-01-02 03:04:05,678\tINFO scripts.py:1143 -- \x1b[1m  ray stop\x1b[22m",
        b"\x1b[31mout of memory\x1b[39m",
    ]
    lines = list(logs._parsed(NewLines(file.name, 0.0, said)))
    assert [line.level for line in lines] == ["DEBUG", "INFO"]
    assert lines[1].message == "out of memory"
    assert not any("\x1b" in line.message for line in lines)


def added(file: Path, reached: dict[Any, Any]) -> list[bytes]:
    [found] = new_lines([file], reached)
    return found.lines


def test_a_line_that_is_half_written_waits_for_its_end(tmp_path: Path) -> None:
    file = tmp_path / "replica_Detector_abc.log"
    seen: dict[Any, Any] = {}
    file.write_bytes(b'{"half": ')
    assert added(file, seen) == []
    with file.open("ab") as stream:
        stream.write(b"1}\nnext")
    assert added(file, seen) == [b'{"half": 1}']


def test_a_new_file_with_an_old_ones_inode_is_read_from_its_beginning(tmp_path: Path) -> None:
    """The system gives the number of a file that was rotated away to the next one."""
    file = tmp_path / "replica_Detector_abc.log"
    file.write_bytes(b"new\n")
    seen = {file.stat().st_ino: 10_000_000}
    assert added(file, seen) == [b"new"]
    assert added(file, seen) == []
