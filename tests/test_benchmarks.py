"""The parts of the benchmarks that measure nothing: what they read, and what they conclude."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import cv2
import pytest
import rich.console

import accounting
import http_clients
import instance
import interpreter_lock
import judgement
import pictures
import report
import threads
import timeline
import wrk
from client import Command
from contestants import Measurement
from detectctl.console import Console
from detectctl.progress import Progress

if TYPE_CHECKING:
    from pathlib import Path

BUS = "bus.jpg"


def measured(
    who: str, way: str, clients: int, rate: float, p50: float = 10, cpu: float = 20, **statuses: int
) -> Measurement:
    return Measurement(who, way, BUS, clients, rate, p50, 2 * p50, {"replica": cpu}, statuses or {"200": 100})


def played(speed: float = 1.0, **statuses: int) -> judgement.Round:
    """A round in which everything keeps its promise, the service `speed` times as fast as that."""
    return judgement.Round(
        [
            *(measured("limit", "in process", threads, 100, cpu=20) for threads in (1, 2, 8)),
            *(measured("FastAPI", "POST", clients, 40, p50=20) for clients in (1, 8)),
            *(measured("LitServe", "POST", clients, 50) for clients in (1, 8)),
            measured("detectctl", "POST", 1, 50, p50=19 / speed),
            *(measured("detectctl", way, 8, 95 * speed, cpu=22 / speed) for way in ("POST", "image_url")),
            *(measured("detectctl", way, 64, 95 * speed, **statuses) for way in ("POST", "image_url")),
        ],
        bare_ray_s=4,
        up_s=7,
        down_s=2,
        memory={"replica": {"processes": 1, "rss": 300, "pss": 250}, "gcs": {"processes": 1, "rss": 50, "pss": 40}},
        memory_of_two={"replica": {"processes": 2, "rss": 600, "pss": 480}},
        ceiling=[
            replace(measured("detectctl", "POST", 8, 300 * speed), lock_ms=1 / speed),
            measured("detectctl, two replicas", "POST", 8, 450 * speed),
            measured("the version before", "POST", 8, 100),
        ],
        objects={"detectctl": {BUS: [{"class": "bus", "confidence": 0.9}, {"class": "tie", "confidence": 0.3}]}},
        detect_many={BUS: Command(93 * speed, 0.5, 100)},
        detect_one={BUS: Command(1, 0.2, 50)},
    )


def verdicts(*rounds: judgement.Round) -> dict[str, bool | None]:
    return {verdict.promise: verdict.kept for verdict in judgement.judge(rounds)}


def test_a_round_that_keeps_every_promise_is_judged_so() -> None:
    assert set(verdicts(played()).values()) == {True}


def test_each_ratio_is_the_median_of_the_rounds_own_ratios() -> None:
    """Of which one bad round decides nothing."""
    (first, *_) = judgement.judge([played(), played(0.1), played(1.1)])
    assert (first.kept, first.measured) == (True, "bus.jpg 0.95 (0.10-1.05)")


def test_a_slower_service_breaks_exactly_the_promises_about_speed() -> None:
    broken = {promise for promise, kept in verdicts(played(0.7)).items() if not kept}
    assert broken == {
        "POST, 8 clients / limit", "POST, 8 clients / LitServe's",
        "POST, 1 client: p50 / FastAPI's", "POST, 1 client: p99 / FastAPI's", "CPU ms per request beyond the engine's",
        "ceiling / the version before's", "ceiling: ms that the lock is held",
    }  # fmt: skip


@pytest.mark.parametrize(("status", "kept"), [("503", True), ("500", False), ("lost", False)])
def test_under_load_a_503_is_an_answer_and_anything_else_is_not(status: str, kept: bool) -> None:
    judged = verdicts(played(**{"200": 50, status: 1}))
    assert judged["answers under every load"] is kept


def test_a_contestant_that_finds_something_else_is_noticed() -> None:
    odd = played()
    odd.objects["LitServe"] = {BUS: [{"class": "dog", "confidence": 0.9}]}
    assert verdicts(odd)["all contestants find the same classes above 0.5"] is False


def test_what_was_not_measured_is_not_judged() -> None:
    few = played()
    few.measurements = [one for one in few.measurements if one.who != "LitServe"]
    assert verdicts(few)["POST, 8 clients / LitServe's"] is None


def test_the_version_before_is_compared_round_by_round() -> None:
    rounds = [played(2), played(0.1), played(2.2)]
    for one in rounds:
        one.before = played()
        one.before.measurements = [each for each in one.before.measurements if each.who == "detectctl"]
    compared = judgement.against_before(rounds)
    assert str(compared["POST, 8 clients: requests/s"][BUS]) == "2.00 (0.10-2.20)"
    assert compared["up"][BUS].median == 1
    assert judgement.against_before([played()]) == {}


def test_only_200_counts_as_throughput() -> None:
    said = '{"seconds": 2.0, "p50_ms": 5, "p99_ms": 9, "lost": 3, "statuses": {"200": 100, "503": 40}}'
    load = wrk.parse(f"Running 2s test\n  1 threads\n{said}\n")
    assert load == wrk.Load(50, 5, 9, {"200": 100, "503": 40, "lost": 3})


def test_missing_tools_are_named_with_the_packages_that_bring_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SystemExit, match=r"wrk and nginx not found.* wrk nginx-light"):
        wrk.require_tools()


def test_the_steps_of_up_are_read_from_what_up_prints(capsys: pytest.CaptureFixture[str]) -> None:
    with Console().progress() as report:
        report(Progress("start Ray", "waiting for the head"))
        report(Progress("start Ray", "head process 4121", done=True))
        report(Progress("deploy", "RUNNING (RUNNING)", done=True))
    read = [instance.DONE.match(line) for line in capsys.readouterr().err.splitlines()]
    assert [done and done["step"].strip() for done in read] == ["start Ray", "deploy"]


def test_a_group_holds_children_that_lost_the_marker() -> None:
    """As Ray's do, which write their titles over their environment."""
    child = "import os, subprocess, sys; subprocess.run(['env', '-i', sys.executable, '-c', 'input()'])"
    with subprocess.Popen(
        [sys.executable, "-c", child], env=os.environ | {"DETECTCTL_INSTANCE_ID": "bench-test"}, stdin=subprocess.PIPE
    ) as process:
        try:
            for _ in range(200):
                living = accounting.Group("bench-test").living()
                if len(living) == 2:
                    break
            assert process.pid in {one.pid for one in living}
            assert len(living) == 2
        finally:
            assert process.stdin is not None
            process.stdin.close()


def test_resized_photographs_have_the_pixels_asked_for(bus_jpg: Path, tmp_path: Path) -> None:
    for megapixels in (0.3, 2):
        pixels = cv2.imread(str(pictures.resized(bus_jpg, megapixels, tmp_path)))
        assert pixels is not None
        height, width = pixels.shape[:2]
        assert height * width / 1e6 == pytest.approx(megapixels, rel=0.01)
        assert height / width == pytest.approx(1080 / 810, rel=0.01)


def test_what_is_installed_counts_what_users_get_and_no_tools_of_ours() -> None:
    sizes = accounting.installed_bytes()
    assert sizes["ray"] > 50e6
    assert sizes["fastapi"] > 1e5, "ray[serve] brings it, by an extra"
    assert not {"ruff", "mypy", "schemathesis"} & sizes.keys()


def test_the_http_libraries_are_compared_in_one_run(
    bus_jpg: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each row's last figure is the ratio of the two before it."""
    monkeypatch.setattr(http_clients, "REQUESTS", 16)
    monkeypatch.setattr(http_clients, "ROUNDS", 1)
    monkeypatch.setattr(sys, "argv", ["http_clients.py", str(bus_jpg)])
    http_clients.main()
    rows = [line.split()[-3:] for line in capsys.readouterr().out.splitlines()[2:]]
    assert len(rows) == 3
    wall = [float(figure) for figure in rows[1]]
    assert wall[2] == pytest.approx(wall[1] / wall[0], rel=0.2)


def test_looks_at_a_lock_are_counted_over_all_stacks() -> None:
    """py-spy's raw format: frames, and how often they were seen with the lock in hand."""
    assert interpreter_lock.looks("run (a.py:1);work (b c.py:2) 30\nrun (a.py:1) 4\n") == 34
    assert interpreter_lock.looks("") == 0


def test_threads_that_differ_in_a_number_are_one() -> None:
    """And those that py-spy does not know run no Python."""
    names = {1: "MainThread", 2: "detect_0", 3: "detect_1", 4: "Thread-1 (_poll_wrapper)", 5: "ThreadPoolExecutor-1_0"}
    used = threads.by_name({1: 1.0, 2: 2.0, 3: 3.0, 4: 4.0, 5: 5.0, 6: 6.0}, names)
    assert used == {
        "MainThread": 1.0, "detect": 5.0, "Thread-1 (_poll_wrapper)": 4.0, "ThreadPoolExecutor-1": 5.0,
        threads.NATIVE: 6.0,
    }  # fmt: skip


def test_the_ceilings_table_says_who_used_the_processor() -> None:
    one = replace(measured("FastAPI", "POST", 8, 100, cpu=2), lock_ms=1, threads_ms={"detect": 0.5, "MainThread": 1.5})
    console = rich.console.Console(width=160)
    with console.capture() as printed:
        console.print(report.ceiling([judgement.Round(ceiling=[one])]))
    assert "replica 2.00" in printed.get()
    assert "MainThread 1.50, detect 0.50" in printed.get()


def test_a_start_is_told_by_its_processes(tmp_path: Path) -> None:
    """Those of that home, with what they use; whoever else starts meanwhile is not of it."""
    work = [sys.executable, "-c", "import time\nwhile time.process_time() < 0.3: pass\ntime.sleep(0.3)"]
    with timeline.Watch(tmp_path) as watch:
        script = "import subprocess, sys; subprocess.run(sys.argv[1:]); import time; time.sleep(0.2)"
        ours = subprocess.Popen([sys.executable, "-c", script, *work], env={"HOME": str(tmp_path)})
        theirs = subprocess.Popen(work, env={"HOME": "/nonexistent"})
        assert (ours.wait(), theirs.wait()) == (0, 0)
    assert len(watch.lives) == 2
    assert theirs.pid not in watch.lives
    assert watch.lives.pop(ours.pid).cpu_s < 0.2, "what its child used is the child's"
    (child,) = watch.lives.values()
    assert child.cpu_s >= 0.2
    lives = {1: timeline.Life(0, 1, "detectctl up --port 1"), 2: timeline.Life(2, 3, "ray::ServeReplica:yolo")}
    head, up, replica, busy = timeline.table(lives, seconds=4)
    assert up.split() == ["up", "0.00", "0.25"]
    assert replica.split() == ["replica", "0.50", "0.75"]
    assert head.split() == ["process", "begins", "at", "of", "the", "CPU"]
    assert f"{1 / (os.cpu_count() or 1):.2f} of the time" in busy
