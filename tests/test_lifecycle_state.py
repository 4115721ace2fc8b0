"""The state file: read with care, and never the last trace of a running instance that is lost."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from detectctl.errors import NotReady, NotRunning
from detectctl.hosts.local.local_host import LocalHost
from detectctl.lifecycle.state import InstanceFolder, reach, served_models
from detectctl.processes import Process
from lifecycle_values import DEPLOYMENT, PLACE, STATE, with_head


@pytest.fixture
def folder(tmp_path: Path) -> InstanceFolder:
    made = InstanceFolder(tmp_path, "default")
    made.create()
    return made


def test_what_is_written_is_read(folder: InstanceFolder) -> None:
    """By its owner only."""
    assert folder.read() is None
    folder.write(STATE)
    assert folder.read() == STATE
    assert {path.name for path in folder.path.iterdir()} == {"instance.json", "instance.copy.json"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.path.iterdir()} == {0o600}
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    folder.forget()
    assert list(folder.path.iterdir()) == []


@pytest.mark.parametrize(
    ("part", "instead"),
    [
        ('"schema": 3', '"schema": 3,'),  # a comma too many, as by hand
        ('"schema": 3', '"schema": '),
        ('"port"', '"prt"'),
        ('"unknown": false\n}', ""),  # cut
        ('"last_good": {', '"last_good": '),
    ],
)
def test_a_damaged_file_costs_nothing(folder: InstanceFolder, part: str, instead: str) -> None:
    """The copy beside it has all of it; the next write repairs the file."""
    whole = with_head(replace(STATE, deployed=DEPLOYMENT, last_good=DEPLOYMENT), Process.of(os.getpid()))
    folder.write(whole)
    text = folder.state_file.read_text()
    assert part in text
    folder.state_file.write_text(text.replace(part, instead))
    assert folder.read() == whole
    folder.write(whole)
    assert folder.state_file.read_text() == text


def test_a_copy_outlives_no_instance(folder: InstanceFolder) -> None:
    """What a killed `down` has left of the state is not an instance."""
    folder.write(STATE)
    folder.state_file.unlink()
    assert folder.read() is None


@pytest.mark.parametrize("content", [b"", b"\x00\xff" * 50, b"[]", b'{"instance_id": "../../x", "temp_dir": "/"}'])
@pytest.mark.parametrize("with_copy", [True, False])
def test_one_that_tells_nothing_is_reported_once(folder: InstanceFolder, content: bytes, with_copy: bool) -> None:
    for file in (folder.state_file, folder.state_copy) if with_copy else (folder.state_file,):
        file.write_bytes(content)
    with pytest.raises(NotReady, match="cannot be read") as error:
        folder.read()
    assert "corrupt" in str(error.value.why)
    assert folder.read() is None


def test_another_versions_file_tells_enough_to_take_over(folder: InstanceFolder) -> None:
    folder.write(STATE)
    data = json.loads(folder.state_file.read_text())
    del data["last_good"]
    folder.state_file.write_text(json.dumps(data | {"schema": 1, "deployed": "in its own words", "more": True}))
    unknown = replace(STATE, unknown=True)
    assert folder.read() == unknown
    folder.write(unknown)
    assert folder.read() == unknown
    with pytest.raises(NotReady, match="not known"):
        served_models(folder.path.parent)


def test_a_deployment_that_cannot_be_read_is_unknown_and_the_instance_is_not_lost(folder: InstanceFolder) -> None:
    """As when a version of detectctl changed the shape without changing the number."""
    folder.write(replace(STATE, deployed=DEPLOYMENT, last_good=DEPLOYMENT))
    data = json.loads(folder.state_file.read_text())
    data["last_good"]["config"]["detector"]["something new"] = 1
    folder.state_file.write_text(json.dumps(data))
    assert folder.read() == replace(STATE, unknown=True)


def test_no_client_is_sent_to_where_a_dead_instance_was(folder: InstanceFolder) -> None:
    """Somebody else may listen at its port by now, and would be sent its key."""
    keys = replace(DEPLOYMENT, config=replace(DEPLOYMENT.config, api_key_file="/keys"))
    itself = Process.of(os.getpid())
    folder.write(with_head(replace(STATE, deployed=keys), itself))
    assert reach(folder.path.parent, "default") == (("http://127.0.0.1:8000",), Path("/keys"))
    for head in (replace(itself, started=itself.started - 100), None):
        folder.write(with_head(replace(STATE, deployed=keys), head))
        with pytest.raises(NotRunning, match="instance default is not running") as error:
            reach(folder.path.parent, "default")
        assert "Ray head died" in str(error.value.why)
        assert error.value.hint == "start it: `detectctl up`"


def test_a_clock_that_was_set_back_changes_nothing(folder: InstanceFolder) -> None:
    later = replace(STATE, created_at=time.time() + 86400)
    folder.write(later)
    assert folder.read() == later


@pytest.mark.parametrize(
    ("host", "endpoint"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000"),
        ("0.0.0.0", "http://127.0.0.1:8000"),  # noqa: S104
        ("::", "http://[::1]:8000"),
        ("::1", "http://[::1]:8000"),
        ("fd00::1", "http://[fd00::1]:8000"),
        ("box.example", "http://box.example:8000"),
    ],
)
def test_a_client_finds_it_at_its_address(host: str, endpoint: str) -> None:
    with LocalHost(replace(PLACE, host=host)) as found:
        assert found.endpoint == endpoint


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_home_of_another_user_is_said(tmp_path: Path) -> None:
    """As `sudo -u` leaves it in HOME; settings are not looked for there."""
    code = """
import os, pathlib, sys
from detectctl.errors import NotReady
from detectctl.lifecycle import state, down
from detectctl.precedence import Sources
folder = state.InstanceFolder(pathlib.Path(sys.argv[1]) / "state", "default")
os.setuid(54321)
assert Sources.read({"HOME": sys.argv[1]}, None).file is None
for ask in (folder.read, folder.exists, folder.create, lambda: state.names(folder.path.parent)):
    try:
        ask()
    except NotReady as error:
        print(error.why, error.hint)
"""
    (tmp_path / "home").mkdir(mode=0o700)
    command = [sys.executable, "-c", code, str(tmp_path / "home")]
    said = subprocess.run(command, check=True, capture_output=True, text=True, cwd="/").stdout.splitlines()
    assert len(said) == 4
    for line in said:
        assert line.startswith("Permission denied")
        assert line.endswith("set XDG_STATE_HOME to a folder that you can write to")
