"""The pages that are made from the command line are what it says today."""

from __future__ import annotations

import pytest

import generate_docs


@pytest.mark.parametrize(("path", "page"), generate_docs.pages().items(), ids=lambda value: getattr(value, "name", ""))
def test_the_page_is_what_the_command_line_says(path: generate_docs.Path, page: str) -> None:
    """After a change of options or help texts, write the pages anew."""
    assert path.read_text() == page, f"write it anew: {generate_docs.WRITE}"
