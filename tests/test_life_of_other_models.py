"""A model that segments and one of YOLO26 live as YOLOv8 does: keys, follow, an update, a killed replica, an export."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import cv2
import httpx
import numpy as np
import psutil
import pytest

import shapes
from detectctl.files import sha256_of
from installed import Home, wait_until
from load import steady
from test_engine_exported import ONNX
from train_checkpoints import FOLDER
from wandb_server import WandbServer
from wandb_site import Site, following

if TYPE_CHECKING:
    from pathlib import Path

# Long because YOLOv8n goes the same way in tests that are not.
pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(600)]


def test_a_segment_and_a_yolo26_model_live_as_others_do(tmp_path: Path) -> None:
    picture = tmp_path / "shapes.png"
    cv2.imwrite(str(picture), next(iter(shapes.pictures("segment")))[0])
    (tmp_path / "home").mkdir()
    home = Home(tmp_path / "home")
    with WandbServer() as wandb:
        wandb.log("acme/registry/yolo", {"best.pt": FOLDER / "v8-seg.pt"})
        site = Site(home, wandb)
        del site.env["DETECTCTL_IMGSZ"]  # as they were trained
        try:
            _life(site, picture)
        finally:
            assert home.clean() == []


def _life(site: Site, picture: Path) -> None:
    home = site.home
    started = site.up("--replicas", "1")
    assert (started["model"]["version"], started["model"]["task"]) == ("v0", "segment")
    found = site.detect(picture)
    assert found["objects"]
    assert all(len(part) >= 6 for one in found["objects"] for part in one["mask"])
    assert home.json("status", "--json")["model"]["task"] == "segment"

    command = ("detect", str(picture), "--url", site.url, "--format", "coco")
    coco = json.loads(home.run(*command).stdout)
    assert [one["segmentation"] for one in coco["annotations"]] == [one["mask"] for one in found["objects"]]
    drawn = picture.parent / "drawn.png"
    assert home.run("annotate", str(picture), "--url", site.url, "-o", str(drawn)).returncode == 0
    assert not np.array_equal(np.array(cv2.imread(str(drawn))), np.array(cv2.imread(str(picture))))

    with following(site, "--replicas", "1") as follower, steady(site.url, picture.read_bytes()) as load:
        assert "nothing to change" in follower.up_said()
        load.wait_for(8)
        site.wandb.log("acme/registry/yolo", {"best.pt": FOLDER / "26.pt"})
        follower.wait_for("now serving yolo v1")
        wait_until(lambda: site.model()["task"] == "detect")
        load.wait_for(8)
        assert follower.end() == 0
    assert load.failed == [], load.outcomes()
    answers = [json.loads(one.body) for one in load.sent]
    assert {answer["model"]["version"] for answer in answers} == {"v0", "v1"}
    for answer in answers:  # none mixes two models
        masked = {"mask" in one for one in answer["objects"]}
        assert masked == {answer["model"]["task"] == "segment"}

    (first,) = site.pids()
    psutil.Process(first).kill()
    wait_until(lambda: site.pids() and first not in site.pids(), timeout=90)
    wait_until(lambda: httpx.get(f"{site.url}/readyz", timeout=30).status_code == 200)
    assert site.model()["version"] == "v1"
    assert site.detect(picture) == answers[-1]

    key = picture.parent / "keys"
    key.write_text("a-key-of-a-client-0123456789\n")
    key.chmod(0o600)
    assert site.up("--replicas", "1", "--api-key-file", str(key))["action"] == "updated"
    assert httpx.post(f"{site.url}/detect", content=picture.read_bytes()).status_code == 401
    headers = {"X-API-Key": key.read_text().strip()}
    asked = httpx.post(f"{site.url}/detect", content=picture.read_bytes(), headers=headers)
    assert asked.json()["objects"] == answers[-1]["objects"]

    site.wandb.log("acme/registry/yolo", {"best.onnx": ONNX})
    exported = site.up("--replicas", "1", "--api-key-file", str(key))["model"]
    assert (exported["version"], exported["digest"]) == ("v2", f"sha256:{sha256_of(ONNX)}")
    asked = httpx.post(f"{site.url}/detect", content=picture.read_bytes(), headers=headers)
    assert {one["class"] for one in asked.json()["objects"]} == {one["class"] for one in answers[-1]["objects"]}
