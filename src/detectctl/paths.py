"""Where detectctl keeps its files: one answer for all commands, made once from the environment."""

from __future__ import annotations

import contextlib
import os
import pwd
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from detectctl.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Paths:
    """The three folders of the XDG base directory specification, each with `detectctl` below it.

    Attributes:
        state: what runs, one folder per instance.
        cache: models; safe to delete while nothing runs.
        config: the user's own settings file.
    """

    state: Path
    cache: Path
    config: Path

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Paths:
        """The folders that `environ` names; UsageError if it names none and there is no home folder to put it into."""
        return cls(
            state=_folder(environ, "XDG_STATE_HOME", ".local/state"),
            cache=_folder(environ, "XDG_CACHE_HOME", ".cache"),
            config=_folder(environ, "XDG_CONFIG_HOME", ".config"),
        )


def with_home(environ: Mapping[str, str]) -> dict[str, str]:
    """`environ` for child processes: libraries that look for a home folder find one, or that there is none."""
    return {**environ, "HOME": str(_home(environ) or "/nonexistent")}


def _folder(environ: Mapping[str, str], variable: str, below_home: str) -> Path:
    given = environ.get(variable, "")
    # The specification says that a relative path must be ignored.
    if given.startswith("/"):
        return Path(given) / "detectctl"
    home = _home(environ)
    if home is None:
        raise UsageError(
            "no home folder found",
            why=f"neither HOME nor {variable} is set, and this user id has no name",
            hint="set HOME, or XDG_STATE_HOME, XDG_CACHE_HOME and XDG_CONFIG_HOME, to folders that can be written",
        )
    return home / below_home / "detectctl"


def _home(environ: Mapping[str, str]) -> Path | None:
    """A relative one would be another in each working folder."""
    if environ.get("HOME", "").startswith("/"):
        return Path(environ["HOME"])
    with contextlib.suppress(KeyError):  # the user id has no entry in the password database, as in OpenShift
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    return None
