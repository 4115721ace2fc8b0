"""The end of an instance where something does not let go."""

from __future__ import annotations

import json
import socket
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from detectctl.errors import DeadlineExceeded
from detectctl.hosts.local.local_host import LocalHost
from detectctl.lifecycle.down import DownResult, down, down_all
from detectctl.lifecycle.lock import locked
from detectctl.lifecycle.state import InstanceFolder, names
from detectctl.paths import Paths
from detectctl.progress import silent
from detectctl.waiting import Deadline
from installed import Home
from lifecycle_values import PLACE, STATE

if TYPE_CHECKING:
    from pathlib import Path


def test_a_dashboard_that_hangs_is_waited_for_no_longer_than_was_said(tmp_path: Path) -> None:
    """It takes the connection, and never answers."""
    (tmp_path / "token").write_text("secret")
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        begun = time.monotonic()
        with LocalHost(replace(PLACE, temp_dir=tmp_path, dashboard_url=url)) as host:
            assert not host.drain(Deadline.after(1))
    assert time.monotonic() - begun < 10


def test_force_does_not_wait_for_another_command_but_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dead one's lock is free; one that holds it lives, and goes on."""
    monkeypatch.setattr("detectctl.lifecycle.down._FORCED_LOCK_S", 0.2)
    paths = Paths.from_environ({"HOME": str(tmp_path)})
    folder = InstanceFolder(paths.state, "default")
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with locked(folder, "up", 1, silent):
            held.set()
            done.wait(60)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(60)
    begun = time.monotonic()
    try:
        with pytest.raises(DeadlineExceeded) as caught:
            down(folder, timeout_s=30, force=True, report=silent)
    finally:
        done.set()
        holder.join()
    assert time.monotonic() - begun < 10
    assert "detectctl up, process" in str(caught.value.why)


def test_one_that_fails_does_not_keep_the_others_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`down --all` goes on, and says of each instance what became of it."""
    monkeypatch.setattr("detectctl.lifecycle.down._FORCED_LOCK_S", 0.1)
    paths = Paths.from_environ({"HOME": str(tmp_path)})
    for name in ("a", "b", "c"):
        folder = InstanceFolder(paths.state, name)
        folder.create()
        folder.write(replace(STATE, name=name, place=replace(PLACE, temp_dir=tmp_path / name)))
    with locked(InstanceFolder(paths.state, "b"), "up", 1, silent):
        done = dict(down_all(paths, timeout_s=1, force=True, report=silent))
    assert list(done) == ["a", "b", "c"]
    assert isinstance(done["b"], DeadlineExceeded)
    assert [one.action for one in done.values() if isinstance(one, DownResult)] == ["cleaned", "cleaned"]
    assert names(paths.state) == ["b"]


def test_down_all_reports_each_and_exits_with_the_worst_code(tmp_path: Path) -> None:
    """In text and with `--json`; the one that failed has its error there, like any error."""
    home = Home(tmp_path)
    for name in ("a", "b", "c"):
        folder = InstanceFolder(home.state, name)
        folder.create()
        folder.write(replace(STATE, name=name, place=replace(PLACE, temp_dir=tmp_path / name)))
    with locked(InstanceFolder(home.state, "b"), "up", 1, silent):
        done = home.run("down", "--all", "--force", "--json")
        assert done.returncode == DeadlineExceeded.exit_code, done.stderr
        told = {one["name"]: one for one in json.loads(done.stdout)["instances"]}
        assert {name: one["action"] for name, one in told.items()} == {"a": "cleaned", "b": "failed", "c": "cleaned"}
        assert told["b"]["error"]["code"] == "deadline_exceeded"
        assert "instance b is being changed by another command" in done.stderr
    done = home.run("down", "--all")
    assert (done.returncode, done.stdout) == (0, "cleaned up after b, which was dead\n")
