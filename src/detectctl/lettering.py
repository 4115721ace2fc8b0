"""Words in a picture: a font that has their letters, a size that fits, lines that wrap."""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from typing import TYPE_CHECKING

from PIL import ImageFont

if TYPE_CHECKING:
    from PIL import ImageDraw

MIN_PX = 11
"""The smallest size that can be read."""

_WIDE_FONTS = ("NotoSansCJK-Regular.ttc", "DejaVuSans.ttf", "Arial Unicode.ttf")


class Line:
    """A line of text in a box of its own, made to fit a width: first smaller, then shorter.

    Args:
        words: the text.
        size: of the font, pixels.
        max_width: of the box, pixels.
        instead: ASCII, written where no font has all the letters of `words`.
    """

    def __init__(self, words: str, size: int, max_width: int, *, instead: str) -> None:
        self._pad = padding(size)
        self._words, self._font = legible(words, size, instead)
        if self._measured() > max_width and size > MIN_PX:
            fitting = max(MIN_PX, size * max_width // self._measured())
            self._words, self._font = legible(words, fitting, instead)
        while self._measured() > max_width and len(self._words) > 1:
            self._words = self._words[:-2] + "…"
        self._ascent, descent = self._font.getmetrics()
        self.width = self._measured()
        self.height = self._ascent + descent + self._pad

    def _measured(self) -> int:
        return round(self._font.getlength(self._words)) + 2 * self._pad

    def write(self, canvas: ImageDraw.ImageDraw, left: int, top: int, ink: str) -> None:
        """Draw the letters of the box at this place."""
        position = (left + self._pad, top + self._pad // 2 + self._ascent)
        canvas.text(position, self._words, ink, self._font, anchor="ls")


def padding(size: int) -> int:
    """Pixels around letters of this size."""
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


def shortened(words: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """As many of the letters as fit, and an ellipsis."""
    while words and font.getlength(f"{words}…") > width:
        words = words[:-1]
    return f"{words}…"


def legible(words: str, size: int, instead: str) -> tuple[str, ImageFont.FreeTypeFont]:
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


@lru_cache(maxsize=1024)
def _has_letter(name: str, letter: str) -> bool:
    """A letter that a font lacks looks like a code point that no font has."""
    font = _system_font(name, 20)
    if font is None:
        return False
    unassigned = "\U0010ffff"
    return font.getmask(letter).getbbox() is None or bytes(font.getmask(letter)) != bytes(font.getmask(unassigned))
