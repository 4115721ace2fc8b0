"""The pages that are made from the code are what it says today."""

from __future__ import annotations

import pytest

import generate_docs


@pytest.mark.parametrize("name", generate_docs.MADE)
def test_the_page_is_what_the_code_says(name: str) -> None:
    """After a change of options, help texts or errors, write the pages again."""
    there, wanted = generate_docs.page(name)
    assert there == wanted, f"write it again: {generate_docs.WRITE}"
