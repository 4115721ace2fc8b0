"""What is printed, and what happens when it cannot be read."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest
from rich.cells import cell_len

from detectctl.client.outcomes import Outcome
from detectctl.console import Console
from detectctl.errors import BadParameter
from detectctl.lifecycle.course import Course
from detectctl.lifecycle.logs import LogLine
from detectctl.lifecycle.status import InstanceStatus
from detectctl.lifecycle.up import UpResult
from detectctl.serving.request_stats import OK, Answered, RequestRecorder, RequestStats
from detectctl.sources import Source
from detectctl.wire import Detection, DetectionResult, EngineInfo, ModelInfo

_SCRIPT = """
from detectctl.progress import Progress
from detectctl.console import Console

with Console().progress() as report:
    for _ in range(3):
        report(Progress("deploy", "a step", done=True))
        report(Progress("deploy", "a warning", warning=True))
print("all done")
"""


@pytest.mark.parametrize("reader", ["gone", "full"])
def test_progress_that_nobody_can_read_stops_nothing(reader: str) -> None:
    """`detectctl up 2>&1 | head -1` starts the service, and so does `up` with a full disk behind `2>`."""
    if reader == "gone":
        reading, stderr = os.pipe()
        os.close(reading)
    else:
        stderr = os.open("/dev/full", os.O_WRONLY)
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT], stdout=subprocess.PIPE, stderr=stderr, text=True, timeout=60, check=False
    )
    os.close(stderr)
    assert (done.returncode, done.stdout) == (0, "all done\n")


def test_the_table_of_all_instances_loses_nothing_at_80_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What does not fit is folded: no name, state or address is cut off."""
    monkeypatch.setenv("COLUMNS", "80")
    model = ModelInfo("yolov8n", None, "sha256:0", True, False, "no key", "a/b/c:d", "classify")
    place: Any = ("http://127.0.0.1:26951", model, None, 1, 1, 1, 2, (), 1000, {}, 63.0, 112.0, 9.0)
    rows = tuple(InstanceStatus(name, "failed update", "", *place) for name in ("default", "of-the-night-shift"))
    console = Console()
    console.status(rows)
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line.rstrip()) for line in lines) <= 80
    assert "…" not in "".join(lines)
    for word in ("READY", "REQUESTS", "P50", "63 ms", "http://127.0.0.1:26951", "default", "fallback", "classify"):
        assert any(word in line for line in lines), lines


@pytest.mark.parametrize("task", ["detect", "segment", "pose", "obb", "classify"])
def test_up_and_status_name_the_task(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], task: Any
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    model = ModelInfo(
        "yolo", "v3", "sha256:" + "0" * 64, stale=True, reason="W&B is away", reference="a/b/c:d", task=task
    )
    engine = EngineInfo("openvino", "cpu", "bf16")
    console = Console()
    console.status(
        InstanceStatus("i", "running", "", "http://h", model, engine, 1, 1, 1, 2, (), 0, {}, None, None, 1.0, "its why")
    )
    card = capsys.readouterr().out.splitlines()
    assert ["task", task] in [line.split() for line in card]
    assert "replicas  1/1 ready, may be 1..2; auto: its why" in card
    assert max(map(len, card)) <= 80
    for action in ("started", "unchanged"):
        console.up(UpResult("i", "http://h", action, model, engine, 1, 2.0))
        assert f"(a/b/c:d), {task}" in capsys.readouterr().out.splitlines()[0]


def test_up_tells_which_of_several_addresses_stays(capsys: pytest.CaptureFixture[str]) -> None:
    """Those of a cluster's workers come and go with their replicas."""
    model, engine = ModelInfo("yolov8n", "v3", "sha256:0"), EngineInfo("openvino", "cpu", "bf16")
    endpoints = tuple(f"http://10.0.0.{number}:8000/yolo" for number in (1, 2, 3))
    Console().up(UpResult("i", endpoints[0], "started", model, engine, 3, 2.0, endpoints=endpoints))
    stays = f"{endpoints[0]} stays; while they have replicas, also at {endpoints[1]}, {endpoints[2]}"
    assert stays in " ".join(capsys.readouterr().out.split())


_WATCHING = """
from detectctl.console import Console

with Console().redrawing() as show:
    show("no instance [a] is running", None)
    show("now it is", None)
"""


def test_what_is_watched_is_redrawn_on_a_terminal_and_appended_elsewhere() -> None:
    """A terminal shows the newest state only: the line before it is erased."""
    done = subprocess.run([sys.executable, "-c", _WATCHING], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "no instance [a] is running\nnow it is\n"
    ours, theirs = pty.openpty()
    try:
        environ = os.environ | {"TERM": "xterm-256color"}
        subprocess.run([sys.executable, "-c", _WATCHING], stdout=theirs, env=environ, timeout=60, check=True)
        shown = os.read(ours, 65536).decode()
    finally:
        os.close(theirs)
        os.close(ours)
    between = shown.partition("no instance [a] is running")[2].partition("now it is")[0]
    assert re.search(r"\x1b\[2K", between), repr(shown)


def test_the_course_of_an_instance_is_drawn_at_80_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bar for each look, none where nothing was answered, and the last errors with their number."""
    monkeypatch.setenv("COLUMNS", "80")
    now, course, recorder = 0.0, Course(clock=lambda: now), RequestRecorder(None)
    for look in range(60):
        for _ in range(look % 5 * 10):
            recorder.answered(Answered("/detect", OK, "body", False, 0.020 if look < 58 else 0.5))
        if look % 20 == 19:
            recorder.answered(Answered("/detect", "overloaded", "body", False, 0.0))
        course.note(RequestStats.of(recorder.tally.values))
        now += 2.0
    status = InstanceStatus("i", "running", "", "http://h", None, None, 1, 1, 1, 1, (), 0, {}, None, None, 1.0)
    Console().status(status, course)
    card = {line[:12].strip(): line[12:].strip() for line in capsys.readouterr().out.splitlines()}
    assert max(map(len, card.values())) <= 68
    assert card["per second"] == "▁▃▄▆█" * 8 + " 20.5"
    assert card["p50"] == "▁▁▁▁ " * 7 + "▁▁██ 487 ms"
    assert card["errors"].endswith("overloaded 1")
    assert len(course.errors) == 3
    course.note(RequestStats())  # it was started anew
    course.note(RequestStats())
    assert len(course.steps) == 40


def test_what_was_left_out_is_one_line_on_stderr_unless_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    for quiet in (False, True):
        Console(quiet=quiet).left_out(Counter({".txt": 12, "": 2, ".mp4": 0}))
    Console().left_out(Counter())
    assert capsys.readouterr() == ("", "left out, by kind: 12 .txt, 2 without a suffix\n")


PARTS = {
    "detect": {},
    "segment": {"mask": ((0, 0, 320, 0, 320, 240, 0, 240),)},
    "pose": {"keypoints": ((1, 2, 0.9), (3, 4, 0.2), (5, 6))},
    "obb": {"corners": ((0, 0), (9, 0), (9, 9), (0, 9)), "angle": -0.5236},
    "classify": {},
}


@pytest.mark.parametrize(
    ("task", "header", "row"),
    [
        ("detect", "SOURCE CLASS CONF X1 Y1 X2 Y2", "dog 0.90 1.0 2.0 3000.0 4000.0"),
        ("segment", "SOURCE CLASS CONF X1 Y1 X2 Y2 AREA", "dog 0.90 1.0 2.0 3000.0 4000.0 25.0%"),
        ("pose", "SOURCE CLASS CONF X1 Y1 X2 Y2 POINTS", "dog 0.90 1.0 2.0 3000.0 4000.0 2/3"),
        ("obb", "SOURCE CLASS CONF X1 Y1 X2 Y2 ANGLE", "dog 0.90 1.0 2.0 3000.0 4000.0 -30°"),
        ("classify", "SOURCE CLASS CONF", "dog 0.90"),
    ],
)
def test_the_table_has_what_the_task_tells_in_80_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], task: Any, header: str, row: str
) -> None:
    """And says where more was found than is listed."""
    monkeypatch.setenv("COLUMNS", "80")
    parts: Any = PARTS[task]
    dog = Detection("dog", (1, 2, 3000, 4000), 0.9, 0, **parts)
    model = ModelInfo("m", None, "sha256:0", task=task)
    source = Source("folder/of/pictures/with/a/long/name/" * 2 + "a.jpg")
    outcomes = [
        Outcome(source, DetectionResult(found, 640, 480, model, cut)) for found, cut in (((dog,), True), ((), False))
    ]
    console = Console()
    console.detections(console.tracked(iter(outcomes), 2))
    printed = capsys.readouterr()
    assert printed.err == "warning: not all objects of 1 image are reported: raise --max-det or --conf\n"
    lines = printed.out.splitlines()
    assert max(map(len, lines)) <= 80
    said = [" ".join(line.split()) for line in lines]
    assert said[0] == header
    assert said[1].endswith(f"a.jpg {row}")
    assert said[2] == "more left out"
    assert said[3].endswith("a.jpg nothing found")


def test_nothing_that_a_service_names_does_anything_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Somebody else may run it, and its classes may clear the screen, or turn the line around."""
    evil = "a\x1b[2J\x9b2J\x07\u202eb"
    model = ModelInfo(evil, evil, evil, reference=evil)
    result = DetectionResult((Detection(evil, (1, 2, 3, 4), 0.9, 0),), 640, 480, model)
    console = Console()
    console.detections(iter([Outcome(Source(evil), result)]))
    console.error(BadParameter(evil, why=evil, hint=evil), about=evil)
    console.warning(evil)
    console.log_line(
        LogLine(0.0, "ERROR", evil, evil, {"objects": evil, "traceback": f"one\n\ttwo {evil}"}), as_json=False
    )
    printed = capsys.readouterr()
    assert not set(printed.out + printed.err) & set("\x1b\x9b\x07\u202e")
    assert "a?[2J?2J??b" in printed.out
    assert "one\n" in printed.out


@pytest.mark.parametrize(
    "name",
    ["диск", "قضيب", "三角形" * 12, "👩\u200d🚒", "e\u0301", "", "[red]x[/red]", "a person with a red helmet " * 5],
)
def test_the_table_keeps_its_numbers_whatever_the_names(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """Wide, without a width, long, empty, or like markup: of the class and of the file, whose end is shown."""
    monkeypatch.setenv("COLUMNS", "80")
    found = Detection(name, (1, 2, 3000, 4000), 0.9, 0)
    result = DetectionResult((found,), 640, 480, ModelInfo("m", None, "sha256:0"))
    Console().detections(iter([Outcome(Source("写真" * 30 + ".jpg"), result)]))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(cell_len, lines)) <= 80
    assert lines[1].split()[-5:] == ["0.90", "1.0", "2.0", "3000.0", "4000.0"]
    assert ".jpg " in lines[1]
    assert name[:9].strip() in lines[1]
