"""How text becomes the value of a setting."""

from __future__ import annotations

import pytest

from detectctl import values
from detectctl.values import Replicas


@pytest.mark.parametrize(
    ("text", "count"), [("64M", 64_000_000), ("108m", 108_000_000), ("1.5 k", 1500), ("1G", 10**9), (300, 300)]
)
def test_pixels_are_counted_in_thousands(text: object, count: int) -> None:
    assert values.pixel_count(text) == count


@pytest.mark.parametrize("text", ["64MiB", "64 MP", "M", "-1", "0", "1.1G", "many", "12000x9000"])
def test_a_number_of_pixels_is_within_bounds(text: str) -> None:
    with pytest.raises(ValueError, match=r"such as 64M|from 1 to 1000M"):
        values.pixel_count(text)


@pytest.mark.parametrize(
    ("text", "size"), [("20MiB", 20 * 2**20), ("500kB", 500_000), ("1.5 GiB", 3 * 2**29), ("17", 17)]
)
def test_sizes_are_bytes(text: str, size: int) -> None:
    """Binary and decimal units, and plain numbers."""
    assert values.byte_size(text) == size


@pytest.mark.parametrize(("text", "wanted"), [("2", (2, 2)), ("1..3", (1, 3)), ("0..2", (0, 2))])
def test_replicas_are_a_number_or_a_range(text: str, wanted: tuple[int, int]) -> None:
    """A number is a range of one."""
    assert values.replicas(text) == Replicas(*wanted)
    assert str(values.replicas(text)) == text
