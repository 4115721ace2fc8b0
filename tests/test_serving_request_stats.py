"""What a replica counts, and the sum over all replicas."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from detectctl.serving.request_stats import (
    CLASSES,
    IMAGE_PIXELS,
    LATENCY,
    OBJECTS,
    OK,
    OTHER,
    Answered,
    RequestRecorder,
    RequestStats,
    read_stats,
)
from detectctl.wire import Detection

if TYPE_CHECKING:
    from pathlib import Path


def _answered(seconds: float, code: str = OK, route: str = "/detect", **more: object) -> Answered:
    return Answered(route, code, "body", False, seconds, **more)  # type: ignore[arg-type]


def _recorded(path: Path | None, *requests: Answered) -> RequestRecorder:
    recorder = RequestRecorder(path)
    for request in requests:
        recorder.answered(request)
    recorder.tally.close()
    return recorder


def _stats(*requests: Answered) -> RequestStats:
    return RequestStats.of(_recorded(None, *requests).tally.values)


def test_percentiles_are_within_five_percent() -> None:
    assert _stats().percentile_ms(0.5) is None
    routes = ("/detect", "/annotate")
    stats = _stats(*(_answered(ms / 1000, route=routes[ms % 2]) for ms in range(1, 1001)))
    for fraction in (0.5, 0.9, 0.99):
        assert stats.percentile_ms(fraction) == pytest.approx(1000 * fraction, rel=0.05)
    assert _stats(_answered(1e6)).percentile_ms(0.5) == pytest.approx(131_072)


def test_errors_have_no_latency() -> None:
    """A refusal takes no time, and would make the service look fast."""
    stats = _stats(_answered(0.0001, "overloaded"))
    assert (stats.requests, stats.errors, stats.percentile_ms(0.5)) == (1, {"overloaded": 1}, None)


def test_the_sum_is_over_all_replicas(tmp_path: Path) -> None:
    _recorded(tmp_path / "a.tally", *(_answered(0.01, code) for code in (OK, OK, "bad_url")))
    _recorded(tmp_path / "b.tally", *(_answered(0.01, code) for code in (OK, "bad_url", "unauthorized")))
    stats = read_stats(tmp_path)
    assert (stats.requests, stats.errors) == (6, {"bad_url": 2, "unauthorized": 1})
    assert stats.percentile_ms(0.99) == pytest.approx(10.0, rel=0.05)


def test_bounds_double_and_are_inclusive() -> None:
    """The bounds that are shown are among those that are counted, and are short numbers."""
    shown = LATENCY.bounds[:: LATENCY.steps]
    assert [str(bound) for bound in shown[:6]] == ["0.001", "0.002", "0.004", "0.008", "0.016", "0.032"]
    assert len(shown) == LATENCY.shown
    ((key, _), _) = IMAGE_PIXELS.seen(512 * 512)
    assert key == ("image_pixels", "1")


def test_no_caller_and_no_model_makes_numbers_without_end() -> None:
    """Paths that are no routes are one, and so are the classes after the first hundred."""
    found = tuple(Detection(f"class {number}", (0, 0, 1, 1), 0.5, number) for number in range(1000))
    guesses = [_answered(0.1, "not_found", f"/{number}") for number in range(1000)]
    values = _recorded(None, *guesses, _answered(0.1, found=found)).tally.values
    assert values["requests", OTHER, "not_found", "body"] == 1000
    assert values[OBJECTS, OTHER] == 1000 - CLASSES
    assert len([key for key in values if key[0] == OBJECTS]) == CLASSES + 1
    assert len(values) < CLASSES + 20
