"""The limit: the engine that a replica loads, in one process, from JPEG bytes to boxes; no Ray, no HTTP.

Run as `python limit.py SETTINGS IMAGE --threads N --seconds S`, SETTINGS being a replica's own `DetectorSettings` as
JSON; prints JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from detectctl.engine.detector import Detector
from detectctl.engine.detector_settings import DetectorSettings


def detect_for(detector: Detector, image: bytes, threads: int, seconds: float) -> list[float]:
    """Every thread detects on the image again and again; seconds that each detection took."""
    took: list[float] = []
    together = threading.Barrier(threads)

    def work() -> None:
        together.wait()
        end = time.perf_counter() + seconds
        while (begun := time.perf_counter()) < end:
            detector.detect(image)
            took.append(time.perf_counter() - begun)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return took


def measure(settings: dict[str, Any], image: Path, *, threads: int, seconds: float) -> dict[str, float]:
    """`detect_for` in a process of its own, as a dictionary of the figures that `main` prints."""
    command = [sys.executable, __file__, json.dumps(settings), str(image)]
    options = ["--threads", str(threads), "--seconds", str(seconds)]
    done = subprocess.run([*command, *options], stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("settings", type=json.loads)
    parser.add_argument("image", type=Path)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    arguments = parser.parse_args()
    detector = Detector.load(DetectorSettings(**arguments.settings))
    detector.warm_up()
    image = arguments.image.read_bytes()
    detect_for(detector, image, arguments.threads, 1)
    begun, cpu_before = time.perf_counter(), time.process_time()
    took = detect_for(detector, image, arguments.threads, arguments.seconds)
    elapsed, cpu = time.perf_counter() - begun, time.process_time() - cpu_before
    figures = {
        "requests_per_s": len(took) / elapsed,
        "p50_ms": statistics.median(took) * 1000,
        "p99_ms": statistics.quantiles(took, n=100)[98] * 1000,
        "cpu_ms": cpu / len(took) * 1000,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
