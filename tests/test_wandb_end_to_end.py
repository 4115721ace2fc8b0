"""A model's way from the W&B registry into answers, and what happens when W&B is gone: the installed command."""

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

from installed import wait_until
from load import steady
from wandb_server import API_KEY
from wandb_site import WANTED

if TYPE_CHECKING:
    from wandb_site import Site

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_version_is_pinned_until_the_next_up(site: Site, bus_jpg: Path, yolov8n_pt: Path) -> None:
    """The alias moves; a killed replica's successor and one that autoscaling adds still serve the pinned version.

    Then `up` serves the new one; and with W&B gone, `up` keeps it, marked stale in every place.
    """
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
    with steady(site.url, bus_jpg.read_bytes(), clients=24):
        wait_until(lambda: len(site.pids()) == 2, timeout=120)
        seen = [site.model() for _ in range(40)]
    assert all(model == pinned for model in seen)

    assert site.up()["action"] == "updated"
    assert site.model()["version"] == "v1"
    assert "bus" in {item["class"] for item in site.detect(bus_jpg)["objects"]}
    rows = site.home.run("models", "acme/registry/yolo", **site.env).stdout.splitlines()
    assert [row.split()[0] for row in rows[1:]] == ["v1", "v0"]
    assert "default" in rows[1]
    assert "default" not in rows[2]

    before = site.pids()
    site.wandb.stop()
    kept = site.up("--model-timeout", "8")
    assert kept["model"]["version"] == "v1"
    assert kept["model"]["stale"] is True
    assert site.pids() == before, "a mark on the model is no reason to replace replicas"
    assert site.detect(bus_jpg)["model"]["stale"] is True
    status = site.home.json("status", "--json")["model"]
    assert status["stale"] is True
    assert status["reason"]
    assert site.up("--model-timeout", "8")["action"] == "unchanged"
    site.up("--no-fallback", "--model-timeout", "8", code=5)

    # The store emptied under a running instance: nothing is left but a worse model than the one that serves.
    for folder in ("checkpoints", "references"):
        shutil.rmtree(site.home.cache / folder)
    assert "error:" in site.up("--model-timeout", "8", code=5)
    assert site.pids() == before
    assert site.model()["version"] == "v1"
    _assert_the_key_is_nowhere(site)


def test_without_wandb_and_store_the_base_model_stands_in_visibly(site: Site, bus_jpg: Path) -> None:
    """Base YOLOv8n, marked fallback with the reason in `up`, `status`, `/info`, answers and pictures.

    `up` exits 8 as often as it is repeated, so that what comes after it in a script is not done; the service is left
    as it is from the second time on.
    """
    site.wandb.stop()
    waiting = ("--model-timeout", "8")
    assert "try:" in site.up("--no-fallback", *waiting, code=5)
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
