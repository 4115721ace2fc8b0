"""A model's way from the W&B registry into answers, `up --follow`, and what happens when W&B is gone.

The installed command against the stand-in registry. The first tests share one instance, in this order: each takes it as
the one before left it.
"""

from __future__ import annotations

import contextlib
import io
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import numpy as np
import psutil
import pytest
from PIL import Image

import tiers
from faults.scene import bent
from installed import Home, wait_until
from load import steady
from wandb_server import API_KEY, WandbServer
from wandb_site import WANTED, Site, following

if TYPE_CHECKING:
    from collections.abc import Iterator

    from detectctl.engine.compiled import CompiledModel

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(600)]

SOON = ("--model-timeout", "2")
"""Whatever W&B that is gone is found to be by then, what it last meant stands in."""


@pytest.fixture(scope="module")
def shared(
    tmp_path_factory: pytest.TempPathFactory, yolov8n_pt: Path, fall_pt: Path, converted: tuple[CompiledModel, ...]
) -> Iterator[Site]:
    """A site whose instance the tests share; its third version breaks when it is asked."""
    home = Home(tmp_path_factory.mktemp("shared"))
    home.seed(yolov8n_pt, *converted)
    with WandbServer() as wandb:
        wandb.log("acme/registry/yolo", {"best.pt": fall_pt})
        site = Site(home, wandb)
        site.env["PYTHONPATH"] = bent(home, _BREAKS)
        yield site
        assert home.clean() == []


def test_a_version_is_pinned_until_the_next_up(shared: Site, bus_jpg: Path, yolov8n_pt: Path) -> None:
    """The alias moves; a killed replica's successor and one that autoscaling adds still serve the pinned version.

    Then `up` serves the new one.
    """
    site = shared
    assert site.up()["action"] == "started"
    assert {item["class"] for item in site.detect(bus_jpg)["objects"]} <= {"Normal", "Fall"}
    pinned = site.model()
    assert (pinned["name"], pinned["version"], pinned["reference"]) == ("yolo", "v0", WANTED)

    site.wandb.log("acme/registry/yolo", {"best.pt": yolov8n_pt})
    (first,) = site.pids()
    psutil.Process(first).kill()
    wait_until(lambda: site.pids() and first not in site.pids(), timeout=90)
    wait_until(lambda: httpx.get(f"{site.url}/readyz", timeout=30).status_code == 200)
    assert site.model() == pinned
    if tiers.ALL:  # Serve starts both from one configuration, and takes its time before it adds one
        with steady(site.url, bus_jpg.read_bytes(), clients=24):
            wait_until(lambda: len(site.pids()) == 2, timeout=120)
        assert all(site.model() == pinned for _ in range(40))

    assert site.up()["action"] == "updated"
    assert site.model()["version"] == "v1"
    assert "bus" in {item["class"] for item in site.detect(bus_jpg)["objects"]}
    rows = site.home.run("models", "acme/registry/yolo", **site.env).stdout.splitlines()
    assert [row.split()[0] for row in rows[1:]] == ["v1", "v0"]
    assert "default" in rows[1]
    assert "default" not in rows[2]
    _assert_the_key_is_nowhere(site)


def test_following_rolls_to_good_versions_and_leaves_bad_ones(shared: Site, fall_pt: Path, bus_jpg: Path) -> None:
    """A version that does not load is told once, not retried, and the last good one serves; a good one is rolled out.

    If its requests begin to fail it is taken back. SIGTERM ends the watch, and the service goes on.
    """
    site = shared
    with following(site) as follower:
        assert "nothing to change" in follower.up_said()

        site.wandb.log("acme/registry/yolo", {"best.pt": b"no checkpoint at all"})
        follower.wait_for("was refused")
        _let_it_look(site)
        assert site.model()["version"] == "v1"
        told = site.home.json("status", "--json", code=4)
        assert told["state"] == "failed update"

        site.wandb.log("acme/registry/yolo", {"best.pt": fall_pt, "notes.txt": b"as v0, newly trained"})
        follower.wait_for("now serving yolo v3")
        answers = {httpx.post(f"{site.url}/detect", content=bus_jpg.read_bytes()).status_code for _ in range(6)}
        assert answers == {500}
        follower.wait_for("went back to yolo v1")
        assert "requests failed" in follower.said[-1]
        wait_until(lambda: site.model()["version"] == "v1")
        assert site.detect(bus_jpg)["status"] == "found"
        _let_it_look(site)
        assert site.model()["version"] == "v1", "a version that was taken back is not tried again"
        assert follower.end() == 0
    assert sum("was refused" in line for line in follower.said) == 1, follower.said
    assert site.home.json("status", "--json", code=4)["message"].startswith("acme/registry/yolo:latest: yolo v3")
    assert site.model()["version"] == "v1"


@pytest.mark.long  # as any other start and roll
def test_following_starts_again_what_died(shared: Site) -> None:
    """The head is killed: the service comes back by itself."""
    site = shared
    site.wandb.move_alias("acme/registry/yolo", "latest", "v1")
    with following(site) as follower:
        assert "nothing to change" in follower.up_said()
        state = site.home.instance()
        assert state is not None
        (head,) = [process for process in site.home.processes() if process.pid == state["head"]["pid"]]
        head.kill()
        follower.wait_for("now serving yolo v1")
        assert site.model()["version"] == "v1"
        assert follower.end() == 0


@pytest.mark.long  # tests/test_registry_resolve.py shows it without a service
def test_with_wandb_gone_the_last_version_serves_marked_stale(shared: Site, bus_jpg: Path) -> None:
    """In every place, and only until W&B is back; with `--down-on-exit` the service ends with who follows."""
    site = shared
    before = site.pids()
    site.wandb.stop()
    kept = site.up(*SOON)
    assert kept["model"]["version"] == "v1"
    assert kept["model"]["stale"] is True
    assert site.pids() == before, "a mark on the model is no reason to replace replicas"
    assert site.detect(bus_jpg)["model"]["stale"] is True
    status = site.home.json("status", "--json")["model"]
    assert status["stale"] is True
    assert status["reason"]
    assert site.up(*SOON)["action"] == "unchanged"
    site.up("--no-fallback", *SOON, code=5)

    # The store emptied under a running instance: nothing is left but a worse model than the one that serves.
    for folder in ("checkpoints", "references"):
        shutil.rmtree(site.home.cache / folder)
    assert "error:" in site.up(*SOON, code=5)
    assert site.pids() == before
    assert site.model()["version"] == "v1"

    site.wandb.come_back()
    with following(site, "--down-on-exit") as follower:
        assert follower.up_said().startswith("updated")
        assert site.model()["stale"] is False
        assert site.pids() == before
        assert follower.end() == 0
    assert site.home.instance() is None


def _let_it_look(site: Site, times: int = 2) -> None:
    """Return when it has asked W&B so many times more what the alias means."""
    asked = site.wandb.requests.count("artifact")
    wait_until(lambda: site.wandb.requests.count("artifact") >= asked + times, timeout=60)


_BREAKS = """
import importlib.util, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name != "detectctl.serving.admission":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        usual = spec.loader.exec_module
        def exec_module(module):
            usual(module)
            work = module.Turn._work
            def break_on_v3(self, *arguments):
                if self.service.config.model.version == "v3":
                    raise RuntimeError("v3 breaks on every image but that of its warm-up")
                return work(self, *arguments)
            module.Turn._work = break_on_v3
        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Finder())
"""
"""A fault that only requests show: v3 loads and warms up, and then fails."""


def test_without_wandb_and_store_the_base_model_stands_in_visibly(site: Site, bus_jpg: Path) -> None:
    """Base YOLOv8n, marked fallback with the reason in `up`, `status`, `/info`, answers and pictures.

    `up` exits 8 as often as it is repeated, so that what comes after it in a script is not done; the service is left
    as it is from the second time on. Once W&B is back, who follows rolls to what was wanted, until somebody takes the
    service down.
    """
    site.wandb.stop()
    waiting = ("--model-timeout", "5")  # the SDK takes some of it to start
    assert "try:" in site.up("--no-fallback", *SOON, code=5)
    assert site.home.instance() is None
    started = site.up(*waiting, code=8)
    assert (started["action"], started["model"]["fallback"]) == ("started", True)
    reason = started["model"]["reason"]
    assert reason
    for model in (site.model(), site.detect(bus_jpg)["model"], site.home.json("status", "--json")["model"]):
        assert (model["fallback"], model["reason"], model["name"]) == (True, reason, "yolov8n")
    assert "fallback" in site.home.run("status").stdout
    answer = httpx.post(f"{site.url}/annotate", content=bus_jpg.read_bytes(), timeout=30)
    local = site.home.path / "out.jpg"
    assert site.home.run("annotate", str(bus_jpg), "-o", str(local)).returncode == 0
    for drawn in (answer.content, local.read_bytes()):
        assert _has_caption(drawn, bus_jpg)

    before = site.pids()
    again = site.home.run("up", "--model", WANTED, *waiting, **site.env)
    assert again.returncode == 8
    assert "nothing to change" in again.stdout
    assert f"error: {WANTED} is not served: yolov8n stands in for it" in again.stderr
    assert again.stderr.count(reason) == 1
    assert site.pids() == before

    site.wandb.come_back()
    with following(site) as follower:
        assert follower.up_said().startswith("updated")
        assert site.model()["version"] == "v0"
        assert site.home.run("down").returncode == 0
        follower.wait_for("was taken down")
        assert follower.process.wait(30) == 0


def _has_caption(picture: bytes, original: Path) -> bool:
    """Whether the picture's last rows are covered from side to side."""
    with Image.open(io.BytesIO(picture)) as image, Image.open(original) as source:
        strip = np.asarray(image.convert("RGB"), np.int16)[-12:]
        bare = np.asarray(source.convert("RGB"), np.int16)[-12:]
    return bool((np.abs(strip - bare).max(axis=2) > 24).mean() > 0.8)


def _assert_the_key_is_nowhere(site: Site) -> None:
    """Not in the state, not in Ray's session with its logs, not in a process that the instance caused."""
    state = site.home.instance()
    assert state is not None
    key = API_KEY.encode()
    for folder in (site.home.state, site.home.cache, Path(state["temp_dir"])):
        for file in folder.rglob("*"):
            if file.is_file() and not file.is_symlink():
                assert key not in file.read_bytes(), file
    for process in site.home.processes():
        for what in ("environ", "cmdline"):
            with contextlib.suppress(FileNotFoundError):  # one that was idle may end meanwhile
                assert key not in (Path("/proc") / str(process.pid) / what).read_bytes(), process
