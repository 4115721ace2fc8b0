"""How long `up` and `down` take, against a bare `ray start --head` in the same run.

Everything is cached before the first round; rounds alternate; the figures are medians and ratios. At the end, which
processes the last `up` started, when, and for how much of the CPU.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import instance
import pictures
import timeline
from detectctl import processes
from detectctl.hosts.local import ports


def bare_ray() -> float:
    """Seconds of `ray start --head`, with ports and a folder of its own and nothing else said; RuntimeError if not."""
    chosen = ports.choose()
    marker = secrets.token_hex(8)
    folder = Path(tempfile.mkdtemp(prefix="bray-", dir="/tmp"))
    command = [
        *(Path(sys.executable).with_name("ray"), "start", "--head", f"--temp-dir={folder}", f"--port={chosen.gcs}"),
        *(f"--dashboard-port={chosen.dashboard}", f"--ray-client-server-port={chosen.fallback_http}"),
        f"--dashboard-agent-listen-port={chosen.dashboard_agent}",
        *("--min-worker-port=0", "--max-worker-port=0"),  # its own range may hold the ports above
    ]
    env = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")} | {
        processes.MARKER: marker,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",
        "DASHBOARD_METRIC_PORT": str(chosen.dashboard_metrics),
        "AUTOSCALER_METRIC_PORT": str(chosen.haproxy_metrics),
    }
    begun = time.monotonic()
    try:
        done = subprocess.run(command, env=env, check=False, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stdout + done.stderr)
        return time.monotonic() - begun
    finally:
        processes.end(processes.family(marker), grace_s=5)
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    figures: dict[str, list[float]] = {}
    with instance.temporary_home() as home:
        for number in range(arguments.rounds + 1):
            bare = bare_ray()
            try:
                with timeline.Watch(home) as watch:
                    started = instance.up(home, pictures.free_port())
            finally:
                stopped = instance.down(home)
            if number:  # the first round converts the model and fills the page cache
                timed = {"bare ray start --head": bare, "detectctl up": started.seconds}
                timed |= {f"  {step}": seconds for step, seconds in started.steps.items()} | {"detectctl down": stopped}
                for name, seconds in timed.items():
                    figures.setdefault(name, []).append(seconds)
    reference = statistics.median(figures["bare ray start --head"])
    print(f"{'':<24}{'median':>8}{'min':>8}{'max':>8}{'ratio':>8}")
    for name, seconds in figures.items():
        middle = statistics.median(seconds)
        print(f"{name:<24}{middle:>7.1f}s{min(seconds):>7.1f}s{max(seconds):>7.1f}s{middle / reference:>8.2f}")
    print("\nthe last `up`, as shares of its time and of its CPU")
    print(*timeline.table(watch.lives, started.seconds), sep="\n")


if __name__ == "__main__":
    main()
