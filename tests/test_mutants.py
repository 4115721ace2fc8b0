"""What `make mutants` breaks."""

from __future__ import annotations

import pytest

from mutants import MUTANTS, Mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.mistake)
def test_what_a_mutant_breaks_is_there(mutant: Mutant) -> None:
    """Or nobody would notice that nothing is broken any more, until somebody looks."""
    assert mutant.made()
