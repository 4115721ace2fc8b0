"""Reading and writing files the one way that detectctl does."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Iterator

    from filelock import BaseFileLock


_REMOVAL_S = 2.0


def at_home(path: str) -> str:
    """The path with the home folder for a `~` at its start, as a shell does that sees no quotes; else as it is."""
    return os.path.expanduser(path)  # noqa: PTH111 - Path's raises where that folder is not known


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


def probe(folder: Path | str) -> None:
    """OSError if no file can be made there and filled with a page."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(4096))
        file.flush()


@contextlib.contextmanager
def temporary_folder(parent: Path, prefix: str = "tmp") -> Iterator[Path]:
    """A new folder, 0700, which is gone after the block, also if a process that was killed there still lets go of it.

    Raises:
        OSError: it cannot be made.
    """
    folder = Path(tempfile.mkdtemp(dir=parent, prefix=prefix))
    try:
        yield folder
    finally:
        remove(folder)


def remove(folder: Path) -> None:
    """With all that is in it; again for what is written meanwhile, and without a word about what cannot be removed."""
    until = time.monotonic() + _REMOVAL_S
    while True:
        shutil.rmtree(folder, ignore_errors=True)
        if not os.path.lexists(folder) or time.monotonic() > until:
            return
        time.sleep(0.02)


def lock(file: Path, timeout_s: float = -1) -> BaseFileLock:
    """A lock between processes, which the system releases when its holder ends, in whatever way.

    Acquiring it raises OSError where the file system has no such locks. A file whose existence is the lock, as
    `filelock` would make then, would outlive a holder that is killed.

    Args:
        file: created, 0600, and left there.
        timeout_s: for how long to wait by default before `filelock.Timeout`; negative for ever.
    """
    from filelock import FileLock  # a replica does without

    return FileLock(file, timeout=timeout_s, mode=0o600, fallback_to_soft=False)


def plain_path(folder: Path) -> Path:
    """A path of the folder of at most 24 bytes, and without spaces and the like, which not every program can quote.

    So short, paths of sockets below it have no more bytes than they may. Where the folder's own path is not like that,
    this is a link that is good for all processes of this user, and only while this process lives.

    Raises:
        OSError: there is no such folder.
    """
    if re.fullmatch(r"[\w./-]{1,24}", str(folder), re.ASCII):
        return folder
    return Path(f"/proc/{os.getpid()}/fd/{os.open(folder, os.O_DIRECTORY)}")


def remedy(error: OSError, folder: Path | str, variable: str) -> str:
    """A hint for a folder that cannot be used, and that the environment variable could name another for."""
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return f"free some space in {folder}, or set {variable} to a folder that has some"
        case errno.EROFS:
            return f"set {variable} to a folder that is not mounted read-only"
        case errno.EACCES | errno.EPERM:
            return f"set {variable} to a folder that you can write to"
        case errno.ENOLCK | errno.ENOSYS | errno.EOPNOTSUPP:
            return f"set {variable} to a folder on a local disk, or have {folder} mounted with locks"
        case _:
            return f"check {folder}, or set {variable} to another folder"


def reason(error: OSError) -> str:
    """The cause in the system's words, without number and path: `No space left on device`."""
    return error.strerror or str(error) or type(error).__name__


def describe(error: OSError) -> str:
    """The cause, and the file where it is known: `No space left on device: /var/cache/x`."""
    return reason(error) + (f": {error.filename}" if error.filename else "")
