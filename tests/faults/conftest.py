"""The table of faults, printed when all are over; the long ones run with `make faults` only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from faults import scene

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from installed import Home


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if scene.FULL:
        return
    long = [item for item in items if item.get_closest_marker("long")]
    items[:] = [item for item in items if item not in long]
    config.hook.pytest_deselected(items=long)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if scene.TABLE:
        terminalreporter.section("faults")
        for line in scene.table():
            terminalreporter.line(line)


@pytest.fixture(scope="module", params=["HAProxy", pytest.param("Python proxy", marks=pytest.mark.long)])
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, yolov8n_pt: Path, bus_jpg: Path
) -> Iterator[scene.Scene]:
    """A service of one replica behind each ingress, for all tests of a file, one after the other."""
    kind = scene.Home if request.param == "HAProxy" else scene.PlainHome
    home: Home = kind(tmp_path_factory.mktemp("faults"))
    home.seed_base(yolov8n_pt)
    with scene.serving(home, bus_jpg, request.param) as found:
        yield found
