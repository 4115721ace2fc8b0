"""The token of a cluster's dashboard, in the order in which Ray itself looks for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from detectctl.errors import UsageError
from detectctl.files import reason

if TYPE_CHECKING:
    from collections.abc import Mapping

_DEFAULT = ".ray/auth_token"
ORDER = f"--ray-token-file, RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH, ~/{_DEFAULT}"
"""Where it is looked for."""


def token(token_file: str | None, environ: Mapping[str, str]) -> str | None:
    """As `found`."""
    return found(token_file, environ).token


class Found(NamedTuple):
    """A token, None if there is none, and where it was found, in words."""

    token: str | None
    where: str


def found(token_file: str | None, environ: Mapping[str, str]) -> Found:
    """The token in `token_file`, else that of Ray's variables or of its file in the home folder.

    Raises:
        UsageError: a file that somebody named cannot be read, or is empty.
    """
    named = token_file or environ.get("RAY_AUTH_TOKEN_PATH")
    if token_file is None and environ.get("RAY_AUTH_TOKEN"):
        return Found(environ["RAY_AUTH_TOKEN"].strip(), "RAY_AUTH_TOKEN")
    if named is not None:
        try:
            text = Path(named).read_text().strip()
        except (OSError, UnicodeError) as error:
            raise _bad(named, reason(error) if isinstance(error, OSError) else "it is not text") from error
        if not text:
            raise _bad(named, "it is empty")
        return Found(text, f"the file {named}" if token_file else f"the file {named} (RAY_AUTH_TOKEN_PATH)")
    try:
        default = Path.home() / _DEFAULT
        if text := default.read_text().strip():
            return Found(text, f"the file {default}")
    except (OSError, RuntimeError, UnicodeError):
        pass
    return Found(None, "")


def may_find(environ: Mapping[str, str]) -> bool:
    """Whether Ray would look for a token in one of its variables, or has one in the home folder."""
    if environ.get("RAY_AUTH_TOKEN") or environ.get("RAY_AUTH_TOKEN_PATH"):
        return True
    return "HOME" in environ and (Path(environ["HOME"]) / _DEFAULT).exists()


def _bad(file: str, why: str) -> UsageError:
    return UsageError(
        f"the token file {file} cannot be used",
        why=why,
        hint="name the file with the token of the cluster: `--ray-token-file FILE`",
    )
