"""`detectctl models` and models that must not be served, through the installed command and the stand-in W&B."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pickle
import pty
import signal
import subprocess
import uuid
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from detectctl.registry.base_weights import base_model
from detectctl.registry.store import Origin, Store
from detectctl.wire import SCHEMA
from installed import DETECTCTL, Home, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from wandb_site import Site

pytestmark = pytest.mark.slow

MARK = "MODELS_TEST_MARK"
# Says in a file which process looks for wandb.
_HOOK = """
import os, sys
class Hook:
    def find_spec(name, path=None, target=None):
        if name == "wandb":
            with open(os.environ["IMPORTS"], "a") as file:
                file.write(f"{os.getpid()}\\n")
sys.meta_path.insert(0, Hook)
"""


def _stocked(home: Home) -> str:
    """The sha256 of a checkpoint in the store that nobody serves."""
    file = home.path / "old.pt"
    file.write_bytes(b"an old model")
    return Store(home.cache).copy(file, Origin("old")).sha256


def _answered(home: Home, answer: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """The command, with a person who types `answer`."""
    ours, theirs = pty.openpty()
    try:
        os.write(ours, answer.encode())
        return subprocess.run(
            [DETECTCTL, *arguments],
            env=home.env,
            cwd=home.path,
            stdin=theirs,
            capture_output=True,
            timeout=60,
            check=False,
        )
    finally:
        os.close(ours)
        os.close(theirs)


def test_versions_as_json_and_as_a_table(site: Site) -> None:
    """Each version with what W&B and the store know of it."""
    site.wandb.log("acme/registry/yolo", {"best.pt": b"newer"}, aliases=["production"])
    done = site.home.run("models", "acme/registry/yolo", "--json", **site.env)
    assert done.returncode == 0, done.stderr
    newer, older = json.loads(done.stdout)["versions"]
    assert (newer["version"], newer["aliases"], newer["size"]) == ("v1", ["latest", "production"], 5)
    assert (newer["stored"], newer["checkpoints"], newer["served"]) == (False, {}, None)
    assert (older["version"], older["aliases"]) == ("v0", [])
    rows = site.home.run("models", "acme/registry/yolo", **site.env).stdout.splitlines()
    assert [row.split()[0] for row in rows] == ["VERSION", "v1", "v0"]


def test_what_is_stored_is_listed(home: Home, tmp_path: Path) -> None:
    """Base models by their names, W&B's by what `--model` takes, files by theirs; of all, the digest."""
    empty = home.run("models")
    assert (empty.returncode, empty.stdout) == (0, "no model is stored yet\n"), empty.stderr
    store = Store(home.cache)
    file = tmp_path / "mine.pt"
    file.write_bytes(b"mine")
    for origin in (Origin("mine"), Origin("yolo", "acme/registry/yolo", "v3", "d3", "best.pt")):
        mine = f"sha256:{store.copy(file, origin).sha256}"
    drop = home.cache / "base"
    drop.mkdir(exist_ok=True)
    (drop / "yolo26n.pt").write_bytes(b"base")
    (drop / "yolo26n.pt.sha256").write_text(hashlib.sha256(b"base").hexdigest())
    base = base_model("yolo26n", store, timeout_s=5)
    listed = json.loads(home.run("models", "--json").stdout)["models"]
    assert [tuple(one.values()) for one in listed] == [
        ("yolo26n", "base", 4, f"sha256:{base.sha256}", None),
        ("mine", "file", 4, mine, None),
        ("acme/registry/yolo:v3#best.pt", "wandb", 4, mine, None),
    ]
    rows = home.run("models").stdout.splitlines()
    assert [row.split()[0] for row in rows] == ["MODEL", "yolo26n", "mine", "acme/registry/yolo:v3#best.pt"]
    assert base.sha256[:12] in rows[1]


def test_listing_imports_wandb_in_the_child_only(site: Site) -> None:
    """For the whole of a run: the SDK has no deadline and ignores Ctrl-C."""
    folder = site.home.path / "hook"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(_HOOK)
    imports = folder / "imports"
    with site.home.start(
        "models", "acme/registry/yolo", PYTHONPATH=str(folder), IMPORTS=str(imports), **site.env
    ) as process:
        _, stderr = process.communicate(timeout=90)
    assert process.returncode == 0, stderr
    pids = {int(line) for line in imports.read_text().split()}
    assert pids
    assert process.pid not in pids


def test_prune_asks(home: Home) -> None:
    """It names what would go; to decline is not a failure, and removes nothing."""
    sha256 = _stocked(home)
    refused = _answered(home, "n\n", "models", "--prune")
    assert refused.returncode == 0, refused.stderr
    assert b"nothing was removed" in refused.stdout
    assert sha256[:12] in refused.stdout.decode()
    assert b"would free" in refused.stdout
    assert len(Store(home.cache).list()) == 1
    agreed = _answered(home, "y\n", "models", "--prune")
    assert agreed.returncode == 0, agreed.stderr
    assert b"freed" in agreed.stdout
    assert Store(home.cache).list() == ()


def test_prune_as_json_says_only_that(home: Home) -> None:
    """Also where it asks first."""
    sha256 = _stocked(home)
    done = _answered(home, "y\n", "models", "--prune", "--json")
    assert json.loads(done.stdout) == {"schema": SCHEMA, "removed": [{"sha256": sha256, "size": 12}]}
    assert json.loads(home.run("models", "--prune", "--yes", "--json").stdout)["removed"] == []
    _stocked(home)
    assert json.loads(_answered(home, "n\n", "models", "--prune", "--json").stdout)["removed"] == []


def test_prune_without_a_terminal_needs_yes(home: Home) -> None:
    """Nobody can answer: exit 2, and what to write instead."""
    _stocked(home)
    done = home.run("models", "--prune")
    assert done.returncode == 2
    assert "try: `detectctl models --prune --yes`" in done.stderr
    assert len(Store(home.cache).list()) == 1
    assert home.run("models", "--prune", "--yes").returncode == 0
    assert Store(home.cache).list() == ()


class _Touch:
    """Unpickles to a file that says it was run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mknod, (str(self.path),)


@pytest.mark.cluster
def test_a_pickle_that_runs_code_is_refused_by_up(site: Site) -> None:
    """Exit 5 with the reason; it did not run, and nothing is left of the start."""
    sign = site.home.path / "it-ran"
    site.wandb.log("acme/registry/yolo", {"best.pt": pickle.dumps({"model": _Touch(sign)})})
    said = site.up(code=5)
    assert "was refused" in said
    assert "mknod" in said
    assert not sign.exists()
    assert site.home.instance() is None
    assert list(site.home.cache.rglob(".converting-*")) == []


def _marked(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == mark:
                found.append(process)
    return found


def test_an_interrupted_download_leaves_nothing(site: Site) -> None:
    """Ctrl-C while `up` waits for W&B's file host: exit 130, no process, no file."""
    site.wandb.fail("file", "hang")
    mark = uuid.uuid4().hex
    with site.home.start("up", "--model", "acme/registry/yolo:latest", **site.env, **{MARK: mark}) as process:
        wait_until(lambda: "file" in site.wandb.requests, timeout=60)
        assert len(_marked(mark)) >= 3  # the command, the child, wandb-core
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130, stderr
    wait_until(lambda: _marked(mark) == [], timeout=10)
    assert list((site.home.cache / "tmp").iterdir()) == []
    assert site.home.instance() is None
