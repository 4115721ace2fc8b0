"""The tiny checkpoints of tests/checkpoints: what their README says of them, and that nothing else is in them."""

from __future__ import annotations

import hashlib
import re
import zipfile

import pytest

from detectctl.engine.checkpoint import unexpected_globals
from train_checkpoints import FOLDER, RECIPES

ROWS = {
    cells[1].strip(" `"): [cell.strip() for cell in cells[2:-1]]
    for cells in (line.split("|") for line in (FOLDER / "README.md").read_text().splitlines())
    if len(cells) > 2 and "`" in cells[1]
}


def test_the_table_lists_the_checkpoints_that_lie_there_and_each_has_a_recipe() -> None:
    assert list(ROWS) == list(RECIPES)
    assert {file.stem for file in FOLDER.glob("*.pt")} == set(ROWS)


@pytest.mark.parametrize("name", ROWS)
def test_a_checkpoint_is_what_the_table_says_and_small(name: str) -> None:
    content = (FOLDER / f"{name}.pt").read_bytes()
    size, digest, found = (ROWS[name][column] for column in (3, 4, 9))
    assert (str(len(content)), hashlib.sha256(content).hexdigest()) == (size, digest)
    assert len(content) < 400_000
    # A parity test wants a hundred objects; each picture of classify has one.
    assert int(found) >= (40 if RECIPES[name].task == "classify" else 100)


@pytest.mark.parametrize("name", ROWS)
def test_a_checkpoint_asks_for_no_code_and_names_no_place_on_a_machine(name: str) -> None:
    file = FOLDER / f"{name}.pt"
    assert unexpected_globals(file) == []
    with zipfile.ZipFile(file) as archive:
        (pickle,) = (archive.read(member) for member in archive.namelist() if member.endswith("data.pkl"))
    assert re.findall(rb"(?:/[a-z]+){2,}|[A-Z]:\\\\", pickle.replace(b"https://ultralytics.com/license", b"")) == []
