from __future__ import annotations

import io
import itertools
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image, ImageChops, ImageCms, ImageDraw, ImageFont

from detectctl import lettering
from detectctl.annotate import caption_of, colour, draw, encode
from detectctl.errors import UsageError
from detectctl.upright import open_upright
from detectctl.wire import Detection, DrawOptions, ModelInfo

if TYPE_CHECKING:
    from pathlib import Path

GREY = (128, 128, 128)


def blank(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), GREY)


def detection(
    x1: float, y1: float, x2: float, y2: float, *, name: str = "person", class_id: int = 0, confidence: float = 0.9
) -> Detection:
    return Detection(name, (x1, y1, x2, y2), confidence, class_id)


def encoded(image: Image.Image, image_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def thickness(image: Image.Image, line: tuple[int, int, int], row: int) -> int:
    """Pixels of this colour, from the left end of a row that crosses one box's left side."""
    pixels = [image.getpixel((x, row)) for x in range(image.width // 2)]
    return pixels.count(line)


def changed(before: Image.Image, after: Image.Image) -> tuple[int, int, int, int] | None:
    return ImageChops.difference(before, after).getbbox()


@pytest.mark.parametrize(
    "box",
    [
        (0, 0, 100, 80),
        (540, 0, 640, 80),
        (0, 400, 100, 480),
        (540, 400, 640, 480),
        (0, 0, 640, 480),
        (-20, -20, 700, 500),
    ],
)
def test_all_four_sides_of_a_box_show_also_at_the_edges(box: tuple[int, int, int, int]) -> None:
    picture = draw(blank(640, 480), [detection(*box)], DrawOptions(labels=False))
    left, top, right, bottom = max(box[0], 0), max(box[1], 0), min(box[2], 640) - 1, min(box[3], 480) - 1
    middle_x, middle_y = (left + right) // 2, (top + bottom) // 2
    for point in [(left, middle_y), (right, middle_y), (middle_x, top), (middle_x, bottom)]:
        assert picture.getpixel(point) == colour(0)
    assert picture.getpixel((middle_x, middle_y)) == GREY


@pytest.mark.parametrize(
    ("width", "height", "least", "most"), [(200, 150, 1, 2), (810, 1080, 2, 4), (7680, 4320, 15, 22)]
)
def test_the_line_grows_with_the_picture(width: int, height: int, least: int, most: int) -> None:
    picture = draw(blank(width, height), [detection(10, 10, width - 10, height - 10)], DrawOptions(labels=False))
    assert least <= thickness(picture, colour(0), height // 2) <= most


def test_the_line_can_be_chosen() -> None:
    picture = draw(blank(640, 480), [detection(10, 10, 630, 470)], DrawOptions(labels=False, line_width=7))
    assert thickness(picture, colour(0), 240) == 7


@pytest.mark.parametrize(
    ("width", "height", "least", "most"), [(200, 150, 11, 20), (1280, 720, 20, 40), (7680, 4320, 130, 240)]
)
def test_the_label_grows_with_the_picture_and_is_never_too_small_to_read(
    width: int, height: int, least: int, most: int
) -> None:
    box = detection(width * 0.3, height * 0.5, width * 0.6, height * 0.9)
    without, labelled = (draw(blank(width, height), [box], DrawOptions(labels=labels)) for labels in (False, True))
    area = changed(without, labelled)
    assert area is not None
    assert least <= area[3] - area[1] <= most


@pytest.mark.parametrize("size", [(200, 150), (40, 30), (12, 9), (3000, 200), (1, 1)])
@pytest.mark.parametrize("name", ["person", "longer than any picture is wide " * 9, "行人", "\n", ""])
def test_any_label_can_be_drawn_in_any_picture(size: tuple[int, int], name: str) -> None:
    picture = draw(blank(*size), [detection(0, 0, *size, name=name)], caption="fallback: yolov8n")
    assert picture.size == size
    assert changed(picture, blank(*size)) is not None


def test_a_name_wider_than_the_picture_is_cut_short_inside_it() -> None:
    """Where letters were cut off by the picture's edge, its last columns would hold some."""
    box = detection(10, 200, 190, 290, name="m" * 100)
    picture = draw(blank(200, 300), [box])
    edge = picture.crop((198, 0, 200, 199))
    assert set(edge.get_flattened_data()) == {GREY, colour(0)}


@pytest.mark.parametrize("corner", list(itertools.product(("left", "right"), ("top", "bottom"))))
def test_a_label_at_the_edge_is_whole(corner: tuple[str, str]) -> None:
    """A label at an edge covers as many pixels as in the middle of the picture."""
    x1 = 0 if corner[0] == "left" else 630
    y1 = 0 if corner[1] == "top" else 470

    def label_pixels(box: Detection) -> int:
        without, labelled = (draw(blank(640, 480), [box], DrawOptions(labels=labels)) for labels in (False, True))
        area = changed(without, labelled)
        assert area is not None
        return area[2] - area[0]

    at_edge = label_pixels(detection(x1, y1, x1 + 10, y1 + 10))
    assert abs(at_edge - label_pixels(detection(300, 200, 310, 210))) <= 10  # the box itself hides its own width


def test_labels_of_boxes_at_the_same_place_do_not_hide_each_other() -> None:
    boxes = [detection(200, 150, 400, 450, class_id=number, confidence=0.9 - number / 100) for number in range(6)]
    pixels = list(draw(blank(640, 480), boxes).get_flattened_data())
    with_label, without = (
        list(draw(blank(640, 480), boxes[:1], DrawOptions(labels=labels)).get_flattened_data()).count(colour(0))
        for labels in (True, False)
    )
    visible = [pixels.count(colour(number)) for number in range(6)]
    assert min(visible[1:]) >= 0.95 * (with_label - without)


def test_the_more_confident_of_two_boxes_is_on_top() -> None:
    weak = detection(100, 100, 300, 300, class_id=1, confidence=0.3)
    strong = detection(100, 100, 300, 300, class_id=2, confidence=0.8)
    for order in ([weak, strong], [strong, weak]):
        assert draw(blank(640, 480), order, DrawOptions(labels=False)).getpixel((100, 200)) == colour(2)


def test_a_class_has_one_colour_and_the_next_another() -> None:
    colours = [colour(class_id) for class_id in range(80)]
    assert len(set(colours)) == 80
    for one, other in itertools.pairwise(colours):
        assert max(abs(a - b) for a, b in zip(one, other, strict=True)) > 60


@pytest.mark.parametrize("class_id", range(30))
def test_text_contrasts_with_its_label(class_id: int) -> None:
    """WCAG's contrast of the label's darkest or lightest pixel to its background is at least 4.5, as for body text."""

    def luminance(rgb: tuple[int, ...]) -> float:
        red, green, blue = ((v / 255 + 0.055) ** 2.4 / 1.055**2.4 if v > 10 else v / 3295 for v in rgb)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    picture = draw(blank(640, 480), [detection(200, 200, 400, 400, class_id=class_id)])
    area = changed(blank(640, 480), picture)
    assert area is not None
    label = picture.crop((area[0], area[1], area[2], 199))
    pixels: set[Any] = set(label.get_flattened_data())
    shades = [luminance(pixel) for pixel in pixels if pixel != GREY]
    background = luminance(colour(class_id))
    contrast = max((max(s, background) + 0.05) / (min(s, background) + 0.05) for s in shades)
    assert contrast >= 4.5


def test_the_caption_is_a_strip_at_the_bottom_that_labels_stay_above() -> None:
    plain = blank(640, 480)
    captioned = draw(plain, [], caption="fallback: yolov8n")
    area = changed(plain, captioned)
    assert area is not None
    left, top, right, bottom = area
    assert (left, right, bottom) == (0, 640, 480)
    assert top > 440
    low = detection(100, 470, 160, 479)
    labelled = draw(plain, [low], caption="fallback: yolov8n")
    assert changed(captioned.crop((0, top + 10, 640, 480)), labelled.crop((0, top + 10, 640, 480))) is None
    assert changed(captioned, labelled) is not None


REASON = (
    "fallback: yolov8n (W&B could not be reached for acme/registry/yolo:latest: dial tcp 127.0.0.1:39801: connect: "
    "connection refused)"
)


def test_a_small_picture_has_room_for_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """At 320x240 all words of a usual reason are drawn, in at most a third of the picture; of an endless one, many."""
    written: list[str] = []
    text = ImageDraw.ImageDraw.text

    def note(canvas: ImageDraw.ImageDraw, xy: tuple[float, float], words: str, *args: Any, **options: Any) -> None:
        written.append(words)
        text(canvas, xy, words, *args, **options)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", note)
    plain = blank(320, 240)
    area = changed(plain, draw(plain, [], caption=REASON))
    assert " ".join(written) == REASON
    assert area is not None
    assert area[1] >= 160
    written.clear()
    area = changed(plain, draw(plain, [], caption=REASON * 20))
    assert written[-1].endswith("…")
    assert area is not None
    assert area[1] >= 160


def test_only_a_fallback_is_worth_a_caption() -> None:
    model = ModelInfo("yolov8n", None, "sha256:00")
    assert caption_of(model) is None
    fallback = ModelInfo("yolov8n", None, "sha256:00", fallback=True, reason="no such alias")
    assert caption_of(fallback) == "fallback: yolov8n (no such alias)"


def test_a_name_in_other_letters_is_not_drawn_as_empty_squares(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a font of the system, accents are dropped, and what is not Latin is drawn as the class's number."""

    def no_font(*_: object, **__: object) -> ImageFont.FreeTypeFont:
        raise OSError("cannot open resource")

    builtin = ImageFont.load_default  # which itself goes through truetype
    fonts = {size: builtin(size) for size in range(8, 40)}
    monkeypatch.setattr("PIL.ImageFont.load_default", fonts.__getitem__)
    monkeypatch.setattr("PIL.ImageFont.truetype", no_font)
    caches = (lettering._own_font, lettering._system_font, lettering._has_letter)
    for cache in caches:
        cache.cache_clear()
    try:
        pictures = {
            name: draw(blank(640, 480), [detection(200, 200, 400, 400, name=name, class_id=7)])
            for name in ("café", "cafe", "行人", "#7")
        }
    finally:
        for cache in caches:
            cache.cache_clear()
    assert changed(pictures["café"], pictures["cafe"]) is None
    assert changed(pictures["行人"], pictures["#7"]) is None


def test_the_image_given_is_left_as_it_was() -> None:
    image = blank(640, 480)
    draw(image, [detection(10, 10, 100, 100)], caption="x")
    assert changed(image, blank(640, 480)) is None


@pytest.mark.parametrize("image_format", ["jpeg", "png", "webp"])
def test_the_bytes_are_of_the_format_asked_for_and_keep_the_colour_profile(image_format: str) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    opened = open_upright(encoded(blank(64, 48), "JPEG", icc_profile=profile))
    again = Image.open(io.BytesIO(encode(draw(opened, []), image_format)))
    assert again.format == image_format.upper()
    assert again.info["icc_profile"] == profile


def test_quality_makes_smaller_files(bus_jpg: Path) -> None:
    image = open_upright(bus_jpg.read_bytes())
    for image_format in ("jpeg", "webp"):
        assert len(encode(image, image_format, 40)) < 0.6 * len(encode(image, image_format, 90))


def test_a_picture_too_wide_for_webp_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="20000x2 pixels cannot be written as webp"):
        encode(blank(20000, 2), "webp")
