"""The state file: read with care, and never the last trace of a running instance that is lost."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from detectctl.errors import NotReady, NotRunning
from detectctl.lifecycle.state import InstanceFolder, InstanceState, reach, served_models
from detectctl.processes import Process

STATE = InstanceState(
    name="default",
    instance_id="0123456789abcdef",
    head=None,
    temp_dir=Path("/nowhere/dctl-01234567"),
    dashboard_url="http://127.0.0.1:20001",
    host="127.0.0.1",
    port=8000,
    deployed=None,
    last_good=None,
    last_failure=None,
    created_at=1.0,
)


@pytest.fixture
def folder(tmp_path: Path) -> InstanceFolder:
    made = InstanceFolder(tmp_path, "default")
    made.create()
    return made


def test_what_is_written_is_read(folder: InstanceFolder) -> None:
    assert folder.read() is None
    folder.write(STATE)
    assert folder.read() == STATE
    assert [path.name for path in folder.path.iterdir()] == ["instance.json"]


@pytest.mark.parametrize(("part", "instead"), [('"created_at": 1.0', ""), ('"port"', '"prt"')])
def test_a_damaged_file_still_tells_how_to_end_the_instance(folder: InstanceFolder, part: str, instead: str) -> None:
    """It is set aside, and what is left counts as an instance that was never finished."""
    folder.write(STATE)
    whole = folder.state_file.read_text()
    damaged = whole.replace(part, instead)
    assert damaged != whole
    folder.state_file.write_text(damaged)
    found = folder.read()
    assert found is not None
    assert (found.instance_id, found.temp_dir) == (STATE.instance_id, STATE.temp_dir)
    assert (found.deployed, found.alive) == (None, False)
    assert folder.read() == found
    (aside,) = folder.path.glob("instance.corrupt-*")
    assert aside.read_text() == damaged


@pytest.mark.parametrize(
    ("part", "instead", "known"),
    [
        ('"schema": 2', '"schema": 2,', True),  # a comma too many, as by hand
        ('"last_failure": null\n}', "", False),  # cut
        ('"last_good": {', '"last_good": ', False),
        ('"schema": 2', '"schema": ', False),
    ],
)
def test_a_damaged_file_tells_what_is_left_of_it(folder: InstanceFolder, part: str, instead: str, known: bool) -> None:
    """Who it is, so that `up` need not stop it; and what it serves, where that can still be read."""
    served = {"config": {"name": "another", "port": 1}}
    whole = replace(STATE, head=Process.of(os.getpid()), deployed=served, last_good=served)
    folder.write(whole)
    text = folder.state_file.read_text()
    assert part in text
    folder.state_file.write_text(text.replace(part, instead))
    wanted = whole if known else replace(whole, deployed={}, last_good=None)
    assert folder.read() == wanted
    assert folder.read() == wanted, "and it is written down again"
    assert len(list(folder.path.glob("instance.corrupt-*"))) == 1


@pytest.mark.parametrize("content", [b"", b"\x00\xff" * 50, b"[]", b'{"instance_id": "../../x", "temp_dir": "/"}'])
def test_one_that_tells_nothing_is_said_once(folder: InstanceFolder, content: bytes) -> None:
    folder.state_file.write_bytes(content)
    with pytest.raises(NotReady, match="cannot be read") as error:
        folder.read()
    assert "corrupt" in str(error.value.why)
    assert folder.read() is None


def test_another_versions_file_tells_enough_to_take_over(folder: InstanceFolder) -> None:
    folder.write(STATE)
    data = json.loads(folder.state_file.read_text())
    del data["last_good"]
    folder.state_file.write_text(json.dumps(data | {"schema": 1, "deployed": "in its own words", "more": True}))
    assert folder.read() == replace(STATE, deployed={})
    with pytest.raises(NotReady, match="not known"):
        served_models(folder.path.parent)


def test_no_client_is_sent_to_where_a_dead_instance_was(folder: InstanceFolder) -> None:
    """Somebody else may listen at its port by now, and would be sent its key."""
    keys = {"config": {"api_key_file": "/keys"}}
    itself = Process.of(os.getpid())
    folder.write(replace(STATE, head=itself, deployed=keys))
    assert reach(folder.path.parent, "default") == ("http://127.0.0.1:8000", Path("/keys"))
    for head in (replace(itself, started=itself.started - 100), None):
        folder.write(replace(STATE, head=head, deployed=keys))
        with pytest.raises(NotRunning, match="no instance default is running") as error:
            reach(folder.path.parent, "default")
        assert "Ray head died" in str(error.value.why)
        assert error.value.hint == "detectctl up"


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
    assert replace(STATE, host=host).endpoint == endpoint
