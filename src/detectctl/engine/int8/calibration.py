"""The images that int8 is calibrated on: the same choice from the same folder every time."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from detectctl.errors import SourceUnreadable, UsageError
from detectctl.sources import resolve

if TYPE_CHECKING:
    from pathlib import Path

    from detectctl.sources import Source

MOST_IMAGES = 300
"""More images barely change the activation ranges, and each costs time."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """A sample of a folder.

    Attributes:
        folder: as the user gave it.
        images: path and sha256 of each file, sorted by path; the digest is None if the file cannot be read.
    """

    folder: Path
    images: tuple[tuple[str, str | None], ...]

    @property
    def digest(self) -> str:
        """Of the files' contents, not their names and times: a copy or a touched file changes nothing, an edit does."""
        return hashlib.sha256(json.dumps([sha256 for _, sha256 in self.images]).encode()).hexdigest()


def choose(folder: Path) -> Calibration:
    """The images right in `folder`, or `MOST_IMAGES` of them, evenly spaced by their names.

    Raises:
        UsageError: there is no such folder, or no file in it has an image's suffix.
    """
    if not folder.is_dir():
        raise unusable(folder, "no such folder")
    files = [source for source in resolve([str(folder.absolute())]) if source.path and source.path.is_file()]
    if not files:
        raise unusable(folder, "no file in it has an image's suffix; folders below it are not searched")
    count = min(MOST_IMAGES, len(files))
    sample = [files[index * len(files) // count] for index in range(count)]
    return Calibration(folder, tuple((str(source.path), _sha256(source)) for source in sample))


def unusable(folder: Path | str, why: str) -> UsageError:
    """The error for a folder that int8 cannot be calibrated on."""
    return UsageError(
        f"--calibrate is {str(folder)!r}", why=why, hint="give a folder of images like those the service will see"
    )


def _sha256(source: Source) -> str | None:
    try:
        return hashlib.sha256(source.read()).hexdigest()
    except SourceUnreadable:
        return None
