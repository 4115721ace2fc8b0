"""How fast one GPU serves, and what it could: networks, decoders, replicas; every variant's objects against eager fp32.

Ends in less than eight minutes after `--begun`. Each part has a process and a deadline of its own: one that hangs or
fails is a row of the result, and so is one that there was no time for. `--device cpu` runs the same code with little
work, to see that it runs; its figures say nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

import conditions
import contestants
import gpu_report
import instance
import supervised
from detectctl.engine import devices
from gpu_rows import Plan, Row

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpu_rows import Part

HERE = Path(__file__).parent
ALL_S = 440.0
"""After which no part runs; to end one, to stop what it left, and to draw, there is half a minute more."""
DOWN_S = 20.0
"""For `down`, after a part that was ended while it measured the service."""
LEAST_S = 10.0
"""Of a part that begins."""
_PLANS = {
    "cuda": Plan("cuda", "fp16", 640, (1, 8, 32, 2, 4, 16), (1, 4, 2, 3), (1, 32), seconds=0.6, http_s=2),
    "cpu": Plan("cpu", "bf16", 160, (2,), (1, 2), (2,), seconds=0.05, http_s=1, calls=1),
}
_PARTS: dict[str, dict[tuple[Part, ...], float]] = {
    # In the order of what would be missed most.
    "cuda": {
        ("eager",): 60,
        ("graphs",): 60,
        ("loop",): 75,
        ("service",): 120,
        ("compiled",): 120,
        ("litserve",): 75,
        ("decoding",): 45,
    },
    "cpu": {("eager", "graphs", "compiled", "decoding", "loop"): 120, ("service",): 240, ("litserve",): 120},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help="some of them; all by default")
    parser.add_argument("--device", choices=_PLANS, default="cuda")
    parser.add_argument(
        "--begun", type=float, default=time.time(), metavar="EPOCH", help="when what must end in eight minutes began"
    )
    parser.add_argument("--output", type=Path, help="the figures; benchmarks/results/gpu.json for a GPU")
    parser.add_argument("--picture", type=Path, help="the plots; docs/pictures/gpu.png for a GPU")
    arguments = parser.parse_args()
    folders = (HERE / "results", HERE.parent / "docs" / "pictures")
    if arguments.device == "cpu":  # nothing to keep
        folders = (contestants.CACHE, contestants.CACHE)
    output, picture = arguments.output or folders[0] / "gpu.json", arguments.picture or folders[1] / "gpu.png"
    if arguments.device == "cuda" and (lack := devices.lack_of_gpu(os.environ)):
        sys.exit(f"there is no GPU to measure: {lack}; `--device cpu` runs the same with little work")
    plan = _PLANS[arguments.device]
    rows: list[Row] = []
    with instance.temporary_home() as home:
        for parts, seconds in _PARTS[arguments.device].items():
            if asked := [part for part in parts if part in (arguments.parts or parts)]:
                left = arguments.begun + ALL_S - time.time()
                print(f"{', '.join(asked)}: at most {min(seconds, max(0, left)):.0f} s", file=sys.stderr)
                rows += measure(plan, asked, home, min(seconds, left))
    for target in (output, picture):
        target.parent.mkdir(parents=True, exist_ok=True)
    about = conditions.conditions() | {"gpu": _gpu(), "plan": asdict(plan)}
    everything = {"conditions": about, "ratios": gpu_report.ratios(rows), "rows": [asdict(row) for row in rows]}
    output.write_text(json.dumps(everything, indent=1) + "\n")
    gpu_report.draw(rows, picture)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    console.print(gpu_report.table(rows))
    for what, ratio in gpu_report.ratios(rows).items():
        console.print(f"{what}: {ratio:.2f}")
    console.print(f"written to {output} and {picture}")


def measure(plan: Plan, parts: Sequence[Part], home: Path, seconds: float) -> list[Row]:
    """The rows of these parts, in a process that has so many seconds; the last says so if it did not end well."""
    if seconds < LEAST_S:
        return [Row(part, "", failed="there was no time left") for part in parts]
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "rows"
        command = [sys.executable, str(HERE / "gpu_part.py"), json.dumps(asdict(plan)), str(home), str(target), *parts]
        failure = supervised.run(command, seconds, env=os.environ | contestants.ENVIRONMENT)
        # The last line may be half a one.
        lines = target.read_text().split("\n")[:-1] if target.exists() else []
    rows = [Row.from_json(json.loads(line)) for line in lines]
    if failure and "service" in parts:  # its Ray has left the process's session
        down = [str(instance.DETECTCTL), "--quiet", "down", "--force"]
        supervised.run(down, seconds=DOWN_S, env=instance.environment(home))
    return rows + ([Row(parts[-1], "", failed=failure)] if failure else [])


def _gpu() -> str | None:
    """Name, driver and memory; None if there is no driver."""
    try:
        asked = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
        return subprocess.run(asked, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


if __name__ == "__main__":
    main()
