"""The folders that detectctl keeps its files in."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import pytest

from detectctl.errors import UsageError
from detectctl.paths import Paths, with_home


def test_folders_are_below_home_unless_xdg_names_others() -> None:
    """A relative XDG path is ignored, as the specification says."""
    paths = Paths.from_environ({"HOME": "/h", "XDG_STATE_HOME": "/s", "XDG_CACHE_HOME": "relative"})
    assert paths == Paths(Path("/s/detectctl"), Path("/h/.cache/detectctl"), Path("/h/.config/detectctl"))


@pytest.mark.parametrize("home", ["", "relative"])
def test_no_home_at_all_is_a_usage_error_that_names_the_way_out(monkeypatch: pytest.MonkeyPatch, home: str) -> None:
    """As in a container whose user id has no entry in the password database."""

    def nameless(uid: int) -> NoReturn:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr("pwd.getpwuid", nameless)
    with pytest.raises(UsageError) as caught:
        Paths.from_environ({"XDG_STATE_HOME": "/s", "XDG_CACHE_HOME": "/c", "HOME": home})
    assert "XDG_CONFIG_HOME" in str(caught.value.why)
    named = {"XDG_STATE_HOME": "/s", "XDG_CACHE_HOME": "/c", "XDG_CONFIG_HOME": "/k"}
    assert Paths.from_environ(named).cache == Path("/c/detectctl")
    assert with_home(named | {"HOME": home}) == named | {"HOME": "/nonexistent"}


def test_a_relative_home_is_the_users_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise an instance would be known in one working folder only, and child processes have another."""
    monkeypatch.setattr("pwd.getpwuid", lambda _: SimpleNamespace(pw_dir="/home/somebody"))
    assert Paths.from_environ({"HOME": "here"}).cache == Path("/home/somebody/.cache/detectctl")
    assert with_home({"HOME": "here"}) == {"HOME": "/home/somebody"}
    assert with_home({"HOME": "/h"}) == {"HOME": "/h"}
