"""What a cluster is sent: our code and a model, as zip files that are named by their content.

The same content gives the same bytes. Each lies below the limit that Ray's dashboard has for one body, so a large model
comes in several; `serving.carried` puts it together again.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import detectctl
from detectctl.files import sha256_of
from detectctl.serving.carried import Carried

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_BYTES = 96 * 2**20
"""Of a package; Ray takes 100 MiB, and a zip has a directory beside what is in it."""
_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Package:
    """A zip file that Ray puts on the path of Python in each process that asks for `uri`."""

    data: bytes

    @property
    def file_name(self) -> str:
        """As Ray names packages."""
        return f"_ray_pkg_{hashlib.sha256(self.data).hexdigest()[:32]}.zip"

    @property
    def uri(self) -> str:
        """For a runtime environment."""
        return f"gcs://{self.file_name}"


def code() -> Package:
    """This version of detectctl."""
    root = Path(detectctl.__file__).parent
    files = (file for file in sorted(root.rglob("*")) if file.is_file() and "__pycache__" not in file.parts)
    return _zipped((f"{root.name}/{file.relative_to(root)}", file.read_bytes()) for file in files)


def model(path: Path) -> tuple[Carried, list[Package]]:
    """A model on this machine, the folder of a compiled one or a checkpoint; OSError if it cannot be read."""
    files = sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]
    digests = {file.name: sha256_of(file) for file in files}
    digest = hashlib.sha256("".join(f"{name}\0{sha}\0" for name, sha in digests.items()).encode()).hexdigest()
    parts = list(_parts(files))
    modules = tuple(f"detectctl_model_{digest[:16]}_{number}" for number in range(len(parts)))
    packages = [
        _zipped([(f"{module}/__init__.py", b""), *((f"{module}/{name}", data) for name, data in part)])
        for module, part in zip(modules, parts, strict=True)
    ]
    return Carried(modules, digests, path.name if path.is_file() else ""), packages


def _parts(files: list[Path]) -> Iterator[list[tuple[str, bytes]]]:
    """The files' bytes in their order, in parts that fit into a package."""
    part: list[tuple[str, bytes]] = []
    room = MAX_BYTES
    for file in files:
        with file.open("rb") as stream:
            while data := stream.read(room):
                part.append((file.name, data))
                room -= len(data)
                if room == 0:
                    yield part
                    part, room = [], MAX_BYTES
    if part:
        yield part


def _zipped(files: Iterator[tuple[str, bytes]] | list[tuple[str, bytes]]) -> Package:
    """Stored, not deflated: that would save a seventh of a model, and cost seconds."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, data in files:
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data)
    return Package(stream.getvalue())
