"""The declarations of options, and how text becomes their values."""

from __future__ import annotations

import pytest

from detectctl import settings
from detectctl.settings import COMMANDS, Replicas, settings_of


@pytest.mark.parametrize(
    ("text", "count"), [("64M", 64_000_000), ("108m", 108_000_000), ("1.5 k", 1500), ("1G", 10**9), (300, 300)]
)
def test_pixels_are_counted_in_thousands(text: object, count: int) -> None:
    assert settings.parse_pixels(text) == count


@pytest.mark.parametrize("text", ["64MiB", "64 MP", "M", "-1", "0", "1.1G", "many", "12000x9000"])
def test_a_number_of_pixels_is_within_bounds(text: str) -> None:
    with pytest.raises(ValueError, match=r"such as 64M|from 1 to 1000M"):
        settings.parse_pixels(text)


@pytest.mark.parametrize(
    ("text", "size"), [("20MiB", 20 * 2**20), ("500kB", 500_000), ("1.5 GiB", 3 * 2**29), ("17", 17)]
)
def test_sizes_are_bytes(text: str, size: int) -> None:
    """Binary and decimal units, and plain numbers."""
    assert settings.parse_bytes(text) == size


@pytest.mark.parametrize(("text", "wanted"), [("2", (2, 2)), ("1..3", (1, 3)), ("0..2", (0, 2))])
def test_replicas_are_a_number_or_a_range(text: str, wanted: tuple[int, int]) -> None:
    """A number is a range of one."""
    assert settings.parse_replicas(text) == Replicas(*wanted)
    assert str(settings.parse_replicas(text)) == text


def test_only_options_with_several_meanings_name_their_command() -> None:
    """One meaning, one short variable, however many commands have it."""
    long = {
        each.key
        for kind in COMMANDS.values()
        for each in settings_of(kind)
        if each.variable.startswith(f"DETECTCTL_{kind.command.upper()}_")
    }
    assert long == {"timeout", "conf", "iou", "agnostic-nms", "max-det", "api-key-file", "spread"}
