"""The documents of the repository and the code blocks in them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
# README first: its blocks tell the story that the others build on.
DOCUMENTS = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *(ROOT / f"{name}.md" for name in ("SECURITY", "CONTRIBUTING", "CHANGELOG", "CODE_OF_CONDUCT")),
]
_FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,})(?P<language>\S*)")
_REASON = re.compile(r"<!-- not run: (\S.*) -->")
_INCLUDE = re.compile(r'^--8<-- "(?P<path>[^":]+)(?::(?P<first>\d+))?"$')


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: path from the root of the repository.
        line: of its first fence, from 1.
        language: as after the fence.
        text: what is inside, without the fence's indentation; files that it includes are put in.
        reason: why it is not run, from a comment on the line before; None for a block that runs.
    """

    page: str
    line: int
    language: str
    text: str
    reason: str | None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    def rewrite(self, text: str) -> None:
        """Put `text` in the block's place; what stands before it in the page may have moved."""
        page = ROOT / self.page
        fence = f"```{self.language}\n"
        page.write_text(page.read_text("utf-8").replace(f"{fence}{self.text}```", f"{fence}{text}```", 1), "utf-8")

    def commands(self) -> Iterator[tuple[str, list[str]]]:
        """Each `$ command` of a console block with the lines of its output."""
        shown: list[str] = []
        for line in self.text.splitlines():
            if line.startswith("$ "):
                shown = []
                yield line[2:], shown
            else:
                shown.append(line)


def blocks() -> list[Block]:
    """Every fenced block of every document, in order."""
    return [block for document in DOCUMENTS for block in _blocks(document)]


def _blocks(document: Path) -> Iterator[Block]:
    lines = iter(enumerate(document.read_text("utf-8").splitlines(), 1))
    before = ""
    for number, line in lines:
        opened = _FENCE.match(line)
        if opened:
            inside = []
            for _, inner in lines:
                if inner.strip() == opened["fence"]:
                    break
                inside.append(_included(inner.removeprefix(opened["indent"])))
            reason = _REASON.search(before)
            yield Block(
                str(document.relative_to(ROOT)),
                number,
                opened["language"],
                "\n".join(inside) + "\n",
                reason and reason[1],
            )
        before = line


def _included(line: str) -> str:
    match = _INCLUDE.match(line)
    if match is None:
        return line
    lines = (ROOT / match["path"]).read_text("utf-8").splitlines()
    return "\n".join(lines[int(match["first"] or 1) - 1 :])


def prose() -> Iterator[tuple[str, str]]:
    """Each document's path and its text without the fenced blocks."""
    for document in DOCUMENTS:
        text = re.sub(r"^ *(`{3,})\S*\n.*?^ *\1$", "", document.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
        yield str(document.relative_to(ROOT)), text
