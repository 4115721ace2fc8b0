"""What a person sees: the commands with a terminal around them, and with the options that change how they speak."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from installed import DETECTCTL

if TYPE_CHECKING:
    from pathlib import Path

    from installed import Home, Service

pytestmark = pytest.mark.cluster

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
CONTROL = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


def on_a_terminal(home: Home, *arguments: str, **env: str) -> str:
    """All that a command writes to a terminal of 80 columns, which is its stdin, stdout and stderr; it must succeed."""
    ours, theirs = pty.openpty()
    environ = home.env | {"TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"} | env
    process = subprocess.Popen(
        [DETECTCTL, *arguments], env=environ, cwd=home.path, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    said, deadline = b"", time.monotonic() + 120
    try:
        with contextlib.suppress(OSError):  # how Linux says that the other side has closed
            while time.monotonic() < deadline:
                if select.select([ours], [], [], 0.2)[0]:
                    said += os.read(ours, 65536)
        assert process.wait(timeout=10) == 0, said.decode()
    finally:
        os.close(ours)
        process.kill()
        process.wait()
    return said.decode()


def test_a_terminal_gets_a_table_and_a_progress_bar(service: Service, bus_jpg: Path, zidane_jpg: Path) -> None:
    """Without `--format`: a table within 80 columns; the bar is gone when all is done."""
    said = on_a_terminal(service.home, "detect", str(bus_jpg), str(zidane_jpg))
    assert "images" in said
    assert "━" in said
    plain = CONTROL.sub("", said).replace("\r", "\n")
    assert re.search(r"CLASS +CONF", plain)
    assert "bus" in plain
    assert max(len(line.rstrip()) for line in plain.splitlines()) <= 80


def test_quiet_shows_no_progress(service: Service, bus_jpg: Path, zidane_jpg: Path) -> None:
    said = on_a_terminal(service.home, "--quiet", "detect", str(bus_jpg), str(zidane_jpg))
    assert "━" not in said
    assert "bus" in said


@pytest.mark.parametrize(
    ("arguments", "env", "coloured"),
    [
        ([], {}, True),
        (["--no-color"], {}, False),
        ([], {"NO_COLOR": "1"}, False),
        ([], {"DETECTCTL_NO_COLOR": "true"}, False),
        ([], {"DETECTCTL_NO_COLOR": "false"}, True),
    ],
)
def test_colour_is_for_terminals_that_want_it(
    service: Service, arguments: list[str], env: dict[str, str], coloured: bool
) -> None:
    assert bool(COLOUR.search(on_a_terminal(service.home, *arguments, "status", **env))) == coloured


def test_annotates_options_reach_the_picture(service: Service, bus_jpg: Path, tmp_path: Path) -> None:
    """`--no-labels`, `--line-width` and `--quality` each change the picture, and in their own way."""

    def picture(*options: str) -> bytes:
        target = tmp_path / "drawn.jpg"
        done = service.home.run("annotate", str(bus_jpg), "-o", str(target), *options)
        assert done.returncode == 0, done.stderr
        return target.read_bytes()

    usual = picture()
    assert len(picture("--quality", "30")) < len(usual) / 2
    variants = {usual, picture("--no-labels"), picture("--line-width", "20"), picture("--line-width", "auto")}
    assert len(variants) == 3  # `auto` is the usual
    assert picture("--labels", "--quality", "90") == usual


def test_an_image_that_is_too_large_exits_7(service: Service, tmp_path: Path) -> None:
    """The service refuses it by size, which is not a fault of the picture."""
    big = tmp_path / "big.jpg"
    big.write_bytes(bytes(21 * 2**20))
    done = service.home.run("detect", str(big))
    assert done.returncode == 7, done.stderr
    assert "20971520 bytes" in done.stderr
