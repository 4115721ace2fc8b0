"""The documents: their blocks run, their output is what is printed today, what they name exists."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import tomllib
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
import yaml

import site_links
from detectctl.engine.cpus import available_cpus
from detectctl.lifecycle import sizing
from detectctl.limits import whole_memory
from documents import DOCUMENTS, ROOT, Block, blocks, prose
from installed import DETECTCTL, Home, file_server, free_port
from processor import default_precision
from wandb_server import API_KEY, WandbServer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from detectctl.engine.compiled import CompiledModel

BLOCKS = blocks()
# What is done with each language; `text` is for what is nobody's language.
NOT_OURS = {"engine/NAME_engine.py"}  # what a reader is to fill in
LANGUAGES = {"sh", "console", "python", "toml", "json", "yaml", "ini", "text"}
# Put what is printed today into the documents, instead of comparing: look at the diff before you commit it.
REWRITE = os.environ.get("REWRITE_DOCUMENTS") == "1"
COMMANDS = ("up", "detect", "annotate", "status", "logs", "models", "config", "doctor", "manifest", "down")


def of(*languages: str) -> list[Any]:
    """Pytest parameters: the blocks in these languages."""
    return [pytest.param(block, id=str(block)) for block in BLOCKS if block.language in languages]


def running() -> list[Any]:
    """Parameters: the blocks to run, `down` last, because all share one instance."""
    run = [block for block in BLOCKS if block.language in {"console", "python"} and block.reason is None]
    run.sort(key=lambda block: "$ detectctl down" in block.text)
    return [pytest.param(block, id=str(block)) for block in run]


@cache
def options(command: str) -> set[str]:
    """Those in the help of a command; of none for those that all have."""
    words = [str(DETECTCTL), *filter(None, [command]), "--help"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return set(re.findall(r"--[a-z0-9-]+", done.stdout))


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_no_conflict_is_left_in_a_document() -> None:
    marks = re.compile(r"^(<<<<<<<|=======|>>>>>>>)( |$)", re.MULTILINE)
    assert [str(path) for path in DOCUMENTS if marks.search(path.read_text())] == []


def test_every_block_names_its_language() -> None:
    """So that each is checked by one of the tests below."""
    assert [f"{block}: {block.language!r}" for block in BLOCKS if block.language not in LANGUAGES] == []


def test_only_a_block_that_would_run_says_why_it_does_not() -> None:
    """An excuse that nobody needs hides one that somebody does."""
    assert [str(block) for block in BLOCKS if block.reason and block.language not in {"console", "python"}] == []


@dataclass(frozen=True)
class Idle:
    """A home where nothing runs, where the service's port is taken, and which has what shell blocks name.

    Attributes:
        home: with `best.pt`.
        env: names the port, a W&B that has the model of the documents, and a file of keys.
        port: in place of 8000 and its neighbours.
    """

    home: Home
    env: dict[str, str]
    port: int

    def run(self, words: list[str]) -> subprocess.CompletedProcess[str]:
        arguments = [re.sub(r"\b80\d\d\b", str(self.port), word) for word in words]
        return self.home.run(*arguments, **self.env)


@pytest.fixture(scope="module")
def idle(
    tmp_path_factory: pytest.TempPathFactory, yolov8n_pt: Path, fall_pt: Path, converted: tuple[CompiledModel, ...]
) -> Iterator[Idle]:
    home = Home(tmp_path_factory.mktemp("idle"))
    home.seed(yolov8n_pt, *converted)
    shutil.copy(fall_pt, home.path / "best.pt")
    with WandbServer() as wandb, socket.socket() as taken:
        wandb.log("my-team/my-project/yolo", {"best.pt": fall_pt}, aliases=["production"])
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        env = {"WANDB_BASE_URL": wandb.url, "WANDB_API_KEY": API_KEY, "DETECTCTL_PORT": str(port)}
        yield Idle(home, env, port)
        assert home.clean() == []


# Where nothing runs and the port is taken: `up` has then accepted all that it was given, and starts nothing.
ACCEPTED = {"up": 4, "status": 3, "models": 0, "manifest": 0, "down": 0}


@pytest.mark.parametrize("block", of("sh"))
def test_what_a_shell_block_runs_is_accepted(block: Block, idle: Idle) -> None:
    """Our commands with all their options and values, make targets, extras, files of constraints."""
    for line in block.text.splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["detectctl"]:
            done = idle.run(words[1:])
            command = next(word for word in words[1:] if not word.startswith("-"))
            assert done.returncode == ACCEPTED[command], f"{line}: {done.stderr}"
            assert "warning" not in done.stderr, line
            if "--address" in words:
                assert "the cluster at http://head:8265 does not answer" in done.stderr, line
            elif command == "up":
                assert re.search(rf"port {idle.port} on \S+ is taken", done.stderr), line
        elif words[:1] == ["make"]:
            planned = subprocess.run([*words, "--dry-run"], cwd=ROOT, capture_output=True, text=True, check=False)
            assert planned.returncode == 0, planned.stderr
        elif words[:2] == ["pip", "install"] or words[:3] == ["uv", "pip", "install"]:
            assert_installable(words)


def targets() -> set[str]:
    """Of the Makefile."""
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def assert_installable(words: list[str]) -> None:
    """The extras and the file of constraints that a `pip install` names exist."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for extra in re.findall(r"\[([\w-]+)\]", " ".join(words)):
        assert extra in project["optional-dependencies"]
    if "-c" in words:
        assert (ROOT / words[words.index("-c") + 1]).exists()


def test_what_the_text_names_exists() -> None:
    """Inline code that is an option or a make target is one of ours."""
    known = {option for command in ("", *COMMANDS) for option in options(command)}
    missing = []
    for page, text in prose():
        missing += [f"{page}: {name}" for name in re.findall(r"`(--[a-z0-9-]+)", text) if name not in known]
        missing += [f"{page}: make {name}" for name in re.findall(r"`make ([a-z-]+)`", text) if name not in targets()]
    assert missing == []


def test_the_files_that_the_text_names_exist() -> None:
    """From the root of the repository, or from that of the package."""
    roots = (ROOT, ROOT / "src" / "detectctl")
    named = {(page, name) for page, text in prose() for name in re.findall(r"`([\w.-]+/[\w./-]+\.\w+)`", text)}
    missing = {(page, name) for page, name in named if not any((root / name).exists() for root in roots)}
    assert {(page, name) for page, name in missing if name not in NOT_OURS} == set()


def test_the_variables_that_the_documents_name_exist() -> None:
    """In the text and in the blocks; the changelog alone names some that are gone."""
    known = set(re.findall(r"`(DETECTCTL_\w+)`", (ROOT / "docs" / "settings.md").read_text())) | {"DETECTCTL_CONFIG"}
    named = {
        (path.name, name)
        for path in DOCUMENTS
        if path.name not in {"CHANGELOG.md", "settings.md"}
        for name in re.findall(r"DETECTCTL_\w+", path.read_text())
    }
    assert {(page, name) for page, name in named if name not in known} == set()


@pytest.mark.parametrize("block", of("toml"))
def test_a_settings_file_in_a_document_is_accepted(block: Block, empty_home: Home) -> None:
    """Unknown keys and impossible values are usage errors, exit code 2; that nothing runs is 3."""
    (empty_home.path / "shown.toml").write_text(block.text)
    done = empty_home.run("--config", "shown.toml", "status")
    assert done.returncode == 3, done.stderr


@pytest.mark.parametrize("block", of("json"))
def test_json_is_json(block: Block) -> None:
    json.loads(block.text)


@pytest.mark.parametrize("block", of("yaml"))
def test_yaml_is_yaml(block: Block) -> None:
    list(yaml.safe_load_all(block.text))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_linked_file_exists(path: Path) -> None:
    """As a reader of the repository follows links; `make docs` follows those of the built site, with their anchors."""
    for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", path.read_text()):
        assert (path.parent / target).exists(), target


def test_a_broken_link_of_the_site_is_noticed(tmp_path: Path) -> None:
    """What `make docs` looks for, each on a page of its own."""
    (tmp_path / "good.html").write_text('<h2 id="there"></h2><a href="#there"></a><a href="https://example.com/x"></a>')
    wrong = {
        "file": '<a href="nowhere.html">',
        "anchor": '<a href="good.html#nowhere">',
        "host": '<script src="https://example.com/x.js">',
        "repository": f'<a href="{site_links.REPOSITORY}nowhere.py">',
        "outside": '<a href="../above.html">',
    }
    for name, text in wrong.items():
        (tmp_path / f"{name}.html").write_text(text)
    assert sorted(line.partition(".")[0] for line in site_links.broken(tmp_path)) == sorted(wrong)
    assert site_links.broken(tmp_path / "nothing") == ["no pages"]


def test_every_page_is_in_the_sites_navigation() -> None:
    """A page that no menu leads to is not read."""

    def pages(entries: Iterable[Any]) -> Iterator[str]:
        for entry in entries:
            for value in entry.values() if isinstance(entry, dict) else [entry]:
                yield from pages(value) if isinstance(value, list) else [value]

    listed = list(pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    there = [str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")]
    assert sorted(listed) == sorted(there)


def test_the_index_lists_every_decision() -> None:
    folder = ROOT / "docs" / "adr"
    index = (folder / "index.md").read_text()
    pages = {path.name for path in folder.glob("*.md")} - {"index.md"}
    assert {page for page in pages if f"({page})" not in index} == set()


def test_exit_codes_are_what_the_errors_own() -> None:
    """Every exit code of the error tree is in the table of docs/errors.md."""
    from detectctl import errors

    listed = {int(code) for code in re.findall(r"^\| (\d+) \| ", (ROOT / "docs/errors.md").read_text(), re.MULTILINE)}
    owned = {
        error.exit_code
        for error in vars(errors).values()
        if isinstance(error, type) and issubclass(error, errors.DetectctlError)
    }
    assert owned <= listed


@dataclass(frozen=True)
class Reader:
    """Somebody who types what the documents show, in a folder with photographs, and never has two services.

    Attributes:
        home: with `bus.jpg` and the folder `photos`.
        port: of the service, where the documents say 8000.
        photos: where the documents say https://example.com.
    """

    home: Home
    port: int
    photos: str

    def run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        env = self.home.env | {
            "PATH": f"{DETECTCTL.parent}{os.pathsep}{os.environ['PATH']}",
            "DETECTCTL_PORT": str(self.port),
            "DETECTCTL_ALLOW_URL": "127.0.0.1",
            "COLUMNS": "80",
        }
        return subprocess.run(
            [word.replace(":8000", f":{self.port}").replace("https://example.com", self.photos) for word in command],
            env=env,
            cwd=self.home.path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=240,
            check=False,
        )


@pytest.fixture(scope="module")
def reader(
    photos: Path, yolov8n_pt: Path, converted: tuple[CompiledModel, ...], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Reader]:
    home = Home(tmp_path_factory.mktemp("reader"))
    home.seed(yolov8n_pt, *converted)
    (home.path / "photos").mkdir()
    for name in ("bus.jpg", "zidane.jpg"):
        shutil.copy(photos / name, home.path / "photos")
    shutil.copy(photos / "bus.jpg", home.path)
    with file_server(photos) as server:
        yield Reader(home, free_port(), server)
        assert home.clean() == []


@pytest.mark.cluster
@pytest.mark.slow  # the first `up`
@pytest.mark.parametrize("block", running())
def test_a_block_does_what_it_shows(block: Block, reader: Reader) -> None:
    """Console blocks print what they show, Python blocks run; all with the instance that README starts."""
    if "$ detectctl up" not in block.text and reader.home.instance() is None:
        reader.run([str(DETECTCTL), "up"])
    if block.language == "python":
        done = reader.run([sys.executable, "-c", block.text])
        assert done.returncode == 0, done.stdout
        return
    text = ""
    for command, shown in list(block.commands()):
        deadline = time.monotonic() + (10 if command.startswith("detectctl status") else 0)
        while True:
            done = reader.run(["/bin/sh", "-c", command])
            assert done.returncode == 0, f"{command}: {done.stdout}"
            printed = re.sub(" +$", "", done.stdout, flags=re.MULTILINE)
            printed = printed.replace(f":{reader.port}", ":8000").replace(reader.photos, "https://example.com")
            same = sorted(_normal(printed.splitlines())) == sorted(_normal(_on_this_processor(shown)))
            if same or time.monotonic() > deadline:  # a replica writes its counters half a second later
                break
        if not REWRITE:
            assert same, f"{command} prints, instead of what is shown:\n{printed}"
        text += f"$ {command}\n" + ("\n".join(shown) if same else printed.rstrip("\n")) + "\n"
    if REWRITE and text != block.text:
        block.rewrite(text)


def _normal(lines: list[str]) -> list[str]:
    """Without what differs from run to run: times, ports, pids, addresses, digits of boxes; not how many."""
    text = "\n".join(line.rstrip() for line in lines)
    text = re.sub(r"\b[a-z0-9]{8}\b(?=  RUNNING)", "REPLICA", text)
    text = re.sub(r"sha256:[0-9a-f]+", "DIGEST", text)
    text = re.sub(r"up (\d+[dhms] ?)+", "up TIME", text)
    text = re.sub(r"(?!\d+ (objects?|classes)\b)\b\d+(\.\d+)* ?(ms|s)?\b", "N", text)
    return re.sub(r" +", " ", text).strip().splitlines()


def _on_this_processor(shown: list[str]) -> list[str]:
    """The documents were written where `--precision auto` means bf16, on two cores."""
    here = sizing.chosen(available_cpus(), whole_memory())
    scales = "" if here.maximum == 1 else f", may be {here.minimum}..{here.maximum}"
    text = "\n".join(shown).replace("openvino bf16 on", f"openvino {default_precision()} on")
    return text.replace("ready; auto: one keeps 2 cores busy", f"ready{scales}; auto: {here.why}").split("\n")
