"""A clock that somebody sets while a service runs."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from faults.scene import ClockHome, serving

if TYPE_CHECKING:
    from pathlib import Path

    from installed import Home

# Long: it takes half a minute, and nothing that changes often has to do with clocks.
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600), pytest.mark.long]

_AN_HOUR = 3600
_LOOKS_S = 5.0  # of the controller, which wants to hear of each replica every second


def test_a_clock_that_is_set_costs_nothing(home: Home, bus_jpg: Path) -> None:
    """An hour on, then two back, under load: no request fails, no replica is replaced, and the commands work."""
    home = ClockHome(home.path)
    with serving(home, bus_jpg, "HAProxy") as scene:
        before = scene.status()["replicas"]

        def happen() -> None:
            for seconds in (_AN_HOUR, -_AN_HOUR):
                home.set_clock(seconds)
                time.sleep(_LOOKS_S)
                assert scene.status()["state"] == "running"
                again = scene.up()
                assert "nothing to change" in again.stdout, again.stderr

        load = scene.under_load("clock set an hour on, two back", happen)
        assert load.outcomes() == {200: len(load.sent)}
        assert [one["pid"] for one in scene.status()["replicas"]] == [one["pid"] for one in before]
        logged = home.run("logs", "--tail", "3", "--json")
        assert logged.returncode == 0, logged.stderr
        times = [datetime.fromisoformat(json.loads(line)["time"]) for line in logged.stdout.splitlines()]
        assert len(times) == 3
        assert min(times) > datetime.now(UTC) + timedelta(minutes=50), "the replica's own clock was set"
