"""Children with deadlines: results, errors, and nothing left when they are late, crash, or we are interrupted."""

from __future__ import annotations

import os
import textwrap
import time
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from detectctl import child

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Run = Any


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Any]:
    """Runs a child whose `work(request, send)` has the given body."""

    def start(body: str, request: dict[str, Any] | None = None, *, timeout_s: float = 20, **options: Any) -> Any:
        source = "from detectctl.child import ChildFailed, serve_parent\nimport os, sys, time, subprocess\n"
        source += "def work(request, send):\n" + textwrap.indent(textwrap.dedent(body), "    ")
        (tmp_path / "the_child.py").write_text(source + "\nserve_parent(work)\n")
        env = os.environ | {"PYTHONPATH": str(tmp_path)}
        return child.run("the_child", request or {}, timeout_s=timeout_s, env=env, **options)

    return start


def _gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_request_events_and_result_make_the_round(run: Run) -> None:
    """The request arrives, events come in order, the result ends it; what libraries print is no answer."""
    events: list[Any] = []
    body = """
        print("a library says hello")
        subprocess.run(["echo", "so does its child"])
        send({"event": 1})
        send({"event": 2})
        return {"doubled": request["number"] * 2}
    """
    assert run(body, {"number": 21}, on_event=events.append) == {"doubled": 42}
    assert events == [{"event": 1}, {"event": 2}]


def test_a_reported_error_arrives_with_its_kind(run: Run) -> None:
    """`ChildFailed` crosses the process boundary."""
    with pytest.raises(child.ChildFailed) as caught:
        run('raise ChildFailed("auth", "no key", "details")')
    assert (caught.value.kind, caught.value.message, caught.value.detail) == ("auth", "no key", "details")


def test_a_crash_brings_the_last_words(run: Run) -> None:
    """A traceback on stderr is kept for `--verbose`."""
    with pytest.raises(child.ChildCrashed) as caught:
        run("raise KeyError('the cause')")
    assert "the cause" in caught.value.stderr
    assert caught.value.returncode == 1


def test_a_late_child_is_killed_with_its_family(run: Run) -> None:
    """Also a grandchild in a session of its own; the last event is remembered."""
    pids: list[int] = []
    body = """
        grandchild = subprocess.Popen(["sleep", "60"], start_new_session=True)
        send({"pids": [os.getpid(), grandchild.pid]})
        time.sleep(60)
    """
    begun = time.monotonic()
    with pytest.raises(child.ChildTimeout) as caught:
        run(body, timeout_s=3, on_event=lambda event: pids.extend(event["pids"]))
    assert time.monotonic() - begun < 8
    assert caught.value.last_event == {"pids": pids}
    assert len(pids) == 2
    assert all(_gone(pid) for pid in pids)


def test_an_interrupted_parent_leaves_no_child(run: Run) -> None:
    """Ctrl-C while the child works: the exception goes on, the child is gone."""
    pids: list[int] = []

    def interrupt(event: dict[str, Any]) -> None:
        pids.append(event["pid"])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run('send({"pid": os.getpid()})\ntime.sleep(60)', on_event=interrupt)
    assert _gone(pids[0])


def test_nothing_can_prompt(run: Run) -> None:
    """Stdin is at its end once the request is read."""
    assert run('return {"read": sys.stdin.read()}') == {"read": ""}


@pytest.mark.parametrize("module", ["json", "torch", "psutil"])
def test_the_working_folder_is_no_place_for_modules(
    run: Run, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file in the user's folder that has a library's name is not run."""
    here = tmp_path / "here"
    here.mkdir()
    (here / f"{module}.py").write_text(f"open({str(here / 'ran')!r}, 'w')")
    monkeypatch.chdir(here)
    assert run(f"import {module}\nreturn {{'file': {module}.__file__}}")["file"] != str(here / f"{module}.py")
    assert not (here / "ran").exists()
