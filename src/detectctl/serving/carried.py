"""A model that came to this node with our code, as Python packages that Ray has fetched: found, joined and verified."""

from __future__ import annotations

import importlib.util
import io
import logging
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectctl.errors import ModelCorrupt
from detectctl.files import reason, sha256_of, write_atomically

_LOG = logging.getLogger("ray.serve")
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
        the node, and goes when Ray removes that. What was changed there is fetched from the cluster once more.

        Raises:
            ModelCorrupt: a package or a file is missing, or a file has other bytes, and the cluster has no others.
        """
        folders = [_folder(module) for module in self.modules]
        home = self._joined(folders)
        if wrong := self._other(home):
            _LOG.warning("%s was changed or removed on this node, and is fetched anew", home / wrong)
            for folder in folders:
                _fetch_anew(folder)
            home = self._joined(folders)
        if wrong := self._other(home):
            raise ModelCorrupt(
                f"{wrong} of the model is not what was sent",
                why=f"{home / wrong} was changed or removed on this node, and so were the bytes that the cluster keeps",
                hint="run `detectctl down`, then `detectctl up` again",
            )
        return home / self.file

    def _other(self, home: Path) -> str | None:
        """The first of the files that is missing, or not what was sent."""
        return next((name for name, digest in self.files.items() if not _is(home / name, digest)), None)

    def _joined(self, folders: list[Path]) -> Path:
        """The folder that has the whole files, which are made of their parts."""
        if len(folders) == 1:
            return folders[0]
        home = folders[0] / "joined"
        home.mkdir(exist_ok=True)
        for name, digest in self.files.items():
            if not _is(home / name, digest):
                _join(home / name, [folder / name for folder in folders if (folder / name).exists()])
        return home


def _folder(module: str) -> Path:
    found = importlib.util.find_spec(module)
    if found is None or not found.submodule_search_locations:
        raise ModelCorrupt(
            f"the package {module} is not on this node",
            why="Ray did not put it on Python's path",
            hint="run `detectctl up` again",
        )
    return Path(found.submodule_search_locations[0])


def _fetch_anew(folder: Path) -> None:
    """Give a package's files on this node the bytes that the cluster keeps of it; Ray has fetched it once for good."""
    uri = f"gcs://{folder.parent.name}.zip"
    data = _kept(uri)
    try:
        with zipfile.ZipFile(io.BytesIO(data or b"")) as package:
            for name in package.namelist():
                # Replicas that run have mapped the file that is there.
                write_atomically(folder.parent / name, package.read(name))
    except (OSError, zipfile.BadZipFile) as error:
        raise ModelCorrupt(
            f"the package {folder.name} on this node is not what was sent, and could not be fetched anew",
            why=reason(error) if isinstance(error, OSError) else f"the cluster does not have {uri} any more",
            hint="run `detectctl down`, then `detectctl up` again",
        ) from error


def _kept(uri: str) -> bytes | None:
    """A package, as the cluster keeps it."""
    from ray.experimental.internal_kv import _internal_kv_get

    data: bytes | None = _internal_kv_get(uri)
    return data


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
