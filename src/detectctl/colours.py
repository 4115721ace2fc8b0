"""Text of other programs without the escape sequences that colour it on a terminal."""

from __future__ import annotations

import re

_COLOUR = re.compile(r"\x1b\[[\d;]*m")


def without_colours(text: str) -> str:
    """The text as a file or a pipe should have it."""
    return _COLOUR.sub("", text)
