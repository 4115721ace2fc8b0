"""Who may use a service that is about to start: decided before anything starts."""

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
class Exposure:
    """Who may use a service.

    Attributes:
        key_file: absolute; replicas get its path and read it themselves. None: everybody who reaches the service.
        new_key: made now, to be shown this once.
    """

    key_file: Path | None
    new_key: str | None = field(default=None, repr=False)

    @property
    def key(self) -> str | None:
        """What we ask our own service with."""
        return None if self.key_file is None else read_keys(self.key_file)[0]


def check(settings: UpSettings) -> None:
    """Refuse a service that would be open by accident.

    Raises:
        UsageError: options that exclude each other; a host that is unknown; or other machines reach the service, and
            nothing says who may.
    """
    only_this_machine = settings.address is None and _only_this_machine(settings.host)
    answers = {
        "--api-key-file": settings.api_key_file is not None,
        "--generate-api-key": settings.generate_api_key,
        "--no-auth": settings.no_auth,
    }
    given = [option for option, is_given in answers.items() if is_given]
    if len(given) > 1:
        raise UsageError(
            f"{' and '.join(given)} exclude each other", why="only one can say who may ask", hint="give one of them"
        )
    if not given and not only_this_machine:
        where = f"--host {settings.host}" if settings.address is None else f"--address {settings.address}"
        raise UsageError(
            f"{where} exposes the service to other machines without a key",
            why="everybody who can reach it could use it",
            hint="add `--generate-api-key` or `--api-key-file FILE`, or `--no-auth` to allow that",
        )


@contextlib.contextmanager
def prepared(settings: UpSettings, folder: InstanceFolder, report: Report) -> Iterator[Exposure]:
    """Who may use the service; if the body fails, a key that was made for it is removed again.

    UsageError if the key file cannot be used.
    """
    wanted = folder.api_key_file if settings.generate_api_key else settings.api_key_file
    if wanted is None:
        yield Exposure(None)
        return
    file = wanted.absolute()
    new_key = write_new_key(file) if settings.generate_api_key and not file.exists() else None
    read_keys(file)
    if not is_private(file):
        report(Progress("resolve", f"{file} can be read by other users: `chmod 600 {file}`", warning=True))
    try:
        yield Exposure(file, new_key)
    except BaseException:
        state = folder.read() if new_key else None
        if new_key and (state is None or state.api_key_file != file):  # else it is deployed by now
            file.unlink(missing_ok=True)
        raise


def _only_this_machine(host: str) -> bool:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise UsageError(
            f"--host {host} cannot be resolved",
            why=str(error.strerror),
            hint="give an address of this machine, such as `--host 127.0.0.1`",
        ) from error
    return all(ipaddress.ip_address(str(entry[4][0]).partition("%")[0]).is_loopback for entry in found)
