"""Plot how throughput and latency change with the number of clients, image size, replicas and model, one at a time.

Plotted as multiples of what the engine does in process on bus.jpg, measured in the same run: throughput of 8 threads,
latency of one. Images come by POST. A client that gets 503 waits a second, as Retry-After says; p50 and p99
include those answers.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.ticker import LogLocator

import contestants
import instance
import pictures
import wrk
from contestants import Measurement

mpl.use("agg")

RESULTS = Path(__file__).parent / "results"
PICTURES = Path(__file__).parent.parent / "docs" / "pictures"
CLIENTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
MEGAPIXELS = (0.3, 1, 2, 4, 8, 12, 24)

Curve = list[tuple[float, Measurement]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8, help="length of each load")
    parser.add_argument("--quick", action="store_true", help="three points of each curve, short loads")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for the figures")
    parser.add_argument("--pictures", type=Path, default=PICTURES, help="folder for the plots")
    arguments = parser.parse_args()
    wrk.require_tools(["wrk"])
    seconds = 2 if arguments.quick else arguments.seconds
    clients, sizes = (CLIENTS[::4], MEGAPIXELS[::3]) if arguments.quick else (CLIENTS, MEGAPIXELS)
    bus = pictures.photograph("bus.jpg")
    by_clients: dict[str, Curve] = {}
    by_size: dict[str, Curve] = {}
    with instance.temporary_home() as home, tempfile.TemporaryDirectory() as folder:
        resized = {megapixels: pictures.resized(bus, megapixels, Path(folder)) for megapixels in sizes}
        services = _services(Path(folder))
        for name, model, replicas in services:
            print(name, file=sys.stderr)
            options = ("--model", model, "--replicas", str(replicas), "--max-image-bytes", "100MiB")
            with contestants.service(home, options) as (running, started):
                by_clients[name] = [(count, running.measure(bus, count, seconds, patient=True)) for count in clients]
                if name == services[0][0]:
                    by_size["service, 8 clients"] = [
                        (megapixels, running.measure(image, 8, seconds)) for megapixels, image in resized.items()
                    ]
                    detector = started.detector
        by_size["the engine in process, 8 threads"] = [
            (megapixels, contestants.measure_limit(detector, image, 8, seconds))
            for megapixels, image in resized.items()
        ]
        most, least = (contestants.measure_limit(detector, bus, threads, seconds) for threads in (8, 1))
    arguments.output.mkdir(parents=True, exist_ok=True)
    arguments.pictures.mkdir(parents=True, exist_ok=True)
    unit = (most.requests_per_s, least.p50_ms)
    plot(by_clients, "clients", unit, arguments.pictures / "clients.png")
    plot(by_size, "megapixels of the JPEG", unit, arguments.pictures / "image-size.png")
    everything: dict[str, Any] = {
        axis: {name: [{"x": x, **asdict(measured)} for x, measured in curve] for name, curve in curves.items()}
        for axis, curves in (("clients", by_clients), ("megapixels", by_size))
    }
    everything["unit"] = {"requests_per_s": unit[0], "p50_ms": unit[1]}
    (arguments.output / "curve.json").write_text(json.dumps(everything, indent=1) + "\n")


def _services(folder: Path) -> list[tuple[str, str, int]]:
    """Name, model reference and replicas of each service."""
    medium = folder / "yolov8m.pt"
    # As fast as trained ones, but for the few boxes that it does not find; nobody needs to have the real ones.
    random = f"from ultralytics import YOLO; YOLO('yolov8m.yaml').save({str(medium)!r})"
    subprocess.run([sys.executable, "-c", random], check=True, stdout=subprocess.DEVNULL)
    return [
        ("YOLOv8n, 1 replica", "base", 1),
        ("YOLOv8n, 2 replicas", "base", 2),
        ("YOLOv8s, 1 replica", str(instance.CUSTOM_S), 1),
        ("YOLOv8m (random weights), 1 replica", str(medium), 1),
    ]


def plot(curves: dict[str, Curve], axis: str, unit: tuple[float, float], target: Path) -> None:
    """Throughput above, latency below, over a logarithmic axis; where some were refused, how many of the answers.

    Args:
        curves: each curve's name, and its points.
        axis: what x counts.
        unit: requests per second, and milliseconds, that are drawn as 1.
        target: a PNG file.
    """
    figure, (above, below) = plt.subplots(2, sharex=True, figsize=(8, 8), layout="constrained")
    for name, curve in curves.items():
        x = [position for position, _ in curve]
        (line,) = above.plot(x, [measured.requests_per_s / unit[0] for _, measured in curve], marker="o", label=name)
        below.plot(x, [measured.p99_ms / unit[1] for _, measured in curve], marker="o", color=line.get_color())
        below.plot(x, [measured.p50_ms / unit[1] for _, measured in curve], linestyle=":", color=line.get_color())
        for position, measured in curve:
            if share := refused(measured.statuses):
                at = (position, measured.requests_per_s / unit[0])
                above.annotate(f"{share:.0%} 503", at, (0, 6), textcoords="offset points", ha="center", fontsize=8)
    ticks = sorted({position for curve in curves.values() for position, _ in curve})
    above.set(ylabel="images per second, x engine (bus.jpg)", xscale="log", ylim=(0, None))
    below.set(xlabel=axis, ylabel="latency, x engine: p99 solid, p50 dotted", yscale="log")
    below.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    below.set_xticks([], minor=True)
    below.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    below.yaxis.set_major_formatter("{x:g}")
    above.legend()
    for each in (above, below):
        each.grid(alpha=0.3)
    figure.savefig(target, dpi=110, metadata={"Software": None})
    plt.close(figure)


def refused(statuses: dict[str, int]) -> float:
    """The share of answers that were 503."""
    return statuses.get("503", 0) / max(1, sum(statuses.values()))


if __name__ == "__main__":
    main()
