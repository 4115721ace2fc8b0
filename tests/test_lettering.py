from __future__ import annotations

import pytest
from PIL import ImageFont

from detectctl.lettering import wrapped


@pytest.mark.parametrize(
    "words",
    [
        "W&B could not be reached for acme/registry/yolo:latest: connection refused",
        "https://" + "long.example/" * 20,
        "",
        "x",
    ],
)
@pytest.mark.parametrize("width", [1, 100, 314])
def test_a_caption_is_wrapped_without_loss(words: str, width: int) -> None:
    """Every letter is in a line, in order, and no line of several letters is wider than there is room."""
    font = ImageFont.load_default(11)
    assert isinstance(font, ImageFont.FreeTypeFont)
    lines = wrapped(words, font, width)
    assert "".join(lines).replace(" ", "") == words.replace(" ", "")
    assert all(len(line) == 1 or font.getlength(line) <= width for line in lines)
