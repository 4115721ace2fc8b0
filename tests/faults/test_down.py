"""The end of a service under load, and of commands in the middle of their work."""

from __future__ import annotations

import itertools
import json
import shutil
import signal
import time
from typing import TYPE_CHECKING, Any

import httpx
import psutil
import pytest

from faults.scene import TABLE, PlainHome, Row, Scene, assert_gone, fresh_options, serving, with_small_files
from installed import Home, Service, marked, wait_until
from load import steady

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from detectctl.engine.compiled import CompiledModel
    from load import Load

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def one_home(
    tmp_path_factory: pytest.TempPathFactory, yolov8n_pt: Path, converted: tuple[CompiledModel, ...]
) -> Iterator[Home]:
    """A home that the tests of this file share."""
    home = Home(tmp_path_factory.mktemp("down"))
    home.seed(yolov8n_pt, *converted)
    yield home
    assert home.clean() == []


@pytest.fixture(scope="module")
def options() -> tuple[str, ...]:
    """Those of every `up` in that home."""
    return fresh_options()


@pytest.fixture
def scene(one_home: Home, options: tuple[str, ...], bus_jpg: Path) -> Scene:
    """The instance of that home as the test before left it, started again where that test ended it."""
    found = Scene(Service(one_home, f"http://127.0.0.1:{options[1]}", "default"), bus_jpg, options, "HAProxy")
    done = found.up()
    assert done.returncode == 0, done.stderr
    return found


@pytest.fixture
def idle_home(one_home: Home) -> Home:
    """That home with nothing running in it."""
    assert one_home.run("down").returncode == 0
    assert one_home.instance() is None
    return one_home


# In this order each test finds what it wants: an instance that runs, or a home where none does.


def test_who_changes_an_instance_is_told_to_whoever_waits(idle_home: Home, options: tuple[str, ...]) -> None:
    """Two `up` at once: one works, the other names it while it waits, and then has nothing to change."""
    with idle_home.start("up", *options) as first:
        assert first.stderr is not None
        first.stderr.readline()
        second = idle_home.run("up", *options)
    assert first.returncode == 0
    assert second.returncode == 0, second.stderr
    assert f"waiting for detectctl up, process {first.pid}" in second.stderr
    assert "nothing to change" in second.stdout


def test_a_full_disk_does_not_stop_what_serves(scene: Scene) -> None:
    """An update whose state cannot be written fails, and the service goes on as it was."""
    process = with_small_files(scene.service.home, 0, "up", *scene.options, "--conf", "0.5")
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 4, stderr
    assert "cannot be written" in stderr
    info = httpx.get(f"{scene.service.url}/info", timeout=30).json()
    assert info["defaults"]["conf"] == 0.25
    assert scene.status()["state"] == "running"
    assert scene.up("--conf", "0.5").returncode == 0


def test_what_the_state_file_says_is_checked(scene: Scene) -> None:
    """A pid that a stranger has now, or a file that nobody can read: neither harms anybody."""
    home = scene.service.home
    file = home.state / "default" / "instance.json"
    state = json.loads(file.read_text())
    stranger = psutil.Process()
    file.write_text(json.dumps(state | {"head": {**state["head"], "pid": stranger.pid}}))
    assert home.json("status", "--json", code=4)["state"] == "dead"
    file.write_text(json.dumps(state | {"head": {**state["head"], "boot": "another"}}))
    assert home.json("status", "--json", code=4)["state"] == "dead"
    file.write_text(json.dumps(state))
    assert scene.status()["state"] == "running"
    file.write_text(json.dumps(state | {"head": {**state["head"], "pid": stranger.pid}}))
    assert home.run("down").returncode == 0
    assert stranger.is_running()
    assert marked(state["instance_id"]) == []


def test_a_full_disk_is_said_and_leaves_nothing(empty_home: Home) -> None:
    """State or store that cannot be written: an error that says why, no process, no state."""
    for most_bytes in (0, 1_000_000):
        process = with_small_files(empty_home, most_bytes, "up", *fresh_options())
        _, stderr = process.communicate(timeout=120)
        assert process.returncode in {4, 5}, stderr
        assert "File too large" in stderr
        assert "Traceback" not in stderr
        assert empty_home.instance() is None


def _interrupted(
    home: Home, options: tuple[str, ...], after: str, signum: int
) -> tuple[int, str, dict[str, Any] | None]:
    """An `up` that gets the signal when it has said `after`: exit code, what it said, and its state by then.

    Each of these steps is followed by seconds of another. "deploying" is said by the state: after `✓ deploy` there is
    next to nothing left to interrupt.
    """
    said, state = "", None
    deploying = after == "deploying"
    after = "✓ start Ray" if deploying else after
    if after == "✓ resolve":  # else there is nothing to convert
        shutil.rmtree(home.cache / "compiled")
    with home.start("up", *options) as process:
        assert process.stderr is not None
        for line in process.stderr:
            said += line
            if after in line:
                if deploying:
                    wait_until(lambda: (home.instance() or {}).get("deployed"))
                state = home.instance()
                process.send_signal(signum)
                after = "no second signal"
    return process.returncode, said, state


@pytest.mark.long  # two starts each
@pytest.mark.parametrize("after", ["✓ resolve", "✓ convert", "✓ start Ray"])
def test_a_killed_up_is_told_and_cleaned(idle_home: Home, options: tuple[str, ...], after: str) -> None:
    """SIGKILL at each step: `status` does not say that it starts, and the next `up` clears the remains away."""
    code, _, _ = _interrupted(idle_home, options, after, signal.SIGKILL)
    assert code == -signal.SIGKILL
    state = idle_home.instance()  # as the killed command left it, which was perhaps quicker than the signal
    if state is not None:
        status = idle_home.json("status", "--json", code=4)
        assert status["state"] in {"dead", "degraded"}
    done = idle_home.run("up", *options)
    assert done.returncode == 0, done.stderr
    if state is not None and not state["deployed"]:  # else there is a service, which the next `up` takes over
        assert_gone(state)


def test_down_answers_what_it_accepted(scene: Scene) -> None:
    """Under load every request is answered, or refused before it was accepted; then nothing of ours is left."""
    _assert_down_answers(scene)


@pytest.mark.long  # the same again, behind the other ingress
def test_so_it_does_behind_rays_own_proxy(home: Home, bus_jpg: Path) -> None:
    with serving(PlainHome(home.path), bus_jpg, "Python proxy") as scene:
        _assert_down_answers(scene)


def _assert_down_answers(scene: Scene) -> None:
    state = scene.service.home.instance()
    with steady(scene.service.url, scene.image.read_bytes()) as load:
        load.wait_for(40)
        begun = time.monotonic()
        done = scene.service.home.run("down")
        seconds = time.monotonic() - begun
    assert done.returncode == 0, done.stderr
    assert "every accepted request was answered" in done.stdout
    refused = [_after_the_answers(load, client) for client in range(4)]
    # What was accepted was answered, so the first one that was not is one that was refused in clear words. Who then
    # goes on asking on the same connection finds it closed at last; the service does not come back for a moment.
    broken = [outcomes for outcomes in refused if not {*outcomes[:1]} <= {503, "ConnectionRefusedError"}]
    TABLE.append(Row(f"down under load ({scene.ingress})", len(load.sent), len(broken), seconds=seconds))
    assert broken == []
    assert [outcomes for outcomes in refused if 200 in outcomes] == []
    assert state is not None
    assert_gone(state)


def _after_the_answers(load: Load, client: int) -> list[int | str]:
    """What became of a client's requests from the first that was not answered with 200."""
    outcomes = [one.outcome for one in load.sent if one.client == client]
    return list(itertools.dropwhile(lambda outcome: outcome == 200, outcomes))


@pytest.mark.parametrize(
    ("after", "signum"),
    [
        ("✓ convert", signal.SIGINT),
        ("deploying", signal.SIGHUP),
        # Long: between the two above.
        pytest.param("✓ resolve", signal.SIGTERM, marks=pytest.mark.long),
        pytest.param("✓ start Ray", signal.SIGTERM, marks=pytest.mark.long),
    ],
)
def test_a_stopped_up_leaves_nothing(idle_home: Home, options: tuple[str, ...], after: str, signum: int) -> None:
    """Ctrl-C, a closed terminal or SIGTERM, at each step: exit 130, no process, no state, no folder."""
    code, said, state = _interrupted(idle_home, options, after, signum)
    assert code == 130, said
    assert idle_home.instance() is None
    if state is not None:
        assert_gone(state)


def test_a_request_that_never_ends_does_not_hold_down(scene: Scene) -> None:
    """Somebody uploads a byte now and then: `--timeout` is the most that `down` waits for it; that it passed is exit 4.

    `--force` does not wait at all: test_updates.py.
    """
    scene.down_while_an_upload_does_not_end("--timeout", "3", code=4)
