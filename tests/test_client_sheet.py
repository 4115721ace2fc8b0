"""One sheet of many results: what is in a cell stays there, and what failed is seen."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image, ImageChops

from bent_service import Request, bent
from detectctl.client.outputs import annotate_all, sheet_file, short_name
from detectctl.client.service_client import Client
from detectctl.client.sheet import MOST_CELLS, Sheet
from detectctl.errors import NotRunning, SourceUnreadable, UsageError
from detectctl.sources import Source, resolve

if TYPE_CHECKING:
    from collections.abc import Sequence

BUS = {"class": "bus", "coordinates": [10.0, 5.0, 90.0, 45.0], "confidence": 0.8734, "class_id": 5}
GROUND = (24, 24, 24)


def encoded(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def picture(size: tuple[int, int] = (100, 50), colour: str = "white") -> Image.Image:
    return Image.new("RGB", size, colour)


def changed(sheet: Sheet) -> tuple[int, int, int, int]:
    area = ImageChops.difference(sheet.image, Image.new("RGB", sheet.image.size, GROUND)).getbbox()
    assert area is not None
    return area


@pytest.mark.parametrize("count", [1, 2, 3, 5, 9, 12, 400, MOST_CELLS])
def test_a_sheet_has_a_cell_for_each_and_takes_a_bounded_memory(count: int) -> None:
    """Filling every cell makes no two meet, leaves none over, and the gap at the edge free."""
    sheet = Sheet(count)
    width, height = sheet.image.size
    assert width * height * 3 < 64e6
    assert width <= 4096
    assert min(sheet.cell) >= 90
    for number in range(count):
        sheet.put(number, picture(sheet.cell), "")
    histogram = sheet.image.convert("L").histogram()
    assert histogram[255] == count * sheet.cell[0] * sheet.cell[1]
    assert changed(sheet)[:3] == (4, 4, width - 4)


NAMES = [
    "x" * 5000, "ein langer name " * 40 + ".jpg", "чел 三角形 قضيب.jpg", "\u202egpj.exe", "a\nb\0c\x1b[31m.jpg",
    "👩\u200d🚒.jpg", "e\u0301" * 300, "", " ",
]  # fmt: skip


@pytest.mark.parametrize("count", [1, MOST_CELLS])
@pytest.mark.parametrize("name", NAMES)
def test_a_name_stays_in_its_cell(name: str, count: int) -> None:
    sheet, blank = Sheet(count), Sheet(count)
    sheet.put(0, picture((1, 1), "black"), name)
    blank.put(0, picture((1, 1), "black"), "")
    area = ImageChops.difference(sheet.image, blank.image).getbbox()
    assert bool(area) == bool(name.strip())
    if area:
        left, top, right, bottom = area
        assert left >= 4
        assert top >= sheet.cell[1]
        assert right <= 4 + sheet.cell[0]
        assert bottom <= (sheet.image.height - 4) // round(count**0.5)


def test_of_a_long_name_the_end_is_shown() -> None:
    long, other, same = (Sheet(1) for _ in range(3))
    for sheet, name in (
        (long, "photo-" * 50 + "1.jpg"),
        (other, "photo-" * 50 + "2.jpg"),
        (same, "photo-" * 60 + "1.jpg"),
    ):
        sheet.put(0, picture(), name)
    assert long.image.tobytes() == same.image.tobytes()
    assert long.image.tobytes() != other.image.tobytes()


@pytest.mark.parametrize("size", [(1, 480), (640, 1), (3, 3)])
def test_a_damaged_colour_profile_and_a_thin_picture_are_no_failure(size: tuple[int, int]) -> None:
    thin = picture(size)
    thin.info["icc_profile"] = b"damaged"
    sheet = Sheet(1)
    sheet.put(0, thin, "")
    assert sheet.image.convert("L").histogram()[255] == size[0] * size[1]


def draw_sheet(sources: Sequence[Source], path: Path, url: str) -> tuple[Image.Image, int]:
    plan: list[Path | None] = [None] * len(sources)
    with Client(url, retries=0) as client, sheet_file(sources, plan, path, 90) as sheet:
        outcomes = annotate_all(client, zip(sources, plan, strict=True), sheet=sheet)
        assert [outcome.source for outcome in outcomes] == list(sources)
    with Image.open(path) as drawn:
        drawn.load()
    return drawn, outcomes.exit_code


def centre(sheet: Image.Image, number: int, columns: int = 2) -> tuple[int, ...]:
    """Of the cell's picture."""
    row, column = divmod(number, columns)
    pixel = sheet.convert("RGB").getpixel((4 + column * 644 + 320, 4 + row * (480 + 40 + 4) + 300))
    assert isinstance(pixel, tuple)
    return pixel


def test_each_source_has_its_cell_also_one_that_failed_and_one_that_the_service_drew(tmp_path: Path) -> None:
    def answer(request: Request) -> None:
        if request.path == "/annotate":
            request.answer(200, encoded(picture(colour="blue")), Content_Type="image/jpeg")
        elif b"torn" in request.body:
            request.fail(415, "unsupported_image")
        else:
            request.found(BUS)

    (tmp_path / "torn.jpg").write_bytes(b"\xff\xd8torn")
    (tmp_path / "good.png").write_bytes(encoded(picture()))
    names = [str(tmp_path / "good.png"), str(tmp_path / "torn.jpg"), "http://h/a.jpg", "missing.jpg"]
    with bent(answer) as service:
        sheet, code = draw_sheet(list(resolve(names)), tmp_path / "sheet.webp", service.url)
    assert code == 6
    assert sheet.format == "WEBP"
    good, torn, drawn, missing = (centre(sheet, number) for number in range(4))
    assert min(good) > 240
    assert drawn[2] > 240
    assert drawn[0] < 20
    for red, green, blue in (torn, missing):
        assert 90 < red < 130
        assert max(green, blue) < 50


def test_what_ends_the_work_leaves_no_sheet(tmp_path: Path, closed_port: int) -> None:
    with pytest.raises(NotRunning):
        draw_sheet([Source("-", data=encoded(picture()))], tmp_path / "sheet.jpg", f"http://127.0.0.1:{closed_port}")
    assert list(tmp_path.iterdir()) == []


def refused(sources: Sequence[Source], outputs: Sequence[Path | None], path: Path) -> str:
    """Before any request, and with nothing written."""
    with pytest.raises(UsageError) as caught, sheet_file(sources, outputs, path, 90):
        raise AssertionError("the work began")
    return caught.value.what_and_why


def test_neither_a_source_nor_an_output_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    (tmp_path / "same.jpg").symlink_to("a.jpg")
    sources = [Source("b.jpg", path=tmp_path / "b.jpg"), Source("a.jpg", path=tmp_path / "a.jpg")]
    assert refused(sources, [None, None], tmp_path / "same.jpg").endswith("overwritten: it is one of the sources")
    assert refused(sources, [tmp_path / "c.jpg", None], tmp_path / "c.jpg").endswith("`-o` writes there, too")
    assert (tmp_path / "a.jpg").read_bytes() == b""


def test_more_than_a_sheet_holds_what_is_no_image_and_a_closed_place_are_refused_at_once(tmp_path: Path) -> None:
    source = Source("-", data=b"")
    assert "images do not fit on one sheet" in refused([source] * (MOST_CELLS + 1), [], tmp_path / "a.jpg")
    assert "cannot be written as an image" in refused([source], [None], tmp_path / "a.gif")
    (tmp_path / "file").touch()
    assert "a.jpg cannot be written: " in refused([source], [None], tmp_path / "file" / "a.jpg")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_cell_is_called_what_tells_it_from_others_and_gives_no_secret_away() -> None:
    sources = {
        "a/1.jpg": Source("in/a/1.jpg", path=Path("in/a/1.jpg"), within=Path("a/1.jpg")),
        "2.jpg": Source("in/2.jpg", path=Path("in/2.jpg")),
        "x y.jpg": Source("u", url="http://user:secret@h/p/x%20y.jpg?token=secret"),
        "h:80": Source("u", url="http://user:secret@h:80/?token=secret"),
        "stdin": Source("-", data=b""),
        "gone.jpg": Source("gone.jpg", problem=SourceUnreadable("gone.jpg not found")),
    }
    assert [short_name(source) for source in sources.values()] == list(sources)
