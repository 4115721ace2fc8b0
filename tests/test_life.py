"""The life of an instance, told from outside: a start that fails, one that does not, an update, and its end.

The tests share one home, in this order.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest

from installed import Home, free_port
from remains import Remains

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from detectctl.engine.compiled import CompiledModel

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

_PAUSE_S = 0.3
"""Between two looks, each of which takes a core for as long."""


@pytest.fixture(scope="module")
def one_home(
    tmp_path_factory: pytest.TempPathFactory, yolov8n_pt: Path, converted: tuple[CompiledModel, ...]
) -> Iterator[Home]:
    home = Home(tmp_path_factory.mktemp("life"))
    home.seed(yolov8n_pt, *converted)
    yield home
    assert home.clean() == []


@pytest.fixture(scope="module")
def options() -> tuple[str, ...]:
    """Those of every `up`."""
    return ("--port", str(free_port()), "--replicas", "1")


@pytest.mark.long  # an update that fails, in tests/faults, says its words by the same way
def test_a_service_that_failed_to_start_has_left_its_words(
    one_home: Home, options: tuple[str, ...], yolov8n_compiled: CompiledModel
) -> None:
    """When it is needed most. The reason is in what `up` says, and the whole of it in `logs`."""
    assert one_home.run("logs").returncode == 3
    weights = one_home.compiled(yolov8n_compiled) / "model.bin"
    kept = weights.read_bytes()
    with one_home.start("up", *options) as process:
        assert process.stderr is not None
        said = ""
        for line in process.stderr:
            said += line
            if "✓ convert" in line:  # and before a replica reads it
                weights.write_bytes(b"\0" * len(kept))
    assert process.returncode == 5, said
    assert one_home.instance() is None
    said = one_home.run("logs", "--level", "error").stdout
    assert "sha256" in said or "digest" in said, said
    assert "Traceback" in said
    weights.write_bytes(kept)


def _seen_meanwhile(home: Home, process: subprocess.Popen[str]) -> list[str]:
    """The words that `status` had until the command ended."""
    seen: list[str] = []
    while process.poll() is None:
        done = home.run("status", "--json")
        if done.stdout and (word := json.loads(done.stdout)["state"]) not in seen[-1:]:
            seen.append(word)
        time.sleep(_PAUSE_S)
    return seen


def test_a_life_in_words(one_home: Home, options: tuple[str, ...]) -> None:
    """Starting, running; updating, running; stopping; gone. Nothing else in between, and nothing is left of it.

    What an earlier start said that failed is forgotten.
    """
    home = one_home
    temporary = home.path / "tmp"
    temporary.mkdir()
    before = Remains.of(home, temporary)
    with home.start("up", *options, TMPDIR=str(temporary)) as process:
        seen = _seen_meanwhile(home, process)
    assert seen in (["starting"], ["starting", "running"])
    assert process.returncode == 0
    assert "Traceback" not in home.run("logs", "--level", "error").stdout
    before.note()
    with home.start("up", *options, "--precision", "fp32", TMPDIR=str(temporary)) as process:
        seen = _seen_meanwhile(home, process)
    assert "updating" in seen
    assert set(seen) <= {"running", "updating"}
    assert home.json("status", "--json")["state"] == "running"
    with home.start("down", TMPDIR=str(temporary)) as process:
        seen = _seen_meanwhile(home, process)
    assert set(seen) <= {"running", "stopping"}
    assert "stopping" in seen
    assert home.run("status").returncode == 3
    assert home.run("logs").returncode == 3, "the words of a start that failed before one that did not"
    before.assert_nothing_else()
