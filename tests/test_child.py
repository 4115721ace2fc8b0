"""Children with deadlines: results, errors, and nothing left when they are late, crash, or we are interrupted."""

from __future__ import annotations

import os
import textwrap
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from detectctl import child
from detectctl.errors import UsageError
from detectctl.progress import Progress, silent

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Run = Any


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Any]:
    """Runs a child whose `work(request, report)` has the given body; `say(x)` reports x as a message."""

    def start(body: str, request: dict[str, Any] | None = None, *, timeout_s: float = 20, **options: Any) -> Any:
        source = "from detectctl.child import serve_parent\nfrom detectctl.errors import UsageError\n"
        source += "from detectctl.progress import Progress\n"
        source += "import os, sys, time, subprocess\ndef work(request, report):\n"
        source += "    say = lambda message: report(Progress('convert', str(message)))\n"
        source += textwrap.indent(textwrap.dedent(body), "    ")
        (tmp_path / "the_child.py").write_text(source + "\nserve_parent(work)\n")
        env = os.environ | {"PYTHONPATH": str(tmp_path)}
        options = {"report": silent} | options
        return child.run("the_child", request or {}, timeout_s=timeout_s, env=env, **options)

    return start


def _gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_request_comes_back_as_progress_and_a_result(run: Run) -> None:
    """The request arrives, progress comes in order, the result ends it; what libraries print is not an answer."""
    reported: list[Progress] = []
    body = """
        print("a library says hello")
        subprocess.run(["echo", "so does its child"])
        say("half")
        report(Progress("convert", "whole", done=True, fraction=1.0))
        return {"doubled": request["number"] * 2}
    """
    assert run(body, {"number": 21}, report=reported.append) == {"doubled": 42}
    assert reported == [Progress("convert", "half"), Progress("convert", "whole", done=True, fraction=1.0)]


def test_an_error_on_purpose_arrives_as_it_was_raised(run: Run) -> None:
    """Its class and its three parts cross the process boundary."""
    with pytest.raises(UsageError) as caught:
        run('raise UsageError("no key", why="it is empty", hint="`make one`")')
    assert (caught.value.what, caught.value.why, caught.value.hint) == ("no key", "it is empty", "`make one`")


def test_a_crash_brings_the_last_words(run: Run) -> None:
    """A traceback on stderr is kept for `--verbose`."""
    with pytest.raises(child.ChildCrashed) as caught:
        run("raise KeyError('the cause')")
    assert "the cause" in caught.value.stderr
    assert caught.value.returncode == 1


def test_of_a_crash_without_last_words_the_signal_is_told(run: Run) -> None:
    """What it printed last, such as a bar of progress, has nothing to do with it."""
    with pytest.raises(child.ChildCrashed) as caught:
        run("print('100 %', file=sys.stderr, flush=True); os.kill(os.getpid(), 11)")
    assert caught.value.last_words == "Segmentation fault (signal 11)"
    assert "100 %" in caught.value.stderr


def test_a_late_child_is_killed_with_its_family(run: Run) -> None:
    """Also a grandchild in a session of its own, and one whose parent has ended; the last report is remembered."""
    body = """
        command = ["sh", "-c", "sleep 600 & echo $! $$; exec sleep 600"]
        family = subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE)
        daemon = ["sh", "-c", "sleep 600 >&- & echo $!"]
        orphan = subprocess.run(daemon, start_new_session=True, stdout=subprocess.PIPE, text=True)
        say(f"{os.getpid()} {family.stdout.readline().decode()} {orphan.stdout}")
        time.sleep(600)
    """
    with pytest.raises(child.ChildTimeout) as caught:
        run(body, timeout_s=3)
    assert caught.value.last is not None
    pids = [int(word) for word in caught.value.last.message.split()]
    assert len(pids) == 4
    assert all(_gone(pid) for pid in pids)


def test_an_interrupted_parent_leaves_no_child(run: Run) -> None:
    """Ctrl-C while the child works: the exception goes on, the child is gone."""
    pids: list[int] = []

    def interrupt(progress: Progress) -> None:
        pids.append(int(progress.message))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run("say(os.getpid())\ntime.sleep(60)", report=interrupt)
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
