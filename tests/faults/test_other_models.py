"""The faults of `test_kills` and a failed update, with a model that segments and one of YOLO26."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import cv2
import httpx
import pytest

import shapes
from faults import scene
from faults.test_kills import (  # noqa: F401 - pytest collects them here, with the services of this file
    test_a_killed_head_is_seen_and_replaced,
    test_a_killed_ingress_comes_back,
    test_a_killed_replica_costs_what_it_had_in_hand,
)
from faults.test_updates import test_a_model_that_does_not_load_leaves_the_old_one_serving  # noqa: F401
from installed import Home
from train_checkpoints import FOLDER

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from detectctl.engine.compiled import CompiledModel

# Long because what happens to YOLOv8n is tested always.
pytestmark = [pytest.mark.cluster, pytest.mark.long, pytest.mark.timeout(600)]

KEYS = {"v8-seg": {"mask"}, "26": set[str]()}
"""Models, and what their objects have beside those of a model that detects."""


@pytest.fixture(scope="module", params=KEYS)
def running(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    yolov8n_pt: Path,
    converted: tuple[CompiledModel, ...],
) -> Iterator[scene.Scene]:
    """A service of one replica with that model, for all tests of this file."""
    home = Home(tmp_path_factory.mktemp("faults"))
    home.seed(yolov8n_pt, *converted)
    picture = home.path / "shapes.png"
    cv2.imwrite(str(picture), next(iter(shapes.pictures("segment")))[0])
    model = ("--model", str(FOLDER / f"{request.param}.pt"))
    with scene.serving(home, picture, "HAProxy", *model) as found:
        yield found


def test_it_answers_as_its_kind_does_after_all_that(running: scene.Scene) -> None:
    answer = httpx.post(f"{running.service.url}/detect", content=running.image.read_bytes(), timeout=30).json()
    assert answer["objects"]
    expected = KEYS[answer["model"]["name"]] | {"class", "coordinates", "confidence", "class_id"}
    assert {frozenset(one) for one in answer["objects"]} == {frozenset(expected)}
    status = json.loads(running.service.home.run("status", "--json").stdout)
    assert (status["state"], status["model"]["name"]) == ("running", answer["model"]["name"])
