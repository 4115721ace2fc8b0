"""The file of API keys. Only its path is passed on: a key never goes into an argument, a state file or a log."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from typing import TYPE_CHECKING

from detectctl.errors import UsageError
from detectctl.files import reason

if TYPE_CHECKING:
    from pathlib import Path

MAX_FILE_BYTES = 64 * 1024
_KEY = re.compile(r"[!-~]{8,512}")  # what an HTTP header carries unchanged


def read_keys(path: Path) -> tuple[str, ...]:
    """The keys in a file: one per line; empty lines and `#` comments are skipped.

    Raises:
        UsageError: the file cannot be read, has no key, or has a line that is not a key; the line is never quoted.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise UsageError(
            f"the key file {path} cannot be read",
            why=reason(error),
            hint="check `--api-key-file` and the file's permissions",
        ) from error
    if len(data) > MAX_FILE_BYTES:
        raise _bad(path, f"it is larger than {MAX_FILE_BYTES >> 10} KiB")
    text = data.decode("utf-8-sig", "replace")  # editors on Windows put a mark before it
    lines = {number: line.strip() for number, line in enumerate(text.splitlines(), 1)}
    keys = {number: line for number, line in lines.items() if line and not line.startswith("#")}
    for number, key in keys.items():
        if not _KEY.fullmatch(key):
            raise _bad(path, f"line {number} must be 8 to 512 visible ASCII characters, without a space")
    if not keys:
        raise _bad(path, "it has no key in it")
    return tuple(keys.values())


def key_digests(path: Path) -> tuple[str, ...]:
    """SHA-256, hex, of each key in a file, which tell no key of some length; raises as `read_keys`."""
    return tuple(hashlib.sha256(key.encode()).hexdigest() for key in read_keys(path))


def is_private(path: Path) -> bool:
    """Whether only its owner may read the file."""
    return path.stat().st_mode & 0o077 == 0


def write_new_key(path: Path) -> str:
    """Make a key of 256 bits and a file for it with mode 0600; returns the key, which is never shown again.

    Raises FileExistsError.
    """
    key = secrets.token_urlsafe(32)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(f"# API keys of this service, one per line; changes take effect without a restart.\n{key}\n")
    return key


def _bad(path: Path, why: str) -> UsageError:
    return UsageError(
        f"the key file {path} cannot be used",
        why=why,
        hint="put one key per line into it: `openssl rand -hex 32 > FILE; chmod 600 FILE`",
    )
