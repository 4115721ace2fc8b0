"""The path of a request as our routes know it: below the prefix at which Serve has put the service."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import Scope


def path(scope: Scope) -> str:
    """ASGI's `path` without its `root_path`; `/` for the prefix itself."""
    below: str = scope["path"].removeprefix(scope.get("root_path", ""))
    return below or "/"
