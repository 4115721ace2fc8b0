"""Words in a picture: a font that has their letters, a size that fits, lines that wrap."""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from typing import TYPE_CHECKING

from PIL import ImageFont

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL import ImageDraw

MIN_PX = 11
"""The smallest size that can be read."""

_LONGEST_NAME = 255
"""Letters of it that are looked at."""

_WIDE_FONTS = ("NotoSansCJK-Regular.ttc", "DejaVuSans.ttf", "Arial Unicode.ttf")


class Lines:
    """Lines of text in a box of their own, of `width` and `height` pixels."""

    def __init__(self, lines: Sequence[str], font: ImageFont.FreeTypeFont, pad: int) -> None:
        self._lines, self._font, self._pad = lines, font, pad
        self._ascent, descent = font.getmetrics()
        self._line_height = self._ascent + descent
        self.width = max(round(font.getlength(line)) for line in lines) + 2 * pad
        self.height = len(lines) * self._line_height + pad

    def write(self, canvas: ImageDraw.ImageDraw, left: int, top: int, ink: str) -> None:
        """Draw the letters of the box at this place."""
        for number, line in enumerate(self._lines):
            baseline = top + self._pad // 2 + number * self._line_height + self._ascent
            canvas.text((left + self._pad, baseline), line, ink, self._font, anchor="ls")


def can_write(words: str) -> bool:
    """Whether a font of this system has all the letters."""
    return _legible(words, MIN_PX, "")[0] == words


def label(words: str, size: int, max_width: int, *, instead: str) -> Lines:
    """One line in a font of `size` pixels; in a box that is wider than `max_width` it gets smaller, then shorter.

    `instead` is ASCII, written where no font has all the letters of `words`.
    """
    pad = _padding(size)
    text, font = _legible(words, size, instead)
    width = round(font.getlength(text)) + 2 * pad
    if width > max_width and size > MIN_PX:
        text, font = _legible(words, max(MIN_PX, size * max_width // width), instead)
    return Lines([_shortened(text, font, max_width - 2 * pad)], font, pad)


def file_name(name: str, size: int, max_width: int) -> Lines:
    """One line in a font of `size` pixels; of a name that is too long the end stays, where names differ."""
    pad = _padding(size)
    name = "".join(letter if letter.isprintable() else "_" for letter in name[-_LONGEST_NAME:])
    text, font = _legible(name, size, "")
    if not text:  # it is in several scripts: as much of it as one font has
        parts = ("".join(each if _can_write(wide, each) else "?" for each in name) for wide in ("", *_WIDE_FONTS))
        text, font = _legible(min(parts, key=lambda part: part.count("?")), size, "?")
    return Lines([_shortened(text[::-1], font, max_width - 2 * pad)[::-1]], font, pad)


def caption(words: str, size: int, width: int, max_height: int) -> Lines:
    """All the words in a box of `width`, in smaller letters if it is higher than `max_height`, then as many as fit."""
    for fitted in (size, MIN_PX):
        pad = _padding(fitted)
        text, font = _legible(words, fitted, words.encode("ascii", "replace").decode())
        lines = wrapped(text, font, width - 2 * pad)
        most = max(1, (max_height - pad) // sum(font.getmetrics()))
        if len(lines) <= most:
            return Lines(lines, font, pad)
    return Lines([*lines[: most - 1], _shortened(f"{lines[most - 1]}…", font, width - 2 * pad)], font, pad)


def _padding(size: int) -> int:
    return max(2, round(size * 0.2))


def wrapped(words: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Lines that hold all the words; a word that is too wide for a line, such as an address, is broken."""
    lines = [""]
    for word in words.split():
        joined = f"{lines[-1]} {word}".lstrip()
        if font.getlength(joined) <= width:
            lines[-1] = joined
            continue
        if lines[-1]:
            lines.append("")
        for letter in word:
            if lines[-1] and font.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return lines


def _shortened(words: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """The words, or as many of their letters as fit, and an ellipsis."""
    while font.getlength(words) > width and len(words) > 1:
        words = f"{words[:-2]}…"
    return words


def _legible(words: str, size: int, instead: str) -> tuple[str, ImageFont.FreeTypeFont]:
    """The words with a font that has all their letters.

    Pillow's own font has ASCII only. Other letters come from a font of the system if one has them all, else they lose
    their accents, and if that does not help, `instead` is written.
    """
    foreign = {letter for letter in words if not letter.isascii()}
    for name in _WIDE_FONTS if foreign else ():
        font = _system_font(name, size)
        if font is not None and all(_has_letter(name, letter) for letter in foreign):
            return words, font
    bare = "".join(letter for letter in unicodedata.normalize("NFKD", words) if not unicodedata.combining(letter))
    return (bare if bare.isascii() else instead), _own_font(size)


@lru_cache(maxsize=256)
def _own_font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)  # noqa: S101 - narrows the type: Pillow's wheels have FreeType
    return font


@lru_cache(maxsize=256)
def _system_font(name: str, size: int) -> ImageFont.FreeTypeFont | None:
    try:
        return ImageFont.truetype(name, size)
    except OSError:
        return None


def _can_write(font_name: str, letter: str) -> bool:
    return letter.isascii() or _has_letter(font_name, letter)


@lru_cache(maxsize=1024)
def _has_letter(name: str, letter: str) -> bool:
    """A letter that a font lacks looks like a code point that no font has."""
    font = _system_font(name, 20)
    if font is None:
        return False
    unassigned = "\U0010ffff"
    return font.getmask(letter).getbbox() is None or bytes(font.getmask(letter)) != bytes(font.getmask(unassigned))
