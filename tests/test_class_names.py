"""Classes are asked for and answered by the names that the model gives them, whatever these are."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from PIL import Image

from detectctl.engine.compiled import seal
from served import served

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from detectctl.engine.compiled import CompiledModel

PERSON, BUS = 0, 5
"""Class ids of what is in the picture."""
DOUBLED = 'человек "三角形" 👩\u200d🚒, e\u0301&=?#%'
NAMES: dict[str, dict[int, str]] = {
    "doubled": {PERSON: DOUBLED, BUS: DOUBLED, 7: DOUBLED},
    "empty": {PERSON: "", BUS: " ", 7: "قضيب"},
}


def renamed(model: CompiledModel, folder: Path, names: dict[int, str]) -> CompiledModel:
    """The model with other names for some of its classes."""
    for path in model.directory.iterdir():
        if path.name != "manifest.json":
            (folder / path.name).symlink_to(path)
    copy = replace(model, directory=folder, trained=replace(model.trained, labels=model.trained.labels | names))
    seal(copy)
    return copy


@pytest.fixture(scope="module", params=NAMES)
def service(
    request: pytest.FixtureRequest, yolov8n_compiled: CompiledModel, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, dict[int, str]]]:
    """Its address, and the names of some of its classes."""
    names = NAMES[request.param]
    with served(renamed(yolov8n_compiled, tmp_path_factory.mktemp("renamed"), names), imgsz=640) as port:
        yield f"http://127.0.0.1:{port}", names


def detectctl(*arguments: str) -> str:
    command = [sys.executable, "-m", "detectctl", *arguments]
    result = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=60, check=True)
    return result.stdout


def ids(objects: list[dict[str, Any]], key: str = "class_id") -> set[int]:
    return {int(one[key]) for one in objects}


def wanted(names: dict[int, str], name: str) -> set[int]:
    return {class_id for class_id in (PERSON, BUS) if names[class_id] == name}


@pytest.mark.parametrize("class_id", [PERSON, BUS])
def test_a_query_picks_every_class_of_that_name(
    service: tuple[str, dict[int, str]], bus_jpg: Path, class_id: int
) -> None:
    """Two may have the same, and are told apart by their ids; one may have none, and be asked for by that."""
    url, names = service
    content, query = bus_jpg.read_bytes(), {"class": names[class_id]}
    everything = httpx.post(f"{url}/detect", content=content, trust_env=False).json()["objects"]
    assert ids(everything) >= {PERSON, BUS}
    found = httpx.post(f"{url}/detect", params=query, content=content, trust_env=False).json()["objects"]
    assert {one["class"] for one in found} == {names[class_id]}
    assert ids(found) == wanted(names, names[class_id])
    assert found == [one for one in everything if one["class"] == names[class_id]]
    drawn = httpx.post(f"{url}/annotate", params=query, content=content, trust_env=False)
    with Image.open(io.BytesIO(drawn.content)) as picture, Image.open(bus_jpg) as source:
        assert picture.size == source.size


def test_the_description_lists_each_name_once(service: tuple[str, dict[int, str]]) -> None:
    """An enumeration with a value twice would not be valid JSON Schema."""
    url, names = service
    paths = httpx.get(f"{url}/openapi.json", trust_env=False).json()["paths"]
    (parameter,) = (one for one in paths["/detect"]["post"]["parameters"] if one["name"] == "class")
    listed = parameter["schema"]["items"]["enum"]
    assert len(listed) == len(set(listed))
    assert set(names.values()) <= set(listed)
    classes = httpx.get(f"{url}/info", trust_env=False).json()["classes"]
    assert len(classes) == 80
    assert {classes[str(class_id)] for class_id in names} == set(names.values())


@pytest.mark.parametrize("class_id", [PERSON, BUS])
def test_the_command_line_passes_names_on_and_writes_them_as_they_are(
    service: tuple[str, dict[int, str]], bus_jpg: Path, class_id: int
) -> None:
    url, names = service
    name = names[class_id]
    asked = ("detect", str(bus_jpg), "--url", url, "--class", name)
    rows = list(csv.DictReader(io.StringIO(detectctl(*asked, "--format", "csv"))))
    assert {row["class"] for row in rows} == {name}
    assert ids(rows) == wanted(names, name)
    coco = json.loads(detectctl(*asked, "--format", "coco"))
    assert ids(coco["annotations"], "category_id") == wanted(names, name)
    categories = {one["id"]: one["name"] for one in coco["categories"]}
    assert len(categories) == 80
    assert {categories[one] for one in wanted(names, name)} == {name}
    assert "0.8" in detectctl(*asked, "--format", "table")
