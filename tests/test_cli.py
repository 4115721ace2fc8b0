"""The command line without a cluster: help, versions, errors, and what it imports."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import detectctl
from installed import DETECTCTL, Home

if TYPE_CHECKING:
    from pathlib import Path

HEAVY = {"ray", "torch", "wandb", "httpx", "numpy", "PIL", "pydantic", "cv2", "openvino", "ultralytics", "rich"}


_RUN = """
import json, sys
sys.argv = json.loads(sys.argv[1])
try:
    from detectctl.cli import main
    main()
except SystemExit:
    pass
print()
print(json.dumps(list(sys.modules)))
"""


def _modules_after(*argv: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", _RUN, json.dumps(["detectctl", *argv])], capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_help_imports_nothing_heavy() -> None:
    """`detectctl --help` must answer at once."""
    assert _modules_after("--help") & HEAVY == set()


def test_detect_imports_neither_ray_nor_torch() -> None:
    """The client side needs no serving stack."""
    loaded = _modules_after("detect", "missing.jpg", "--url", "http://127.0.0.1:1")
    assert "detectctl.client.service_client" in loaded
    assert loaded & {"ray", "torch", "wandb", "openvino", "ultralytics", "numpy"} == set()


@pytest.mark.parametrize("command", ["up", "detect", "annotate", "status", "down"])
def test_every_command_has_help_that_fits_80_columns(command: str, home: Home) -> None:
    """Help says what the command does, within a plain terminal."""
    done = home.run(command, "--help", COLUMNS="80")
    assert done.returncode == 0
    assert "Usage: detectctl" in done.stdout
    assert max(len(line) for line in done.stdout.splitlines()) <= 80


def test_version() -> None:
    """`--version` prints name and version on stdout."""
    done = subprocess.run([DETECTCTL, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"detectctl {detectctl.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["up", "--nonsense"], 2),
        (["up", "--port", "0"], 2),
        (["up", "--model", "not-there.pt"], 2),
        (["up", "--model", "yolov8z"], 2),
        (["up", "--precision", "fp64"], 2),
        (["up", "--host", "203.0.113.7"], 2),
        (["detect"], 2),
        (["detect", "a.jpg", "--format", "xml"], 2),
        (["annotate", "a.jpg", "-o", "a.tiff"], 2),
        (["annotate", "a.jpg"], 2),
        (["status"], 3),
        (["status", "--watch"], 3),
        (["status", "--watch", "--json"], 3),
        (["status", "--watch", "0.5"], 3),
        (["status", "--watch", "0"], 2),
        (["status", "--all"], 3),
        (["status", "--all", "--json"], 3),
        (["up", "--device", "cuda"], 2),
        (["down"], 0),
        (["down", "--all"], 0),
    ],
)
def test_exit_codes(arguments: list[str], code: int, home: Home) -> None:
    """Usage errors exit 2, nothing running exits 3; never a traceback, always a reason."""
    done = home.run(*arguments)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert code == 0 or done.stderr.strip()


def test_errors_say_what_why_and_what_next(home: Home) -> None:
    """Three lines on stderr, and nothing on stdout."""
    done = home.run("up", "--port", "99999")
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert lines[0].startswith("error: ")
    assert lines[1].startswith("  why: ")
    assert lines[2].startswith("  try: ")


def test_global_options_work_after_the_command(home: Home) -> None:
    """People write `detectctl status --verbose`; it shows the traceback of an error."""
    assert "Traceback" in home.run("status", "--verbose").stderr
    assert "Traceback" not in home.run("status").stderr


def test_a_reader_that_has_read_enough_is_no_error(home: Home) -> None:
    """`detectctl … | head -1`."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([DETECTCTL, "down"], stdout=writing, stderr=subprocess.PIPE, env=home.env, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


def test_shell_completion_is_offered_and_completes(home: Home) -> None:
    """`--show-completion` prints a script for the shell, and what it calls completes commands and options."""
    done = home.run("--show-completion", "bash")
    assert "complete" in done.stdout
    asked = {"_DETECTCTL_COMPLETE": "complete_bash", "COMP_CWORD": "1"}
    assert home.run(COMP_WORDS="detectctl de", **asked).stdout.split() == ["detect"]
    assert "--precision" in home.run(COMP_WORDS="detectctl up --pre", **(asked | {"COMP_CWORD": "2"})).stdout


def test_a_deadline_that_every_source_passed_is_exit_4(home: Home, bus_jpg: Path) -> None:
    """Not 6: nothing is wrong with the sources, the service was not ready in time."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        done = home.run("detect", str(bus_jpg), "--url", url, "--timeout", "1")
        assert done.returncode == 4, done.stderr
        done = home.run("detect", str(bus_jpg), "missing.jpg", "--url", url, "--timeout", "1")
        assert done.returncode == 6, done.stderr


def test_a_settings_file_can_be_quiet_about_tracebacks_and_loud(home: Home) -> None:
    """The global options are settings too: environment over file, and `false` means false."""
    (home.path / "detectctl.toml").write_text("verbose = true\n")
    assert "Traceback" in home.run("status").stderr
    assert "Traceback" not in home.run("status", DETECTCTL_VERBOSE="false").stderr
    done = home.run("status", DETECTCTL_VERBOSE="perhaps")
    assert (done.returncode, "true or false" in done.stderr) == (2, True)
