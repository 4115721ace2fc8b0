"""Other projects' test images: read as OpenCV and Ultralytics read them, or refused for a reason that is written down.

`make corpora` fetches them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from corpora_reference import thumbnail
from detectctl.engine.decode import decode
from detectctl.errors import RequestError
from detectctl.sources import IMAGE_SUFFIXES

if TYPE_CHECKING:
    from edge_service import Edge

CORPORA = Path(__file__).resolve().parents[2] / ".cache" / "corpora"
FILES = sorted(
    path
    for path in CORPORA.glob("[!d]*/**/*")  # not the downloads
    if path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES
)

pytestmark = [
    pytest.mark.long,  # a thousand files, each read by four programs
    pytest.mark.slow,
    pytest.mark.skipif(not FILES, reason="not here; `make corpora` fetches them"),
    pytest.mark.filterwarnings("ignore::UserWarning:PIL"),
]

IN_TIME_S = 2.0
REFUSED = {
    "16bit.s.tif": "TIFF with 32 bits",  # Pillow makes 32 of signed 16
    "badheadersize.bmp": "a BMP whose header has a length that no version has",
    "hopper_unknown_pixel_mode.tif": "grey with alpha",
    "invalid_header_length.jp2": "JPEG 2000 whose header has a wrong length",
    "logluv-3c-16b.tiff": "LogLuv",
    "minisblack-2c-8b-alpha.tiff": "grey with alpha",
    "tiff_tiled_jpeg_oob_read.tif": "damaged JPEG in a TIFF",
}
"""What OpenCV reads and we do not, and how SECURITY.md calls it."""


def test_each_is_read_as_ultralytics_reads_it_or_refused_for_a_known_reason() -> None:
    """The same size and the same side up; what Ultralytics refuses we may read."""
    folders = {path.relative_to(CORPORA).parts[0] for path in FILES}
    seen: dict[str, Any] = {}
    for folder in folders:
        done = subprocess.run(
            [sys.executable, str(Path(__file__).parents[1] / "corpora_reference.py"), str(CORPORA / folder)],
            env={**os.environ, "YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false", "OPENCV_LOG_LEVEL": "SILENT"},
            capture_output=True,
            text=True,
            check=True,
        )
        seen |= json.loads(done.stdout[done.stdout.index("{") :].splitlines()[-1])
    refused, wrong = [], []
    for path in FILES:
        theirs = seen[str(path)]
        try:
            ours = thumbnail(decode(path.read_bytes(), max_bytes=20 << 20, max_pixels=64_000_000))
        except RequestError:
            if theirs is not None:
                refused.append(path.name)
            continue
        if theirs is not None and (ours["size"] != theirs["size"] or not _same_side_up(ours, theirs)):
            wrong.append(str(path.relative_to(CORPORA)))
    assert wrong == []
    assert set(refused) <= set(REFUSED)


def _same_side_up(ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    """Whether no other of the eight orientations fits and is clearly nearer.

    None fits where OpenCV mistakes the colours: of planar TIFFs of 16 bits, and of a BMP with a wrong offset.
    """
    one, other = (np.asarray(each["pixels"], float) for each in (ours, theirs))
    turns = [np.rot90(each, times) for each in (one, one[:, ::-1]) for times in range(4)]
    distances = [float(np.abs(turn - other).mean()) for turn in turns]
    return distances[0] <= 1.1 * min(distances) + 4 or min(distances) > 15


@pytest.mark.cluster
def test_a_service_answers_each_in_time_and_none_with_a_failure_of_its_own(edge: Edge) -> None:
    """Read or refused by the caller's fault, within two seconds; the replica is the same afterwards."""
    replica = edge.replica()
    wrong, slow = [], []
    with edge.client() as client:
        for path in FILES:
            data = path.read_bytes()
            for _ in range(3):  # the machine itself may have been busy
                begun = time.monotonic()
                answer = client.post("/detect", content=data)
                elapsed = time.monotonic() - begun
                if elapsed < IN_TIME_S:
                    break
            else:
                slow.append((path.name, elapsed))
            if answer.status_code not in {200, 413, 415}:
                wrong.append((path.name, answer.status_code, answer.text))
    assert wrong == []
    assert slow == []
    assert edge.replica() == replica
