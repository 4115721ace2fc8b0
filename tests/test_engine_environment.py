"""What the engine needs of a machine: no display libraries, no second copy of a library."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

GRAPHICS = ("libGL", "libEGL", "libX", "libxcb", "libgtk", "libQt", "libSM", "libICE", "libglib", "libgthread")


def needed_libraries(readelf: str) -> dict[str, list[str]]:
    """The libraries that each shared object of cv2 names as needed, as its ELF dynamic section says."""
    spec = importlib.util.find_spec("cv2")
    assert spec is not None
    assert spec.origin is not None
    needed = {}
    for library in Path(spec.origin).parent.rglob("*.so*"):
        listing = subprocess.run([readelf, "-d", str(library)], capture_output=True, text=True, check=True).stdout
        needed[library.name] = [line.split("[")[1].rstrip("]") for line in listing.splitlines() if "(NEEDED)" in line]
    return needed


def test_opencv_needs_no_library_of_a_display() -> None:
    """A server or a slim container has no libGL, and `import cv2` of the usual package dies there."""
    readelf = shutil.which("readelf")
    if readelf is None:
        pytest.skip("no readelf here")
    needed = needed_libraries(readelf)
    assert any(name.startswith("cv2") for name in needed)
    assert {library for names in needed.values() for library in names if library.startswith(GRAPHICS)} == set()


_BUSY = """
import cv2, numpy as np, psutil
cv2.setNumThreads(1)  # as `Detector.load` does
from detectctl.engine.letterbox import Placement
from detectctl.engine.nms import Selection
from detectctl.engine.objects import located
from detectctl.engine.trained import Head, Trained
from detectctl.engine.yolo_head import Candidates, Raw, decode

model = Trained({0: "disc"}, Head(strides=(8, 16, 32)), task="segment")
whole, places = (640, 640), np.arange(8400)
raw = Raw(places, np.ones((64, 8400), np.float32), np.ones((1, 8400), np.float32), np.ones((32, 8400), np.float32))
one = Candidates(np.float32([[320], [320], [640], [640]]), np.ones((1, 1)), np.ones((32, 1), np.float32),
    np.ones((32, 160, 160), np.float32))
first = Selection(np.zeros(1, int), np.ones(1, np.float32), np.zeros(1, int))
def work(times):
    for _ in range(times):
        decode(model, raw, confidence=0.1, shape=whole)
        located(one, first, model, Placement(640, 640, (1, 1), (0, 0)), whole)

work(1)  # what starts threads for good does so now
before = psutil.Process().threads()
work(120)
used = {one.id: one.user_time + one.system_time for one in psutil.Process().threads()}
for one in before:
    used[one.id] -= one.user_time + one.system_time
print(used.pop(psutil.Process().pid), sum(used.values()))
"""


def test_no_other_threads_help_with_masks_and_boxes() -> None:
    """Those of BLAS did: requests that waited for them at the same time took ten times as long."""
    env = {**os.environ, "OPENBLAS_NUM_THREADS": "4", "OMP_NUM_THREADS": "4"}
    result = subprocess.run([sys.executable, "-c", _BUSY], env=env, capture_output=True, text=True, check=True)
    own, others = map(float, result.stdout.split())
    assert own > 0
    assert others < own / 3  # they took as much as its own


@pytest.mark.parametrize("name", ["opencv-python", "opencv-contrib-python", "ultralytics"])
def test_the_packages_that_need_a_display_are_not_installed(name: str) -> None:
    """They would put another cv2 over the headless one."""
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        importlib.metadata.distribution(name)


def test_importing_opencv_maps_no_library_of_a_display() -> None:
    code = "import cv2; print(open('/proc/self/maps').read())"
    maps = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True).stdout
    mapped = {Path(line.split()[-1]).name for line in maps.splitlines() if ".so" in line}
    assert any(name.startswith("cv2") for name in mapped)
    assert {name for name in mapped if name.startswith(GRAPHICS)} == set()
