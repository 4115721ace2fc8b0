"""What the documents say of commands, settings, errors, sizes, made from code: `python tests/generate_docs.py`."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from detectctl.cli.program import app
from detectctl.errors import REQUEST_ERRORS
from detectctl.lifecycle import sizing
from detectctl.settings import COMMANDS, GlobalSettings, Settings, settings_of
from detectctl.values import Replicas

DOCS = Path(__file__).parent.parent / "docs"
WRITE = "python tests/generate_docs.py"


def settings_table() -> str:
    """Each setting once for all commands that mean the same by it."""
    found: dict[tuple[str, str, str], list[str]] = {}
    kinds: list[type[Settings]] = [GlobalSettings, *COMMANDS.values()]
    for kind in kinds:
        for setting in settings_of(kind):
            default = setting.words(setting.default)
            told = f"`{default}`" if default else setting.option.default
            found.setdefault((setting.key, setting.variable, told), []).append(kind.command or "every command")
    lines = ["| key | environment | default | used by |", "|---|---|---|---|"]
    lines += [f"| `{key}` | `{name}` | {told} | {', '.join(used)} |" for (key, name, told), used in found.items()]
    return "\n".join(lines) + "\n"


def help_pages() -> str:
    """The help of `detectctl` and of each command, in a terminal of 80 columns."""
    commands = ["", *(each.callback.__name__ for each in app.registered_commands if each.callback and not each.hidden)]
    with ThreadPoolExecutor() as pool:
        shown = pool.map(_help, commands)
        pages = [
            f"## `{f'detectctl {command}'.strip()}`\n\n```text\n{text}```\n"
            for command, text in zip(commands, shown, strict=True)
        ]
    return "\n".join(pages)


def _help(command: str) -> str:
    argv = [sys.executable, "-m", "detectctl", *command.split(), "--help"]
    environ = os.environ | {"COLUMNS": "80"}
    return subprocess.run(argv, env=environ, capture_output=True, text=True, check=True).stdout


def errors_table() -> str:
    """What a service answers with, by HTTP status; the meaning is the first line of the class's docstring."""
    lines = ["| HTTP | code | exit code of `detect` | when |", "|---|---|---|---|"]
    for error in sorted(REQUEST_ERRORS.values(), key=lambda error: (error.status, error.code)):
        meaning = (error.__doc__ or "").partition("\n")[0]
        lines.append(f"| {error.status} | `{error.code}` | {error.exit_code} | {meaning} |")
    return "\n".join(lines) + "\n"


def sizes_table() -> str:
    """What `--replicas auto` chooses where memory is no limit."""
    lines = ["| cores | replicas | images at a time in each | its lock is held |", "|---|---|---|---|"]
    for cores in (2, 4, 8, 16, 32, 64):
        size = sizing.chosen(cores, 1 << 40)
        assert size.streams is not None
        replicas = str(Replicas(size.minimum, size.maximum))
        lines.append(f"| {cores} | {replicas} | {size.streams} | {size.streams * sizing.LOCK_SHARE:.0%} of the time |")
    return "\n".join(lines) + "\n"


MADE = {"settings": settings_table, "commands": help_pages, "errors": errors_table, "performance": sizes_table}
"""By page; the text goes between the page's marks, and the rest of it is written by hand."""


def page(name: str) -> tuple[str, str]:
    """A page as it is, and as it should be."""
    text = path(name).read_text("utf-8")
    return text, _between(text, name, MADE[name]())


def path(name: str) -> Path:
    """Of a page."""
    return DOCS / f"{name}.md"


def _between(page: str, name: str, text: str) -> str:
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    before, _, rest = page.partition(begin)
    _, found, after = rest.partition(end)
    assert found, f"the page has no marks {begin.strip()} and {end}"
    return f"{before}{begin}\n{text}\n{end}{after}"


if __name__ == "__main__":
    for each in MADE:
        path(each).write_text(page(each)[1], "utf-8")
