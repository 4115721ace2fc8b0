"""How much of the suite runs.

`make test-fast` leaves out what is marked `cluster` or `slow`, `make test` what is marked `long`; `make test-all` runs
everything, and each measurement at its full length.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from xdist.scheduler import LoadScopeScheduling

if TYPE_CHECKING:
    from xdist.remote import Producer
    from xdist.workermanage import WorkerController

ALL = os.environ.get("TESTS") == "all"
"""Whether this is `make test-all`, `make faults` or `make fuzz`."""
BUDGET_S = 20.0
"""Seconds that the body of a test may take, its fixtures not counted, unless it is marked `slow` or `long`."""

_TOGETHER = ("service", "edge", "cluster", "faults")
"""Folders whose tests ask one running instance: they stay in one process, or it would start in each."""

_over_budget: list[tuple[float, str]] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--strict-budget", action="store_true", help=f"fail when an unmarked test takes over {BUDGET_S} s")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the long tests, and begin with the groups that take most; see `_in_turn`."""
    if not ALL:
        left_out = [item for item in items if item.get_closest_marker("long")]
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)
    groups: dict[str, list[pytest.Item]] = {}
    for item in items:
        groups.setdefault(_group(item.nodeid), []).append(item)
    items[:] = [item for group in _in_turn(list(groups.values())) for item in group]


def _group(nodeid: str) -> str:
    file = Path(nodeid.partition("::")[0])
    return file.parent.name if file.parent.name in _TOGETHER else file.stem


def _in_turn(groups: list[list[pytest.Item]]) -> list[list[pytest.Item]]:
    """Those that start Ray, then the other slow ones; at last the quick ones, for whichever process is free."""

    def marked(mark: str) -> list[list[pytest.Item]]:
        return [group for group in groups if any(item.get_closest_marker(mark) for item in group)]

    clusters = marked("cluster")
    slow = [group for group in marked("slow") if group not in clusters]
    return clusters + slow + [group for group in groups if group not in clusters + slow]


class _ByGroup(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """One process at a time has tests that start Ray, which compute; the others have those that rather wait.

    pytest-xdist's own groups of tests, `--dist loadgroup`, are lost in pytest 9.2.
    """

    def _split_scope(self, nodeid: str) -> str:
        return _group(nodeid)

    def _assign_work_unit(self, node: WorkerController) -> None:
        others = [units for other, units in self.assigned_work.items() if other is not node]
        busy = any(self._starts_ray(unit) and not all(unit.values()) for units in others for unit in units.values())
        wanted = (group for group, unit in self.workqueue.items() if self._starts_ray(unit) != busy)
        if (first := next(wanted, None)) is not None:
            self.workqueue.move_to_end(first, last=False)
        super()._assign_work_unit(node)

    def _starts_ray(self, unit: dict[str, bool]) -> bool:
        """By the text of its file: there are no marks where the tests are given out."""
        file: Path = self.config.rootpath / next(iter(unit)).partition("::")[0]
        return file.parent.name in _TOGETHER or "mark.cluster" in file.read_text(encoding="utf-8")


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling | None:
    return _ByGroup(config, log) if config.getoption("dist") == "loadfile" else None


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" and report.duration > BUDGET_S and not {"slow", "long"} & set(report.keywords):
        _over_budget.append((report.duration, report.nodeid))


def pytest_sessionfinish(session: pytest.Session) -> None:
    if _over_budget and session.config.getoption("--strict-budget") and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _over_budget:
        terminalreporter.section(f"over {BUDGET_S:.0f} s without a mark that says so")
        for seconds, test in sorted(_over_budget, reverse=True):
            terminalreporter.line(f"{seconds:.1f}s {test}")
