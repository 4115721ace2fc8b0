"""The neighbours on the bench: they would notice what others do to them."""

from __future__ import annotations

import pytest

from installed import wait_until
from neighbours import DECLARED, IMPERATIVE, Neighbours

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def test_neighbours_are_untouched_until_somebody_declares_only_his_own_applications(neighbours: Neighbours) -> None:
    """Then one of them is gone, and requests to it failed; the other is as it was."""
    before = neighbours.record()
    assert {name: told["source"] for name, told in before.configured.items()} == {
        DECLARED: "declarative",
        IMPERATIVE: "imperative",
    }
    assert before.settings["target_capacity"] == 100
    with neighbours.untouched() as asked:
        wait_until(lambda: len(asked) > 10)
    with pytest.raises(AssertionError):
        _declare_others(neighbours)
    assert neighbours.record().configured[IMPERATIVE] == before.configured[IMPERATIVE]
    assert neighbours.record().answers[IMPERATIVE] == before.answers[IMPERATIVE]
    neighbours.declare()
    wait_until(lambda: neighbours.record().answers[DECLARED].startswith("node1 "), 60)


def _declare_others(neighbours: Neighbours) -> None:
    with neighbours.untouched() as asked:
        neighbours.put([])
        wait_until(lambda: any(one.outcome != 200 for one in asked))
