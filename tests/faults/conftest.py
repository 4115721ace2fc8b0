"""The table of faults, printed when all are over, and the services that they happen to."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

import pytest

import tiers
from faults import scene
from installed import Home

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

    from detectctl.engine.compiled import CompiledModel

_ROW = "fault"
_rows: list[scene.Row] = []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """The test may run in another process than the one that prints the table: its rows travel with its report."""
    report = yield
    report.user_properties += [(_ROW, asdict(row)) for row in scene.TABLE]
    scene.TABLE.clear()
    return report


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    properties: list[tuple[str, Any]] = report.user_properties
    _rows.extend(scene.Row(**row) for name, row in properties if name == _ROW)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _rows:
        terminalreporter.section("faults")
        for line in scene.table(_rows):
            terminalreporter.line(line)


def _shared_by(fixture_name: str, config: pytest.Config) -> Literal["module", "package"]:
    """An idle service takes an eighth of a core: where the goals are seconds, there is none beside the next file's."""
    del fixture_name, config
    return "module" if tiers.ALL else "package"


# Long: the same again, behind the other ingress.
@pytest.fixture(scope=_shared_by, params=["HAProxy", pytest.param("Python proxy", marks=pytest.mark.long)])
def instance(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    yolov8n_pt: Path,
    converted: tuple[CompiledModel, ...],
    bus_jpg: Path,
) -> Iterator[scene.Scene]:
    """A service of one replica behind each ingress, for all that happens to it, one after the other."""
    kind = Home if request.param == "HAProxy" else scene.PlainHome
    home: Home = kind(tmp_path_factory.mktemp("faults"))
    home.seed(yolov8n_pt, *converted)
    with scene.serving(home, bus_jpg, request.param) as found:
        yield found


@pytest.fixture(scope="module")
def running(instance: scene.Scene) -> scene.Scene:
    """The same as `up` wants it, whatever the file before has left of it."""
    done = instance.up()
    assert done.returncode == 0, done.stderr
    return instance
