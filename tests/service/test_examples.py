"""Every example does what it says, run as a user would, against a real instance."""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image, ImageChops
from pycocotools.coco import COCO

from detectctl import precedence, settings
from installed import DETECTCTL, Home, Service, free_port

if TYPE_CHECKING:
    from collections.abc import Sequence

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(arguments: Sequence[object], env: dict[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(argument) for argument in arguments],
        env=env, cwd=folder, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip


@pytest.mark.cluster
def test_detect_and_draw_saves_the_photograph_with_boxes(
    service: Service, photo_server: str, bus_jpg: Path, tmp_path: Path
) -> None:
    script = [sys.executable, EXAMPLES / "detect_and_draw.py", f"{photo_server}/bus.jpg", "bus.png", service.url]
    done = run(script, service.env, tmp_path)
    assert done.returncode == 0, done.stderr
    *found, total = done.stdout.splitlines()
    assert total == f"{len(found)} objects: bus.png"
    assert len(found) >= 4
    assert any(line.startswith("bus 0.") for line in found)
    with Image.open(tmp_path / "bus.png") as drawn, Image.open(bus_jpg) as photo:
        difference = ImageChops.difference(drawn, photo)
    assert difference.crop((18, 226, 30, 760)).getbbox() is not None  # the bus' left side
    assert difference.crop((300, 0, 800, 200)).getbbox() is None  # nothing is up there


@pytest.mark.cluster
def test_folder_to_coco_writes_a_data_set_of_all_that_could_be_read(
    service: Service, bus_jpg: Path, zidane_jpg: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    (folder / "below").mkdir(parents=True)
    shutil.copy(bus_jpg, folder)
    shutil.copy(zidane_jpg, folder / "below")
    env = service.env | {"DETECTCTL_URL": service.url}
    done = run([EXAMPLES / "folder_to_coco.sh", folder, "coco.json"], env, tmp_path)
    assert done.returncode == 0, done.stderr
    coco = COCO(str(tmp_path / "coco.json"))
    assert [image["file_name"] for image in coco.dataset["images"]] == [
        f"{folder}/bus.jpg", f"{folder}/below/zidane.jpg",
    ]  # fmt: skip
    (bus,) = coco.loadAnns(coco.getAnnIds(imgIds=[1], catIds=coco.getCatIds(catNms=["bus"])))
    assert bus["bbox"] == pytest.approx([22.9, 231.3, 782.1, 525.5], abs=8)
    (folder / "broken.jpg").write_bytes(b"not an image")
    done = run([EXAMPLES / "folder_to_coco.sh", folder, "coco.json"], env, tmp_path)
    assert done.returncode == 6
    data = json.loads((tmp_path / "coco.json").read_text())
    assert len(data["images"]) == 2
    assert [error["code"] for error in data["info"]["errors"]] == ["unsupported_image"]


@pytest.mark.parametrize("command", ["up", "detect", "annotate", "status", "down"])
def test_the_settings_file_is_one_that_every_command_takes_and_states_the_defaults(command: str) -> None:
    """So that whoever begins with a copy of it changes nothing by that."""
    kind = settings.COMMANDS[command]
    loaded, origins = precedence.Sources.read({}, EXAMPLES / "detectctl.toml").load(kind, {})
    assert loaded == kind()
    assert any("detectctl.toml" in origin for origin in origins.values())


@pytest.mark.cluster
@pytest.mark.long  # starts and updates that other tests look at more closely
def test_the_units_commands_start_reload_and_stop_the_service(home: Home) -> None:
    """ExecStart, ExecReload and ExecStop as systemd would run them, but for paths, and a port that is free."""
    unit = configparser.RawConfigParser()
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(EXAMPLES / "detectctl.service")
    assert (unit["Service"]["Type"], unit["Service"]["RemainAfterExit"]) == ("oneshot", "yes")
    env = home.env | {"DETECTCTL_PORT": str(free_port())}

    def execute(key: str) -> subprocess.CompletedProcess[str]:
        words = shlex.split(unit["Service"][key])
        assert words[:3] == ["/opt/detectctl/bin/detectctl", "--config", "/etc/detectctl/detectctl.toml"]
        return run([DETECTCTL, "--config", EXAMPLES / "detectctl.toml", *words[3:]], env, home.path)

    started = execute("ExecStart")
    assert started.returncode == 0, started.stderr
    before = {process.pid for process in home.processes()}
    assert before
    reloaded = execute("ExecReload")
    assert reloaded.returncode == 0, reloaded.stderr
    assert home.run("status", "--json").returncode == 0
    stopped = execute("ExecStop")
    assert stopped.returncode == 0, stopped.stderr
    assert home.processes() == []


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed here")
def test_the_unit_is_one_that_systemd_understands(tmp_path: Path) -> None:
    program = tmp_path / "detectctl"
    program.symlink_to(DETECTCTL)
    text = (EXAMPLES / "detectctl.service").read_text().replace("/opt/detectctl/bin/detectctl", str(program))
    (tmp_path / "detectctl.service").write_text(text)
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    done = run(["systemd-analyze", "verify", "--man=no", tmp_path / "detectctl.service"], env, tmp_path)
    complaints = [line for line in done.stderr.splitlines() if "detectctl.service" in line]
    assert complaints == []


@pytest.mark.cluster
def test_the_demo_shows_the_whole_way() -> None:
    """`make demo`, but for the installation: five commands, pictures with boxes, and nothing left running."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("DETECTCTL_")}
    done = run([sys.executable, EXAMPLES / "demo.py"], env, EXAMPLES)
    assert done.returncode == 0, done.stderr
    assert re.findall(r"^\$ detectctl (\w+)", done.stdout, re.MULTILINE) == [
        "up",
        "detect",
        "annotate",
        "status",
        "down",
    ]
    pictures = Path(done.stdout.strip().splitlines()[-1].removeprefix("The annotated pictures are in "))
    for name in ("bus.jpg", "zidane.jpg"):
        with Image.open(pictures / name) as picture:
            picture.load()
    assert not list((pictures.parent / "state" / "detectctl").glob("*/instance.json"))


def test_every_example_is_tested_here() -> None:
    names = {path.name for path in EXAMPLES.iterdir() if path.is_file() and path.suffix != ".md"}
    assert names == {"demo.py", "detect_and_draw.py", "detectctl.service", "detectctl.toml", "folder_to_coco.sh"}
