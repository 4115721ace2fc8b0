"""A home folder that several machines or containers have: nobody touches what lives on another."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest

from detectctl.hosts.local.ray_head import HeadRecord
from detectctl.lifecycle.elsewhere import this_machine
from detectctl.lifecycle.state import InstanceFolder, InstanceState
from detectctl.processes import MARKER, Process
from installed import DETECTCTL, Home, wait_until
from lifecycle_values import PLACE, STATE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# A head for all that other commands see of it: a process that keeps its instance's files.
_HEAD = """
import fcntl, pathlib, sys, time
from detectctl.hosts.local.keeper import keep
if sys.argv[1] == "without locks":
    fcntl.flock = lambda *_: None
keep(pathlib.Path.cwd(), pathlib.Path(sys.argv[2]))
time.sleep(600)
"""
_ROOT = () if os.geteuid() == 0 else ("--map-root-user",)
_ANOTHER_NAME = "hostname elsewhere; "
_ANOTHER_BOOT = "echo another > boot; mount --bind boot /proc/sys/kernel/random/boot_id; "
PLACES = {
    "another machine": (("--uts", "--mount"), _ANOTHER_NAME + _ANOTHER_BOOT, "host {name}"),
    "another machine of the same name": (
        ("--uts", "--mount", "--pid", "--fork", "--mount-proc"),
        _ANOTHER_BOOT,
        "{name}, too",
    ),
    "another container": (("--uts", "--mount", "--pid", "--fork", "--mount-proc"), _ANOTHER_NAME, "host {name}"),
}
"""Namespaces to be in, what to do there first, and how the first place is called from there."""


@pytest.fixture(scope="module", autouse=True)
def _may_unshare() -> None:
    command = ["unshare", *_ROOT, "--uts", "--mount", "--pid", "--fork", "--mount-proc", "hostname", "elsewhere"]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("this system lets nobody but root be another machine")


@dataclass(frozen=True)
class Shared:
    """A home with an instance, whose head is this process."""

    home: Home
    folder: InstanceFolder
    state: InstanceState
    head: subprocess.Popen[bytes]

    def run(self, place: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        namespaces, script, _ = PLACES[place]
        command = ["unshare", *_ROOT, *namespaces, "sh", "-ec", f'{script}exec "$@"', "sh", str(DETECTCTL), *arguments]
        with self.home.start_command(command) as process:
            stdout, stderr = process.communicate(timeout=120)
        return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)

    def end(self) -> None:
        """The head, and with it its lock."""
        self.head.kill()
        self.head.wait()


@pytest.fixture
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shared]:
    home = Home(tmp_path)
    folder = InstanceFolder(home.state, "default")
    folder.create()
    # Its own: what another test ends, it ends by this.
    place = replace(PLACE, instance_id=secrets.token_hex(8), temp_dir=tmp_path / "dctl")
    place.requests_dir.mkdir(parents=True)
    locks = getattr(request, "param", "with locks")
    command = [sys.executable, "-c", _HEAD, locks, str(folder.alive_file)]
    with subprocess.Popen(command, cwd=place.temp_dir, env=home.env | {MARKER: place.instance_id}) as head:
        try:
            state = replace(STATE, place=replace(place, head=Process.of(head.pid)), machine=this_machine())
            folder.write(state)
            wait_until(folder.alive_file.exists)
            yield Shared(home, folder, state, head)
        finally:
            head.kill()


@pytest.mark.parametrize("place", PLACES)
def test_what_lives_elsewhere_is_told_and_not_touched(shared: Shared, place: str, bus_jpg: Path) -> None:
    """Neither by `down --force` nor by an `up` that makes a key."""
    where = PLACES[place][2].format(name=this_machine())
    before = {file.name for file in shared.folder.path.iterdir()} | {"lock"}
    told = shared.run(place, "status", "--json")
    assert told.returncode == 4
    status = json.loads(told.stdout)
    assert status["state"] == "elsewhere"
    assert f"{where}: " in status["message"]
    commands: list[tuple[str, ...]] = [("up", "--generate-api-key"), ("down", "--all", "--force")]
    if place == "another machine":  # the others differ from it in how they are told, which status has shown
        commands += [("up", "--follow"), ("down",), ("logs",), ("detect", str(bus_jpg))]
    for command in commands:
        done = shared.run(place, *command)
        assert done.returncode == 4, (command, done.stderr)
        assert "instance default runs on " in done.stderr
        assert f"{where}\n" in done.stderr
        assert "Traceback" not in done.stderr
    assert shared.folder.read() == shared.state
    assert shared.head.poll() is None
    assert isinstance(shared.state.place, HeadRecord)
    assert shared.state.place.requests_dir.exists()
    assert {file.name for file in shared.folder.path.iterdir()} == before


@pytest.mark.parametrize("place", PLACES)
def test_what_died_elsewhere_is_dead(shared: Shared, place: str) -> None:
    """As a container that is replaced by another, or a machine that was started again: its lock is free."""
    old = time.time() - 3600  # of a machine that may only not show its locks, its silence has to tell
    for file in (shared.folder.alive_file, shared.folder.state_file):
        os.utime(file, (old, old))
    shared.end()
    assert "dead" in shared.run(place, "status").stdout
    done = shared.run(place, "down")
    assert done.returncode == 0, done.stderr
    assert shared.folder.read() is None


@pytest.mark.parametrize("shared", ["without locks"], indirect=True)
def test_a_machine_whose_locks_are_not_seen_lives_while_it_touches_its_file(shared: Shared) -> None:
    """As on a network's file system that keeps locks to each machine."""
    assert "elsewhere" in shared.run("another machine", "status").stdout
    old = time.time() - 3600
    os.utime(shared.folder.state_file, (old, old))
    assert "elsewhere" in shared.run("another machine", "status").stdout
    os.utime(shared.folder.alive_file, (old, old))
    assert "dead" in shared.run("another machine", "status").stdout


def test_another_name_of_the_same_machine_changes_nothing(shared: Shared) -> None:
    """As when a laptop is in another network: the instance's processes are here."""
    command = ["unshare", *_ROOT, "--uts", "sh", "-ec", f'{_ANOTHER_NAME}exec "$@"', "sh", str(DETECTCTL), "status"]
    with shared.home.start_command(command) as process:
        stdout, _ = process.communicate(timeout=120)
    assert "elsewhere" not in stdout
