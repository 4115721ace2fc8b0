"""The declarations of options."""

from __future__ import annotations

from detectctl.settings import COMMANDS, settings_of


def test_only_options_with_several_meanings_name_their_command() -> None:
    """One meaning, one short variable, however many commands have it."""
    long = {
        each.key
        for kind in COMMANDS.values()
        for each in settings_of(kind)
        if each.variable.startswith(f"DETECTCTL_{kind.command.upper()}_")
    }
    assert long == {"timeout", "conf", "iou", "agnostic-nms", "max-det", "api-key-file", "spread"}
