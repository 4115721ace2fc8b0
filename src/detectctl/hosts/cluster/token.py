"""The token of a cluster's dashboard, in the order in which Ray itself looks for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from detectctl.errors import UsageError
from detectctl.files import reason

if TYPE_CHECKING:
    from collections.abc import Mapping

_DEFAULT = ".ray/auth_token"


def token(token_file: str | None, environ: Mapping[str, str]) -> str | None:
    """The token in `token_file`, else that of Ray's variables or of its file in the home folder; None if there is none.

    Raises:
        UsageError: a file that somebody named cannot be read, or is empty.
    """
    named = token_file or environ.get("RAY_AUTH_TOKEN_PATH")
    if token_file is None and environ.get("RAY_AUTH_TOKEN"):
        return environ["RAY_AUTH_TOKEN"].strip()
    if named is not None:
        try:
            found = Path(named).read_text().strip()
        except (OSError, UnicodeError) as error:
            raise _bad(named, reason(error) if isinstance(error, OSError) else "it is not text") from error
        if not found:
            raise _bad(named, "it is empty")
        return found
    try:
        return (Path.home() / _DEFAULT).read_text().strip() or None
    except (OSError, RuntimeError, UnicodeError):
        return None


def _bad(file: str, why: str) -> UsageError:
    return UsageError(
        f"the token file {file} cannot be used",
        why=why,
        hint="name the file with the token of the cluster: `--ray-token-file FILE`",
    )
