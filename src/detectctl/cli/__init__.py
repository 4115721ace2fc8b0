"""The command line: each command parses, makes one call, and renders the result."""

from detectctl.cli.program import main

__all__ = ["main"]
