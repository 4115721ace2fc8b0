"""A model that came to this node with our code, as Python packages that Ray has fetched: found, joined and verified."""

from __future__ import annotations

import importlib.util
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectctl.errors import ModelCorrupt
from detectctl.files import sha256_of

_CHUNK_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Carried:
    """How a model was packed; travels as JSON, by `asdict`.

    Attributes:
        modules: the packages' names, in the order in which parts of one file follow each other.
        files: name of each file of the model → SHA-256, hex.
        file: the one that the engine loads; empty where it loads the folder of them all.
    """

    modules: tuple[str, ...]
    files: dict[str, str]
    file: str = ""

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Carried:
        """The inverse of `asdict`; TypeError or KeyError on another shape."""
        return cls(tuple(data["modules"]), dict(data["files"]), data["file"])

    def unpack(self) -> Path:
        """Where the model lies on this node, with the bytes that were sent.

        One package is used as it lies there. What came in several is joined beside the first, once for all replicas of
        the node, and goes when Ray removes that.

        Raises:
            ModelCorrupt: a package or a file is missing, or a file has other bytes.
        """
        folders = [_folder(module) for module in self.modules]
        home = folders[0]
        if len(folders) > 1:
            home /= "joined"
            home.mkdir(exist_ok=True)
            for name, digest in self.files.items():
                if not _is(home / name, digest):
                    _join(home / name, [folder / name for folder in folders if (folder / name).exists()])
        for name, digest in self.files.items():
            if not _is(home / name, digest):
                raise ModelCorrupt(
                    f"{name} of the model is not what was sent",
                    why=f"{home / name} is missing or has been changed on this node",
                    hint="remove that folder on the node, or restart Ray there; then run `detectctl up` again",
                )
        return home / self.file


def _folder(module: str) -> Path:
    found = importlib.util.find_spec(module)
    if found is None or not found.submodule_search_locations:
        raise ModelCorrupt(
            f"the package {module} is not on this node",
            why="Ray did not put it on Python's path",
            hint="run `detectctl up` again",
        )
    return Path(found.submodule_search_locations[0])


def _is(file: Path, digest: str) -> bool:
    return file.is_file() and sha256_of(file) == digest


def _join(file: Path, parts: list[Path]) -> None:
    """Whole or not at all: replicas of this node may do the same at the same time."""
    with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as joined:
        for part in parts:
            with part.open("rb") as stream:
                while data := stream.read(_CHUNK_BYTES):
                    joined.write(data)
    Path(joined.name).replace(file)
