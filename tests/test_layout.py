"""The names of the modules."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import detectctl


def test_no_two_modules_share_a_name() -> None:
    """So that a name in a traceback, or in a search, is of one file."""
    modules = Counter(path.name for path in Path(detectctl.__file__).parent.rglob("*.py") if path.name != "__init__.py")
    assert len(modules) > 50
    assert [name for name, count in modules.items() if count > 1] == []
