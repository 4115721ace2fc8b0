"""The installed Ray with another text in Serve's template for HAProxy, as a newer version might have."""

from __future__ import annotations

import importlib.util
from pathlib import Path

_TEMPLATES = Path("serve", "_private", "haproxy_templates.py")


def installed() -> Path:
    """The folder of the installed Ray, found without importing it."""
    spec = importlib.util.find_spec("ray")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def bend(folder: Path, known: str, reworded: str) -> Path:
    """A folder for PYTHONPATH with a Ray of links to the installed one, but for this text in the template.

    Args:
        folder: to make it in.
        known: in the template; every occurrence is replaced.
        reworded: what stands there instead.
    """
    original = installed()
    text = (original / _TEMPLATES).read_text()
    assert known in text
    made = folder / "ray"
    for inner in (Path(), *reversed(_TEMPLATES.parents[:-1])):
        (made / inner).mkdir(parents=True)
        for entry in (original / inner).iterdir():
            # Not the folder of compiled modules, into which Python would write that of the bent one.
            if entry.name != "__pycache__" and entry.relative_to(original) not in {*_TEMPLATES.parents, _TEMPLATES}:
                (made / inner / entry.name).symlink_to(entry)
    (made / _TEMPLATES).write_text(text.replace(known, reworded))
    return folder
