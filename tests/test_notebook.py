"""A result shows itself in a notebook: as a picture where that can be had, and always as a table."""

from __future__ import annotations

import base64
import io
import os
import pickle
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from bent_service import bent
from detectctl import Client, Detection, DetectionResult, ModelInfo

if TYPE_CHECKING:
    from pathlib import Path

BUS = {"class": "bus", "coordinates": [10.0, 5.0, 90.0, 45.0], "confidence": 0.8734, "class_id": 5}
MODEL = ModelInfo("yolo", "v3", "sha256:00")


def encoded(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


PICTURE = encoded(Image.new("RGB", (100, 50), "white"))


class Page(HTMLParser):
    """Its tags, attributes and text; every tag that is opened is closed again."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: dict[str, str | None] = {}
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= dict(attrs)
        if tag != "img":
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data + " "

    @property
    def image(self) -> Image.Image:
        kind, _, data = str(self.attributes["src"]).partition(",")
        assert kind == "data:image/jpeg;base64"
        return Image.open(io.BytesIO(base64.b64decode(data)))


def shown(result: DetectionResult) -> Page:
    return Page(result._repr_html_())


def detected(image: Any, **answer: Any) -> DetectionResult:
    with bent(lambda request: request.found(BUS, **answer)) as service, Client(service.url) as client:
        return client.detect(image)


@pytest.mark.parametrize("given", ["path", "bytes"])
def test_what_was_asked_about_by_path_or_bytes_is_shown_annotated(given: str, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PICTURE)
    page = shown(detected(tmp_path / "a.png" if given == "path" else PICTURE))
    assert page.image.size == (100, 50)
    assert page.image.convert("L").getpixel((10, 35)) < 200  # type: ignore[operator]
    assert page.attributes["alt"] == "bus"
    assert "bus 0.87 10.0 5.0 90.0 45.0" in " ".join(page.text.split())


def test_what_the_service_downloaded_is_a_table(tmp_path: Path) -> None:
    page = shown(detected("http://example.com/bus.jpg"))
    assert page.tags.count("table") == 1
    assert "img" not in page.tags


@pytest.mark.parametrize("change", ["overwritten", "touched", "gone"])
def test_a_file_that_is_not_what_it_was_is_not_drawn_on(change: str, tmp_path: Path) -> None:
    """Boxes must belong to the pixels under them."""
    path = tmp_path / "a.png"
    path.write_bytes(PICTURE)
    result = detected(path)
    if change == "overwritten":
        path.write_bytes(encoded(Image.new("RGB", (100, 50), "black")))
    elif change == "touched":
        os.utime(path, ns=(1, 1))
    else:
        path.unlink()
    page = shown(result)
    assert "img" not in page.tags
    assert "no picture: " in page.text
    assert "bus" in page.text


def test_a_picture_of_another_size_is_not_drawn_on() -> None:
    assert "img" not in shown(detected(PICTURE, width=50, height=100)).tags


def test_a_pipe_is_read_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = os.open(tmp_path / "pipe", os.O_RDWR)
    try:
        os.write(writer, PICTURE)
        from detectctl.sources import Source

        assert Source.of(tmp_path / "pipe").again() is None
    finally:
        os.close(writer)


def test_text_of_others_is_text() -> None:
    evil = '<script>alert("1")</script>&amp;'
    model = replace(MODEL, name=evil, version=evil, fallback=True, reason=evil)
    result = DetectionResult((Detection(evil, (0, 0, 9, 9), 0.5, 1),), 10, 10, model, read_image=lambda: PICTURE)
    assert result._repr_html_().count("<script") == 0
    page = shown(replace(result, width=100, height=50))
    assert page.text.count(evil) == 4
    assert page.attributes["alt"] == evil
    assert "fallback: " in page.text


def test_a_stale_model_is_called_so_and_nothing_found_is_said() -> None:
    text = shown(DetectionResult((), 10, 10, replace(MODEL, stale=True, reason="W&B is away"))).text
    assert "stale: W&B is away" in text
    assert "nothing found" in text


def test_classes_of_a_whole_picture_have_no_box() -> None:
    result = DetectionResult((Detection("cat", (0, 0, 9, 9), 0.5, 1),), 10, 10, replace(MODEL, task="classify"))
    assert re.sub(r"\s+", " ", shown(result).text).endswith("class confidence cat 0.50 ")


def test_what_is_shown_of_many_objects_in_a_large_picture_is_bounded() -> None:
    """Notebooks are stored with what they show."""
    noise = Image.effect_noise((900, 1200), 90).convert("RGB")
    found = tuple(Detection(f"class {number}", (0, 0, 99, 99), 0.5, number) for number in range(300))
    data = encoded(noise)
    result = DetectionResult(found, 900, 1200, MODEL, read_image=lambda: data)
    html = result._repr_html_()
    assert len(html) < 1_500_000
    page = Page(html)
    assert page.image.size == (600, 800)
    assert page.tags.count("tr") == 21
    assert "and 280 more" in page.text


def test_a_result_still_equals_its_like_and_travels_between_processes(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PICTURE)
    result = detected(tmp_path / "a.png")
    assert result == DetectionResult.from_json(dict(result.to_json()))
    assert hash(result) == hash(DetectionResult.from_json(dict(result.to_json())))
    assert "read_image" not in repr(result)
    travelled = pickle.loads(pickle.dumps(result))  # noqa: S301 - our own
    assert travelled.read_image() == PICTURE
