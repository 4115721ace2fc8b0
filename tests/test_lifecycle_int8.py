"""`up --precision int8`: what the command refuses, and that a running service rolls to it and reports its agreement."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest

from installed import free_port

if TYPE_CHECKING:
    from pathlib import Path

    from detectctl.engine.compiled import CompiledModel
    from installed import Home


pytestmark = pytest.mark.slow


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
@pytest.mark.long  # calibration; the update itself is that of any other setting
def test_a_running_service_rolls_to_int8_and_reports_its_agreement(
    home: Home,
    yolov8n_pt: Path,
    yolov8n_int8: CompiledModel,
    eight_folder: Path,
    bus_jpg: Path,
) -> None:
    """The agreement is in `up`, `status` and `/info`; with nothing changed there is nothing to change."""
    home.seed(yolov8n_pt, yolov8n_int8)  # as an earlier `up` would have left it
    port = str(free_port())
    first = home.json("up", "--port", port, "--replicas", "1", "--json")
    assert first["engine"]["precision"] != "int8"
    assert first["engine"]["agreement"] is None

    wish = ("up", "--port", port, "--replicas", "1", "--precision", "int8", "--calibrate", str(eight_folder))
    assert yolov8n_int8.agreement is not None
    assert yolov8n_int8.agreement.loss > 0, "these photographs no longer show what int8 costs: choose others"
    refused = home.run(*wish, "--max-int8-loss", "0")
    assert refused.returncode == 5, refused.stderr
    assert "differs too much from fp32" in refused.stderr
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
