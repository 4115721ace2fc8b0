"""The rows of `gpu.py`: a table, the ratios that count, and plots."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl
from matplotlib import pyplot as plt
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from gpu_rows import Row
    from parity import Parity

mpl.use("agg")

_PLOTS = {
    ("network",): ("the network alone", "images in a batch"),
    ("decoding",): ("decoding JPEG", "images in a batch"),
    ("loop",): ("from JPEG to objects, no server", "images in a batch"),
    ("service", "litserve"): ("over HTTP", "replicas, or LitServe's workers"),
}


def table(rows: Sequence[Row]) -> Table:
    """Everything, in the order in which it was measured."""
    made = Table("part", "variant", "count", "images/s", "p50 ms", "objects, against eager fp32", title="One GPU")
    for row in rows:
        figures = ("" if each is None else f"{each:.1f}" for each in (row.images_per_s, row.p50_ms))
        objects = f"[red]{row.failed}[/]" if row.failed else _said(row.parity) if row.parity else ""
        made.add_row(row.part, row.variant, str(row.count or ""), *figures, objects)
    return made


def ratios(rows: Sequence[Row]) -> dict[str, float]:
    """The best of each way to serve by the best that one process does with no server; those that were measured."""
    found = {}
    loop = best(rows, "loop")
    for part, who in {"service": "the service", "litserve": "LitServe", "detector": "its engine, from threads"}.items():
        if (rate := best(rows, part)) and loop:
            found[f"{who} / the bare loop"] = rate / loop
    return found


def best(rows: Sequence[Row], part: str) -> float | None:
    """Images per second of a part's fastest row whose objects are right."""
    right = [row for row in rows if row.part == part and (row.parity is None or row.parity.kept)]
    return max((row.images_per_s for row in right if row.images_per_s), default=None)


def draw(rows: Sequence[Row], target: Path) -> None:
    """Throughput by batch and by replica, a PNG file; a row without figures is a point less."""
    figure, plots = plt.subplots(2, 2, figsize=(11, 8), layout="constrained")
    for plot, (parts, (title, axis)) in zip(plots.flat, _PLOTS.items(), strict=True):
        curves: dict[str, list[tuple[int, float]]] = {}
        for row in rows:
            if row.part in parts and row.images_per_s:
                name = row.variant if len(parts) == 1 else f"{row.part}, {row.variant}"
                curves.setdefault(name, []).append((row.count, row.images_per_s))
        for name, points in curves.items():
            plot.plot(*zip(*sorted(points), strict=True), marker="o", label=name)
        counts = sorted({count for points in curves.values() for count, _ in points})
        if len(parts) > 1 and (loop := best(rows, "loop")):
            plot.axhline(loop, linestyle=":", color="grey", label="the bare loop")
        plot.set(title=title, xlabel=axis, ylabel="images per second", xscale="log")
        plot.set_xticks(counts, [str(count) for count in counts])
        plot.set_xticks([], minor=True)
        plot.set_ylim(bottom=0)
        plot.grid(alpha=0.3)
        if plot.lines:
            plot.legend(fontsize=8)
    figure.savefig(target, dpi=110, metadata={"Software": None})
    plt.close(figure)


def _said(parity: Parity) -> str:
    verdict = "same" if parity.kept else "[red]NOT the same[/]"
    figures = f"{parity.compared}, least IoU {parity.least_iou:.3f}, confidence {parity.greatest_gap:.4f} apart"
    return f"{verdict}: {figures}" + (f", {parity.alone} found by one only" if parity.alone else "")
