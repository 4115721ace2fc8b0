"""The measurements, as tables for people and as JSON."""

from __future__ import annotations

import statistics
from dataclasses import asdict
from operator import attrgetter, methodcaller
from typing import TYPE_CHECKING, Any

from rich.table import Table

from accounting import installed_bytes
from judgement import Spread, against_before, judge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from judgement import Round


def tables(rounds: Sequence[Round]) -> Iterator[Table | str]:
    """Everything to print, in order; the targets last."""
    yield _loads(rounds)
    yield _processes(rounds)
    yield ceiling(rounds)
    steps = {step: [one.up_steps.get(step, 0) / one.bare_ray_s for one in rounds] for step in rounds[0].up_steps}
    said = ", ".join(f"{step} {statistics.median(ratios):.2f}" for step, ratios in steps.items())
    yield f"steps of `up`, as fractions of a bare `ray start --head`: {said}"
    sizes = installed_bytes()
    largest = sorted(sizes.items(), key=lambda item: -item[1])[:6]
    said = ", ".join(f"{name} {size / 1e6:.0f}" for name, size in largest)
    yield f"installed: {sum(sizes.values()) / 1e6:.0f} MB in {len(sizes)} distributions; the largest: {said}\n"
    table = Table("target", "required", "measured: median (min-max)", "met", title="Targets")
    for verdict in judge(rounds):
        kept = "-" if verdict.kept is None else "yes" if verdict.kept else "NO"
        table.add_row(verdict.promise, verdict.wanted, verdict.measured, kept)
    yield table
    if compared := against_before(rounds):
        images = sorted({one.image for one in rounds[0].measurements})
        table = Table("figure", *images, title="By that of the version before: medians (min-max)")
        for figure, spreads in compared.items():
            table.add_row(figure, *(str(spreads[image]) for image in images))
        yield table
    if (busy := max(one.others_percent for one in rounds)) > 5:
        yield f"warning: other programs used up to {busy:.0f} % of the CPU; measure again on a quiet machine"


def summary(rounds: Sequence[Round]) -> dict[str, Any]:
    """JSON data of the judgement and of everything measured."""
    return {
        "judgement": [asdict(verdict) for verdict in judge(rounds)],
        "installed_bytes": installed_bytes(),
        "against_before": {
            figure: {image: asdict(spread) for image, spread in spreads.items()}
            for figure, spreads in against_before(rounds).items()
        },
        "rounds": [asdict(one) for one in rounds],
    }


def _loads(rounds: Sequence[Round]) -> Table:
    table = Table(
        "image", "contestant", "input", "clients", "requests/s", "x limit", "x FastAPI", "x LitServe", "p50 ms",
        "p99 ms", "CPU ms", "not 200", title=f"Medians of {len(rounds)} rounds (min-max)",
    )  # fmt: skip
    for first in sorted(rounds[0].measurements, key=lambda one: one.image):
        key = (first.image, first.who, first.way, first.clients)
        same = [one.of(*key) for one in rounds]
        rates = [one.requests_per_s for one in same]
        refused = sum(count for one in same for status, count in one.statuses.items() if status != "200")
        table.add_row(
            *map(str, key),
            str(Spread.of(rates)),
            _ratio(rates, rounds, methodcaller("limit", first.image)),
            *(_ratio(rates, rounds, _rate(first.image, who, "POST", first.clients)) for who in ("FastAPI", "LitServe")),
            *(f"{statistics.median(map(attrgetter(name), same)):.1f}" for name in ("p50_ms", "p99_ms", "all_cpu_ms")),
            str(refused or ""),
        )
    return table


def ceiling(rounds: Sequence[Round]) -> Table:
    """What surrounds the network, by FastAPI's. The peers run Ultralytics around the same one."""
    table = Table(
        "contestant", "megapixels", "clients", "requests/s", "x FastAPI", "CPU, x FastAPI", "lock held, ms",
        "CPU ms by process", "and by thread of its interpreters",
        title="The ceiling: a network of 32 pixels: medians",
    )  # fmt: skip
    for first in rounds[0].ceiling:
        load = (first.image, first.clients)
        same, peer = (
            [next(one for one in each.ceiling if (one.who, one.image, one.clients) == (who, *load)) for each in rounds]
            for who in (first.who, "FastAPI")
        )
        by_process, by_thread = (_medians([getattr(one, which) for one in same]) for which in ("cpu_ms", "threads_ms"))
        pairs = list(zip(same, peer, strict=True))
        table.add_row(
            first.who,
            first.image.partition("MP")[0],
            str(first.clients),
            f"{statistics.median(one.requests_per_s for one in same):.0f}",
            f"{statistics.median(one.requests_per_s / other.requests_per_s for one, other in pairs):.2f}",
            f"{statistics.median(one.all_cpu_ms / other.all_cpu_ms for one, other in pairs):.2f}",
            "" if first.lock_ms is None else f"{statistics.median(one.lock_ms or 0 for one in same):.2f}",
            by_process,
            by_thread,
        )
    return table


def _medians(rounds: Sequence[Mapping[str, float]]) -> str:
    """Of each name that the first round has, the largest first."""
    by = {name: statistics.median(one.get(name, 0) for one in rounds) for name in rounds[0]}
    return ", ".join(f"{name} {ms:.2f}" for name, ms in sorted(by.items(), key=lambda item: -item[1]) if ms >= 0.05)


def _ratio(rates: Sequence[float], rounds: Sequence[Round], by: Callable[[Round], float]) -> str:
    try:
        return f"{statistics.median(rate / by(one) for rate, one in zip(rates, rounds, strict=True)):.2f}"
    except KeyError:  # peers are not measured under every load
        return ""


def _rate(*load: Any) -> Callable[[Round], float]:
    """Of a round, for the arguments of `Round.of`; KeyError if that was not measured."""
    return lambda one: one.of(*load).requests_per_s


def _processes(rounds: Sequence[Round]) -> Table:
    """CPU and memory by process; CPU ms per request are CPU seconds per 1,000 requests."""
    table = Table(
        "process", "CPU s per 1,000 requests: POST", "image_url", "idle: CPU ms per s", "RSS MB", "PSS MB",
        title="The service by process, with 8 clients: medians",
    )  # fmt: skip
    post, url = (
        [one.cpu_ms for each in rounds for one in each.measurements
         if (one.who, one.way, one.clients) == ("detectctl", way, 8)]
        for way in ("POST", "image_url")
    )  # fmt: skip
    idle = [one.idle for one in rounds]
    rss, pss = (
        [{kind: sizes[size] for kind, sizes in one.memory.items()} for one in rounds] for size in ("rss", "pss")
    )
    columns = [post, url, idle, rss, pss]
    rows = [[statistics.median(one.get(kind, 0) for one in column) for column in columns] for kind in rounds[0].memory]
    for kind, row in sorted(zip(rounds[0].memory, rows, strict=True), key=lambda item: -item[1][-2]):
        table.add_row(kind, *(f"{figure:.2f}" for figure in row[:2]), *(f"{figure:.0f}" for figure in row[2:]))
    totals = [sum(column) for column in zip(*rows, strict=True)]
    table.add_row("all", *(f"{figure:.2f}" for figure in totals[:2]), *(f"{figure:.0f}" for figure in totals[2:]))
    return table
