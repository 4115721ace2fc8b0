"""Reading and writing files the one way that detectctl does."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of the file's bytes. Raises OSError if it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, data: str | bytes, *, mode: int = 0o644, durable: bool = False) -> None:
    """Replace the file's content; text is written as UTF-8. Arguments and errors are those of `replacing`."""
    with replacing(path, mode=mode, durable=durable) as file:
        file.write(data.encode() if isinstance(data, str) else data)


@contextlib.contextmanager
def replacing(path: Path, *, mode: int = 0o644, durable: bool = False) -> Iterator[BinaryIO]:
    """What is written in the block replaces the file: a reader sees all of the old content or all of the new.

    An exception in the block leaves the old content.

    Args:
        path: in a folder that exists.
        mode: permissions of a new file, before the umask.
        durable: survive a power failure, too, at the price of waiting for the disk.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    # Random, and made only if nothing is there: in a shared folder somebody could lay a link in its way.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def reason(error: OSError) -> str:
    """The cause in the system's words, without number and path: `No space left on device`."""
    return error.strerror or str(error) or type(error).__name__


def describe(error: OSError) -> str:
    """The cause, and the file where it is known: `No space left on device: /var/cache/x`."""
    return reason(error) + (f": {error.filename}" if error.filename else "")
