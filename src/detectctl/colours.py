"""Text of other programs and models without what a terminal would obey."""

from __future__ import annotations

import re
import unicodedata

_OBEYED = {"Cc", "Cs", "Zl", "Zp"}
_TURNING = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # the direction of what follows
_COLOUR = re.compile(r"\x1b\[[\d;]*m")


def without_colours(text: str) -> str:
    """The text as a file or a pipe should have it."""
    return _COLOUR.sub("", text)


def printable(words: str, most: int | None = 100) -> str:
    """Words with nothing in them that a terminal would obey; at most so many characters, or all.

    What joins or parts letters, as in Persian and in many an emoji, stays, and so do letters later than this Python.
    """
    return "".join("?" if unicodedata.category(one) in _OBEYED or one in _TURNING else one for one in words[:most])
