"""The README: its commands run, its output is what they print today, its tables are what the code says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from typing import TYPE_CHECKING

import pytest

import readme_settings
from installed import DETECTCTL, Home, free_port
from processor import default_precision

if TYPE_CHECKING:
    from pathlib import Path

SHELL = re.compile(r"^```sh\n(.*?)^```$", re.DOTALL | re.MULTILINE)
CONSOLE = re.compile(r"^```console\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def _commands(readme: str) -> list[tuple[str, list[str]]]:
    """Each `$ command` of a console block with the lines of its output."""
    found: list[tuple[str, list[str]]] = []
    for block in CONSOLE.findall(readme):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            else:
                found[-1][1].append(line)
    return found


def _normal(lines: list[str]) -> list[str]:
    """Without what differs from run to run: times, ports, pids, addresses, digits of boxes; not how many."""
    text = "\n".join(line.rstrip() for line in lines)
    text = re.sub(r"\b[a-z0-9]{8}\b(?=  RUNNING)", "REPLICA", text)
    text = re.sub(r"sha256:[0-9a-f]+", "DIGEST", text)
    text = re.sub(r"up (\d+[dhms] ?)+", "up TIME", text)
    text = re.sub(r"(?!\d+ (objects?|classes)\b)\b\d+(\.\d+)* ?(ms|s)?\b", "N", text)
    return re.sub(r" +", " ", text).splitlines()


def _on_this_processor(shown: list[str]) -> list[str]:
    """The README was written where `--precision auto` means bf16."""
    return [line.replace("openvino bf16 on", f"openvino {default_precision()} on") for line in shown]


def test_settings_table_is_what_the_code_says() -> None:
    """Run `python tests/readme_settings.py` after changing a setting."""
    readme = readme_settings.README.read_text()
    assert readme_settings.with_table(readme) == readme


def test_exit_codes_are_what_the_errors_own() -> None:
    """Every exit code of the error tree is in the README's table."""
    from detectctl import errors

    listed = {int(code) for code in re.findall(r"^\| (\d+) \| ", readme_settings.README.read_text(), re.MULTILINE)}
    owned = {
        error.exit_code
        for error in vars(errors).values()
        if isinstance(error, type) and issubclass(error, errors.DetectctlError)
    }
    assert owned <= listed


def test_every_linked_file_exists() -> None:
    """Pictures and pages that the README points to are in the repository."""
    for target in re.findall(r"\]\(([^)#:]+)\)", readme_settings.README.read_text()):
        assert (readme_settings.README.parent / target).exists(), target


def test_what_the_readme_tells_to_run_is_there() -> None:
    """Of the blocks that install or measure: the make targets exist, and the options are those of the command."""
    readme, makefile = readme_settings.README.read_text(), readme_settings.README.with_name("Makefile").read_text()
    lines = [line for block in SHELL.findall(readme) for line in block.splitlines()]
    for target in re.findall(r"(?:^|`)make ([a-z-]+)", readme, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    commands = [line.partition("#")[0].split() for line in lines if line.startswith("detectctl ")]
    assert commands
    for _, command, *rest in commands:
        options = subprocess.run([DETECTCTL, command, "--help"], capture_output=True, text=True, check=True).stdout
        assert [word for word in rest if word.startswith("--") and word not in options] == []
    (extra,) = {name for line in lines for name in re.findall(r"'\.\[(\w+)\]'", line)}
    project = tomllib.loads(readme_settings.README.with_name("pyproject.toml").read_text())["project"]
    assert extra in project["optional-dependencies"]


@pytest.mark.cluster
def test_commands_print_what_the_readme_shows(home: Home, photos: Path) -> None:
    """Every console block, in its order, in one home; `down` last, as its instance is needed by the others."""
    (home.path / "photos").mkdir()
    for name in ("bus.jpg", "zidane.jpg"):
        shutil.copy(photos / name, home.path / "photos")
    shutil.copy(photos / "bus.jpg", home.path)
    port = str(free_port())
    env = home.env | {
        "PATH": f"{DETECTCTL.parent}{os.pathsep}{os.environ['PATH']}",
        "DETECTCTL_PORT": port,
        "COLUMNS": "80",
    }
    commands = _commands(readme_settings.README.read_text())
    commands.sort(key=lambda item: item[0] == "detectctl down")
    assert len(commands) >= 8
    for command, shown in commands:
        done = subprocess.run(
            ["/bin/sh", "-c", command.replace(":8000", f":{port}")],
            env=env,
            cwd=home.path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, f"{command}: {done.stdout}"
        assert sorted(_normal(done.stdout.splitlines())) == sorted(_normal(_on_this_processor(shown))), command
