"""The end of a service under load, and of commands in the middle of their work."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from faults.scene import TABLE, PlainHome, Row, fresh_options, serving, with_small_files
from installed import marked, wait_until
from load import steady

if TYPE_CHECKING:
    from pathlib import Path

    from installed import Home
    from load import Load

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


@pytest.mark.parametrize("ingress", ["HAProxy", pytest.param("Python proxy", marks=pytest.mark.long)])
def test_down_answers_what_it_accepted(home: Home, bus_jpg: Path, ingress: str) -> None:
    """Under load every request is answered, or refused before it was accepted; then nothing of ours is left."""
    home = home if ingress == "HAProxy" else PlainHome(home.path)
    with serving(home, bus_jpg, ingress) as scene:
        state = home.instance()
        with steady(scene.service.url, bus_jpg.read_bytes()) as load:
            load.wait_for(40)
            begun = time.monotonic()
            done = home.run("down")
            seconds = time.monotonic() - begun
        assert done.returncode == 0, done.stderr
        assert "every accepted request was answered" in done.stdout
    refused = [_after_the_answers(load, client) for client in range(4)]
    # What was accepted was answered, so the first one that was not is one that was refused in clear words. Who then
    # goes on asking on the same connection finds it closed at last; the service does not come back for a moment.
    broken = [outcomes for outcomes in refused if not {*outcomes[:1]} <= {503, "ConnectionRefusedError"}]
    TABLE.append(Row(f"down under load ({ingress})", len(load.sent), len(broken), seconds=seconds))
    assert broken == []
    assert [outcomes for outcomes in refused if 200 in outcomes] == []
    assert state is not None
    _assert_gone(state)


def _after_the_answers(load: Load, client: int) -> list[int | str]:
    """What became of a client's requests from the first that was not answered with 200."""
    outcomes = [one.outcome for one in load.sent if one.client == client]
    return list(itertools.dropwhile(lambda outcome: outcome == 200, outcomes))


@pytest.mark.parametrize(("options", "code"), [(["--timeout", "3"], 4), (["--force"], 0)])
def test_a_request_that_never_ends_does_not_hold_down(home: Home, bus_jpg: Path, options: list[str], code: int) -> None:
    """Somebody uploads a byte now and then: `--timeout` is the most that `down` waits for it, `--force` does not.

    A deadline that passed is exit 4; cutting off is what `--force` asks for.
    """
    with serving(home, bus_jpg, "HAProxy") as scene:
        state = home.instance()
        address = urlsplit(scene.service.url)
        with socket.create_connection((address.hostname, address.port), timeout=60) as upload:
            upload.sendall(
                b"POST /detect HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\nExpect: 100-continue\r\n\r\n"
            )
            assert b" 100 " in upload.recv(1000)  # the replica's own word that it is there
            upload.sendall(b"x" * 10)
            done = home.run("down", *options)
    assert done.returncode == code, done.stderr
    assert "may have been cut off" in done.stdout
    assert state is not None
    _assert_gone(state)


def _interrupted(home: Home, after: str, signum: int) -> tuple[int, str, dict[str, Any] | None]:
    """An `up` that gets the signal when it has said `after`: exit code, what it said, and its state by then.

    Each of these steps is followed by seconds of another. "deploying" is said by the state: after `✓ deploy` there is
    next to nothing left to interrupt.
    """
    said, state = "", None
    deploying = after == "deploying"
    after = "✓ start Ray" if deploying else after
    with home.start("up", *fresh_options()) as process:
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


@pytest.mark.parametrize(
    ("after", "signum"),
    [
        ("✓ convert", signal.SIGTERM),
        ("deploying", signal.SIGHUP),
        pytest.param("✓ resolve", signal.SIGTERM, marks=pytest.mark.long),
        pytest.param("✓ start Ray", signal.SIGTERM, marks=pytest.mark.long),
    ],
)
def test_a_stopped_up_leaves_nothing(home: Home, after: str, signum: int) -> None:
    """SIGTERM, or a closed terminal, at each step: exit 130, no process, no state, no folder."""
    code, said, state = _interrupted(home, after, signum)
    assert code == 130, said
    assert home.instance() is None
    if state is not None:
        _assert_gone(state)


def _assert_gone(state: dict[str, Any]) -> None:
    assert marked(state["instance_id"]) == []
    assert not os.path.lexists(state["temp_dir"])


@pytest.mark.parametrize(
    "after", ["✓ start Ray", *(pytest.param(step, marks=pytest.mark.long) for step in ("✓ resolve", "✓ convert"))]
)
def test_a_killed_up_is_told_and_cleaned(home: Home, after: str) -> None:
    """SIGKILL at each step: `status` does not say that it starts, and the next `up` clears the remains away."""
    code, _, state = _interrupted(home, after, signal.SIGKILL)
    assert code == -signal.SIGKILL
    if state is not None:
        status = home.json("status", "--json", code=4)
        assert status["state"] in {"dead", "degraded"}
    done = home.run("up", *fresh_options())
    assert done.returncode == 0, done.stderr
    if state is not None:
        _assert_gone(state)


def test_a_full_disk_is_said_and_leaves_nothing(home: Home) -> None:
    """State or store that cannot be written: an error that says why, no process, no state."""
    for most_bytes in (0, 1_000_000):
        process = with_small_files(home, most_bytes, "up", *fresh_options())
        _, stderr = process.communicate(timeout=120)
        assert process.returncode in {4, 5}, stderr
        assert "File too large" in stderr
        assert "Traceback" not in stderr
        assert home.instance() is None


def test_a_full_disk_does_not_stop_what_serves(home: Home, bus_jpg: Path) -> None:
    """An update whose state cannot be written fails, and the service goes on as it was."""
    with serving(home, bus_jpg, "HAProxy") as scene:
        process = with_small_files(home, 0, "up", *scene.options, "--conf", "0.5")
        _, stderr = process.communicate(timeout=120)
        assert process.returncode == 4, stderr
        assert "cannot be written" in stderr
        info = httpx.get(f"{scene.service.url}/info", timeout=30).json()
        assert info["defaults"]["conf"] == 0.25
        assert scene.status()["state"] == "running"
        assert scene.up("--conf", "0.5").returncode == 0


def test_what_the_state_file_says_is_checked(home: Home, bus_jpg: Path) -> None:
    """A pid that a stranger has now, or a file that nobody can read: neither harms anybody."""
    with serving(home, bus_jpg, "HAProxy") as scene:
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


def test_who_changes_an_instance_is_told_to_whoever_waits(home: Home) -> None:
    """Two `up` at once: one works, the other names it while it waits, and then has nothing to change."""
    options = fresh_options()
    with home.start("up", *options) as first:
        assert first.stderr is not None
        first.stderr.readline()
        second = home.run("up", *options)
    assert first.returncode == 0
    assert second.returncode == 0, second.stderr
    assert f"waiting for detectctl up, process {first.pid}" in second.stderr
    assert "nothing to change" in second.stdout
