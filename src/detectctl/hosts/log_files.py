"""Log files on this machine, read as they grow and are rotated."""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, Any

from detectctl.hosts.host import NewLines

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path


def new_lines(files: Iterable[Path], reached: dict[Any, Any], *, unfinished: bool = False) -> Iterator[NewLines]:
    """See `Host.new_log_lines`. `reached` says how far each inode was read, for a rotated file keeps nothing else."""
    for file in files:
        lines = _added(file, reached, unfinished=unfinished)
        modified = time.time()
        with contextlib.suppress(FileNotFoundError):
            modified = file.stat().st_mtime
        yield NewLines(file.name, modified, lines)


def _added(file: Path, reached: dict[Any, Any], *, unfinished: bool) -> list[bytes]:
    try:
        with file.open("rb") as stream:
            inode = os.fstat(stream.fileno()).st_ino
            begun = reached.get(inode, 0)
            if begun > os.fstat(stream.fileno()).st_size:  # the inode of a removed file was reused
                begun = 0
            stream.seek(begun)
            data = stream.read()
    except FileNotFoundError:  # rotated away since it was listed
        return []
    if not unfinished:
        data = data[: data.rfind(b"\n") + 1]
    reached[inode] = begun + len(data)
    return data.splitlines()
