"""Who may ask a service that is about to start: decided before anything starts."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from detectctl.errors import UsageError
from detectctl.keys import is_private, read_keys, write_new_key
from detectctl.progress import Progress, Report

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from detectctl.lifecycle.state import InstanceFolder
    from detectctl.settings import UpSettings


@dataclass(frozen=True, slots=True)
class Access:
    """Who may ask.

    Attributes:
        key_file: absolute; replicas are given its path and read it themselves. None lets everybody in.
        new_key: the key that was made now, to be shown this once.
    """

    key_file: Path | None
    new_key: str | None = field(default=None, repr=False)

    @property
    def key(self) -> str | None:
        """What we ask our own service with."""
        return None if self.key_file is None else read_keys(self.key_file)[0]


def check(settings: UpSettings) -> None:
    """Refuse what would be open by accident.

    Raises:
        UsageError: options that exclude each other; or nothing was said about a service that others can reach.
    """
    given = [
        option
        for option, wanted in (
            ("--api-key-file", settings.api_key_file is not None),
            ("--generate-api-key", settings.generate_api_key),
            ("--no-auth", settings.no_auth),
        )
        if wanted
    ]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} exclude each other", hint="give one of them")
    if not given and not _only_this_machine(settings.host):
        raise UsageError(
            f"--host {settings.host} lets other machines in, and nothing says whom",
            why="whoever reaches the service could use it",
            hint="ask for a key with --api-key-file FILE or --generate-api-key; or say --no-auth",
        )


@contextlib.contextmanager
def prepared(settings: UpSettings, folder: InstanceFolder, report: Report) -> Iterator[Access]:
    """Access as `settings` say; a key that was made for a body that fails is removed again.

    Raises:
        UsageError: the key file cannot be used.
    """
    if settings.generate_api_key:
        file = folder.api_key_file.absolute()
        new_key = None if file.exists() else write_new_key(file)
        read_keys(file)
        try:
            yield Access(file, new_key)
        except BaseException:
            if new_key is not None:
                file.unlink(missing_ok=True)
            raise
        return
    if settings.api_key_file is None:
        yield Access(None)
        return
    file = settings.api_key_file.absolute()
    read_keys(file)
    if not is_private(file):
        report(Progress("resolve", f"{file} can be read by others: chmod 600 {file}", warning=True))
    yield Access(file)


def _only_this_machine(host: str) -> bool:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise UsageError(f"--host {host} cannot be resolved", why=str(error.strerror)) from error
    return all(ipaddress.ip_address(str(entry[4][0]).partition("%")[0]).is_loopback for entry in found)
