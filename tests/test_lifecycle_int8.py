"""`up --precision int8`: what it refuses, what it says, and that a running service rolls to it."""

from __future__ import annotations

import importlib.util
import os
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import httpx
import pytest

from detectctl.engine.int8.calibration import choose
from detectctl.errors import ModelError, UsageError
from detectctl.lifecycle import int8
from detectctl.paths import Paths
from detectctl.settings import UpSettings
from detectctl.wire import Agreement
from installed import free_port

if TYPE_CHECKING:
    from pathlib import Path

    from detectctl.engine.compiled import CompiledModel
    from detectctl.progress import Progress
    from installed import Home


def test_int8_is_refused_without_images_and_on_a_gpu(eight_folder: Path) -> None:
    reported: list[Progress] = []
    with pytest.raises(UsageError, match="needs images") as caught:
        int8.prepare(UpSettings(precision="int8"), "cpu", reported.append)
    assert caught.value.hint is not None
    assert "--calibrate DIR" in caught.value.hint
    settings = UpSettings(precision="int8", calibrate=eight_folder)
    with pytest.raises(UsageError, match="cuda"):
        int8.prepare(settings, "cuda", reported.append)
    assert int8.prepare(settings, "cpu", reported.append) == choose(eight_folder)
    assert reported == []


def test_without_nncf_the_error_says_what_to_install(eight_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "nncf" else find(name, *rest))
    with pytest.raises(UsageError, match="NNCF") as caught:
        int8.prepare(UpSettings(precision="int8", calibrate=eight_folder), "cpu", lambda _: None)
    assert "nncf" in str(caught.value.hint)


def test_images_for_another_precision_are_said_to_be_of_no_use(eight_folder: Path) -> None:
    reported: list[Progress] = []
    assert int8.prepare(UpSettings(calibrate=eight_folder), "cpu", reported.append) is None
    (told,) = reported
    assert told.warning
    assert "not auto" in told.message


@pytest.mark.parametrize(("recall", "precision"), [(0.7, 1.0), (1.0, 0.7)])
def test_too_far_from_fp32_is_an_error_that_says_how_far(
    yolov8n_compiled: CompiledModel,
    yolov8n_int8: CompiledModel,
    eight_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    recall: float,
    precision: float,
) -> None:
    """Lost boxes count, and boxes that are made up; at the limit it is let through."""
    poor = Agreement(8, 2, 10, 10, recall, precision, 0.9, 0.2)
    monkeypatch.setattr(int8, "quantise", lambda *_, **__: replace(yolov8n_int8, agreement=poor))
    reported: list[Progress] = []

    def quantised(most: float) -> CompiledModel:
        settings = UpSettings(precision="int8", calibrate=eight_folder, max_int8_loss=most)
        images = choose(eight_folder)
        paths = Paths.from_environ(os.environ)
        return int8.quantised(yolov8n_compiled, images, settings, paths, os.environ, 9, reported.append, "mine")

    with pytest.raises(ModelError, match="mine: it differs in 30% of the boxes") as caught:
        quantised(0.29)
    assert caught.value.why is not None
    assert "allows 29%" in caught.value.why
    assert caught.value.hint is not None
    assert "--max-int8-loss" in caught.value.hint
    assert not any(progress.done for progress in reported)
    assert quantised(0.31).agreement == poor
    assert [progress.message for progress in reported if progress.done] == [f"{poor}; 2 skipped"]


def test_the_command_refuses_before_it_starts_anything(home: Home, tmp_path: Path) -> None:
    """Exit 2, the option to add, and no process or folder of an instance."""
    (tmp_path / "empty").mkdir()
    for arguments, words in (
        (["--precision", "int8"], "--calibrate DIR"),
        (["--precision", "int8", "--calibrate", str(tmp_path / "empty")], "image's suffix"),
        (["--precision", "int8", "--calibrate", str(tmp_path), "--device", "cuda"], "cuda"),
    ):
        done = home.run("up", "--port", str(free_port()), *arguments)
        assert done.returncode == 2, done.stderr
        assert words in done.stderr
    assert home.instance() is None


@pytest.mark.cluster
def test_a_running_service_rolls_to_int8_and_says_how_far_it_is(
    home: Home,
    yolov8n_compiled: CompiledModel,
    yolov8n_int8: CompiledModel,
    eight_folder: Path,
    bus_jpg: Path,
) -> None:
    """The agreement is in `up`, `status` and `/info`; with nothing changed there is nothing to change."""
    kept = yolov8n_compiled.directory.parent
    for folder in kept.iterdir():  # as an earlier `up` would have left them
        if folder in {yolov8n_compiled.directory, yolov8n_int8.directory}:
            shutil.copytree(folder, home.cache / "compiled" / folder.name)
    port = str(free_port())
    first = home.json("up", "--port", port, "--replicas", "1", "--json")
    assert first["engine"]["precision"] != "int8"
    assert first["engine"]["agreement"] is None

    wish = ("up", "--port", port, "--replicas", "1", "--precision", "int8", "--calibrate", str(eight_folder))
    refused = home.run(*wish, "--max-int8-loss", "0")
    if yolov8n_int8.agreement is not None and yolov8n_int8.agreement.loss > 0:
        assert refused.returncode == 5, refused.stderr
        assert "too far from fp32" in refused.stderr
    rolled = home.run(*wish, "--max-int8-loss", "0.25")
    assert rolled.returncode == 0, rolled.stderr
    assert str(yolov8n_int8.agreement) in rolled.stderr
    again = home.json(*wish, "--max-int8-loss", "0.25", "--json")
    assert again["action"] == "unchanged"
    assert again["engine"]["precision"] == "int8"
    told = again["engine"]["agreement"]
    assert told["images"] == 8
    assert home.json("status", "--json")["engine"]["agreement"] == told
    assert "int8 on cpu" in home.run("status").stdout
    url = f"http://127.0.0.1:{port}"
    assert httpx.get(f"{url}/info", timeout=30).json()["engine"]["agreement"] == told
    answer = httpx.post(f"{url}/detect", content=bus_jpg.read_bytes(), timeout=30).json()
    assert {item["class"] for item in answer["objects"] if item["confidence"] > 0.5} == {"bus", "person"}
