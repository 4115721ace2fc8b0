"""`python tests/site_links.py DIR`: every link of a built site leads somewhere, and nothing comes from another host."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

ROOT = Path(__file__).parent.parent
# Links into the repository are checked against this checkout: no network.
REPOSITORY = "https://github.com/detectctl/detectctl/blob/main/"
_LOADED = {"img", "script", "iframe", "source", "video", "audio"}


@dataclass
class Page(HTMLParser):
    """What a page defines and what it points to."""

    text: str
    anchors: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.anchors |= {name for key in ("id", "name") if (name := attributes.get(key))}
        target = attributes.get("href") or attributes.get("src")
        if target is None or attributes.get("rel") in {"canonical", "alternate"}:
            return
        loads = tag in _LOADED or (tag == "link" and attributes.get("rel") not in {"prev", "next"})
        (self.loaded if loads else self.links).append(target)


def broken(site: Path) -> list[str]:
    """One line for each link or loaded file that is not there; "page: target: why"."""
    site = site.resolve()
    pages = {path: Page(path.read_text("utf-8")) for path in site.rglob("*.html")}
    found = [] if pages else ["no pages"]
    for path, page in pages.items():
        for target in [*page.links, *page.loaded]:
            why = _why_broken(target, path, page, pages, site)
            if why is not None:
                found.append(f"{path.relative_to(site)}: {target}: {why}")
    return found


def _why_broken(target: str, path: Path, page: Page, pages: dict[Path, Page], site: Path) -> str | None:
    url, anchor = urldefrag(target)
    parts = urlsplit(url)
    if parts.scheme in {"http", "https"} or parts.netloc:
        return _why_broken_elsewhere(url, loaded=target in page.loaded)
    # The page for what is not found is served at any depth, so its links begin at the root of the site.
    if parts.scheme in {"mailto", "data"} or path.name == "404.html":
        return None
    file = path if not parts.path else (path.parent / unquote(parts.path)).resolve()
    if file.is_dir():
        file /= "index.html"
    if not file.is_relative_to(site) or not file.exists():
        return "no such file"
    if anchor and file in pages and unquote(anchor) not in pages[file].anchors:
        return "no such anchor"
    return None


def _why_broken_elsewhere(url: str, *, loaded: bool) -> str | None:
    if loaded:
        return "loaded from another host"
    if url.startswith(REPOSITORY) and not (ROOT / unquote(url.removeprefix(REPOSITORY))).exists():
        return "not in the repository"
    return None


def main() -> int:
    site = Path(sys.argv[1])
    found = broken(site)
    sys.stdout.write("".join(f"{line}\n" for line in found or ["every link leads somewhere"]))
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
