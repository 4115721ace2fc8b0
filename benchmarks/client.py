"""The service's own client: how full `detectctl detect` keeps a service, and what the command costs by itself."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import instance

if TYPE_CHECKING:
    from collections.abc import Sequence

IMAGES = 1000


@dataclass(frozen=True)
class Command:
    """One run of `detectctl detect`, from its start to its end.

    Attributes:
        images_per_s: answered.
        cpu_s: that it used itself, by all its threads.
        peak_mb: greatest RSS, a million bytes.
    """

    images_per_s: float
    cpu_s: float
    peak_mb: float


def detect_many(home: Path, url: str, image: Path, detectctl: Path = instance.DETECTCTL) -> Command:
    """So many files in one folder; all are the same image, as the load generator's are."""
    with tempfile.TemporaryDirectory(prefix="images-") as folder:
        for number in range(IMAGES):
            (Path(folder) / f"{number:04}.jpg").symlink_to(image)
        return _run(detectctl, home, ["--concurrency", "8", "--url", url, folder], IMAGES)


def detect_one(home: Path, url: str, image: Path, detectctl: Path = instance.DETECTCTL) -> Command:
    """One file."""
    return _run(detectctl, home, ["--url", url, str(image)], 1)


def _run(detectctl: Path, home: Path, arguments: Sequence[str], count: int) -> Command:
    """RuntimeError unless every image was answered."""
    command = [str(detectctl), "detect", "--format", "jsonl", *arguments]
    with tempfile.TemporaryFile() as answers:
        begun = time.monotonic()
        process = subprocess.Popen(command, env=instance.environment(home), stdout=answers)
        _, status, used = os.wait4(process.pid, 0)
        elapsed = time.monotonic() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
        answers.seek(0)
        answered = sum(b'"found"' in line for line in answers)
    if process.returncode or answered != count:
        raise RuntimeError(f"{command} answered {answered} of {count}, exit code {process.returncode}")
    return Command(count / elapsed, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024 / 1e6)
