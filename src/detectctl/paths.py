"""Where detectctl keeps its files: one answer for all commands, made once from the environment."""

from __future__ import annotations

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


def _folder(environ: Mapping[str, str], variable: str, below_home: str) -> Path:
    given = environ.get(variable, "")
    # The specification says that a relative path must be ignored.
    root = Path(given) if given.startswith("/") else _home(environ, variable) / below_home
    return root / "detectctl"


def _home(environ: Mapping[str, str], variable: str) -> Path:
    if environ.get("HOME"):
        return Path(environ["HOME"])
    try:
        return Path.home()
    except RuntimeError as error:  # the user id has no entry in the password database, as in OpenShift
        raise UsageError(
            "no home folder found",
            why=f"neither HOME nor {variable} is set, and this user id has no name",
            hint="set HOME, or XDG_STATE_HOME, XDG_CACHE_HOME and XDG_CONFIG_HOME, to folders that can be written",
        ) from error
