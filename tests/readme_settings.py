"""The table in docs/settings.md, made from the settings themselves: `python tests/readme_settings.py` writes it."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from detectctl.settings import COMMANDS, PREFIX, GlobalSettings, key_of

PAGE = Path(__file__).parent.parent / "docs" / "settings.md"
BEGIN, END = "<!-- settings -->\n", "<!-- /settings -->"


def table() -> str:
    rows: dict[tuple[str, str], list[str]] = {}
    for command, kind in COMMANDS.items():
        for field in (*fields(GlobalSettings), *fields(kind)):
            rows.setdefault((key_of(field.name), _words(field.default)), []).append(command)
    lines = ["| key | environment | default | used by |", "|---|---|---|---|"]
    lines += [
        f"| `{key}` | `{PREFIX}{key.upper().replace('-', '_')}` | {default} | "
        f"{'every command' if len(commands) == len(COMMANDS) else ', '.join(commands)} |"
        for (key, default), commands in rows.items()
    ]
    return "\n".join(lines) + "\n"


def _words(default: object) -> str:
    if default is None or default == ():
        return ""
    return f"`{str(default).lower()}`" if isinstance(default, bool) else f"`{default}`"


def with_table(page: str) -> str:
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + table() + END + after


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text()))
