"""The counters of a replica, and their sum over all replicas."""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import asdict
from typing import TYPE_CHECKING

import pytest

from detectctl.serving.request_log import LOGGER
from detectctl.serving.request_stats import RequestRecorder, RequestStats, read_all

if TYPE_CHECKING:
    from pathlib import Path


def test_percentiles_are_within_five_percent() -> None:
    stats = RequestStats()
    assert stats.percentile_ms(0.5) is None
    for milliseconds in range(1, 1001):
        stats.count(float(milliseconds), None)
    for fraction in (0.5, 0.9, 0.99):
        assert stats.percentile_ms(fraction) == pytest.approx(1000 * fraction, rel=0.05)


def test_errors_have_no_latency() -> None:
    """A refusal takes no time, and would make the service look fast."""
    stats = RequestStats()
    stats.count(0.1, "overloaded")
    assert (stats.requests, stats.errors, stats.percentile_ms(0.5)) == (1, {"overloaded": 1}, None)


def test_the_sum_is_over_all_replicas_and_leaves_out_what_is_damaged(tmp_path: Path) -> None:
    async def answer(name: str, *codes: str | None) -> None:
        recorder = RequestRecorder(tmp_path / f"{name}.json")
        for code in codes:
            recorder.record(10.0, code)
        recorder.write()

    asyncio.run(answer("a", None, None, "bad_url"))
    asyncio.run(answer("b", None, "bad_url", "unauthorized"))
    (tmp_path / "c.json").write_text("{")
    (tmp_path / "e.json").write_text('{"requests": 5}')
    (tmp_path / "d.json").write_text('{"requests": 5, "errors": {"bad_url": 5}, "latency": [5]}')
    total = read_all(tmp_path)
    assert (total.requests, total.errors) == (6, {"bad_url": 2, "unauthorized": 1})
    assert total.percentile_ms(0.99) == pytest.approx(10.0, rel=0.05)


def test_the_counts_of_another_versions_replica_are_in_the_sum(tmp_path: Path) -> None:
    """Versions write different keys besides; during an update both write."""
    stats = RequestStats()
    stats.count(10.0, None)
    (tmp_path / "a.json").write_text(json.dumps(asdict(stats) | {"started_at": 1.0, "new": 2}))
    assert read_all(tmp_path) == stats


def test_counters_reach_the_file_by_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detectctl.serving.request_stats._WRITE_PERIOD_S", 0.01)

    async def story() -> None:
        recorder = RequestRecorder(tmp_path / "a.json")
        for expected in (1, 2):
            recorder.record(1.0, None)
            async with asyncio.timeout(10):
                while read_all(tmp_path).requests < expected:  # noqa: ASYNC110 - it is another program's view
                    await asyncio.sleep(0.005)

    asyncio.run(story())


def test_a_full_disk_costs_figures_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger(LOGGER), "propagate", True)  # a replica's request log turns it off
    recorder = RequestRecorder(tmp_path / "missing" / "a.json")
    recorder.stats.count(1.0, None)
    with caplog.at_level(logging.WARNING, LOGGER):
        recorder.write()
    assert "No such file" in caplog.text
    assert recorder.stats.requests == 1
