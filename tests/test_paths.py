"""The folders that detectctl keeps its files in."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import pytest

from detectctl.errors import UsageError
from detectctl.paths import Paths


def test_folders_are_below_home_unless_xdg_names_others() -> None:
    """A relative XDG path is ignored, as the specification says."""
    paths = Paths.from_environ({"HOME": "/h", "XDG_STATE_HOME": "/s", "XDG_CACHE_HOME": "relative"})
    assert paths == Paths(Path("/s/detectctl"), Path("/h/.cache/detectctl"), Path("/h/.config/detectctl"))


def test_no_home_at_all_is_a_usage_error_that_names_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container whose user id has no entry in the password database."""

    def nameless() -> NoReturn:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nameless)
    with pytest.raises(UsageError) as caught:
        Paths.from_environ({"XDG_STATE_HOME": "/s", "XDG_CACHE_HOME": "/c"})
    assert "XDG_CONFIG_HOME" in str(caught.value.why)
    named = {"XDG_STATE_HOME": "/s", "XDG_CACHE_HOME": "/c", "XDG_CONFIG_HOME": "/k"}
    assert Paths.from_environ(named).cache == Path("/c/detectctl")
