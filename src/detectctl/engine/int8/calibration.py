"""The images that int8 is calibrated on: chosen from the user's folder the same way each time."""

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
"""More change the ranges of activations hardly, and cost time for each."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """A sample of a folder.

    Attributes:
        folder: as the user named it.
        images: path and sha256 of each file, by path; the digest is None if the file cannot be read.
    """

    folder: Path
    images: tuple[tuple[str, str | None], ...]

    @property
    def digest(self) -> str:
        """Of the contents, not of names and times: a copied or touched folder is the same, an edited one is not."""
        return hashlib.sha256(json.dumps([sha256 for _, sha256 in self.images]).encode()).hexdigest()


def choose(folder: Path) -> Calibration:
    """The images right in `folder`, or `MOST_IMAGES` of them, evenly spaced by their names.

    Raises:
        UsageError: there is no such folder, or it holds no file with an image's suffix.
    """
    if not folder.is_dir():
        raise UsageError(
            f"--calibrate is {str(folder)!r}",
            why="there is no such folder",
            hint="name a folder of images such as the service will see",
        )
    files = [source for source in resolve([str(folder.absolute())]) if source.path and source.path.is_file()]
    if not files:
        raise UsageError(
            f"--calibrate is {str(folder)!r}",
            why="no file in it has an image's suffix; folders below it are not searched",
            hint="name a folder of images such as the service will see",
        )
    count = min(MOST_IMAGES, len(files))
    sample = [files[index * len(files) // count] for index in range(count)]
    return Calibration(folder, tuple((str(source.path), _sha256(source)) for source in sample))


def _sha256(source: Source) -> str | None:
    try:
        return hashlib.sha256(source.read()).hexdigest()
    except SourceUnreadable:
        return None
