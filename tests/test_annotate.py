from __future__ import annotations

import io
import itertools
import math
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image, ImageChops, ImageCms, ImageDraw, ImageFont

from detectctl import coco_pose, lettering
from detectctl.annotate import STRIP, annotated, caption_of, draw, encode, fitted
from detectctl.errors import UsageError
from detectctl.figures import colour
from detectctl.upright import open_upright
from detectctl.wire import Detection, DetectionResult, DrawOptions, ModelInfo

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


def tinted(pixel: Any, class_id: int) -> bool:
    """Between the grey of the picture and the colour of the class, and neither."""
    return all(
        min(GREY[band], hue) <= pixel[band] <= max(GREY[band], hue) and pixel[band] not in {GREY[band], hue}
        for band, hue in enumerate(colour(class_id))
        if abs(hue - GREY[band]) > 20
    )


def masked(*outlines: tuple[float, ...], class_id: int = 0, confidence: float = 0.9) -> Detection:
    """With the box around its outlines."""
    x = [value for outline in outlines for value in outline[::2]]
    y = [value for outline in outlines for value in outline[1::2]]
    return Detection("thing", (min(x), min(y), max(x), max(y)), confidence, class_id, mask=outlines)


def square(x: float, y: float, side: float) -> tuple[float, ...]:
    return (x, y, x + side, y, x + side, y + side, x, y + side)


BARE = DrawOptions(labels=False)


@pytest.mark.parametrize("size", [(640, 480), (7000, 3000)])
def test_a_mask_of_several_parts_tints_what_is_inside_and_nothing_else(size: tuple[int, int]) -> None:
    """The larger picture is painted in several bands; a part that crosses their border is whole."""
    width, height = size
    parts = [(x * width / 100, y * height / 100, 0.3 * height) for x, y in ((10, 10), (60, 60))]
    picture = draw(blank(*size), [masked(*(square(*part) for part in parts))], BARE)
    inside = {
        picture.getpixel((round(x + side / 2), round(y + side * share)))
        for x, y, side in parts
        for share in (0.1, 0.5, 0.9)
    }
    assert len(inside) == 1
    assert tinted(inside.pop(), 0)
    for x, y in ((30, 75), (75, 30), (50, 50), (2, 2)):
        assert picture.getpixel((x * width // 100, y * height // 100)) == GREY


def test_a_picture_is_still_seen_below_a_mask() -> None:
    image = Image.linear_gradient("L").resize((640, 480)).convert("RGB")
    column = draw(image, [masked(square(100, 40, 400))], BARE).crop((300, 60, 301, 420))
    assert len(set(column.get_flattened_data())) > 100


def test_where_masks_overlap_the_smaller_is_seen() -> None:
    """Whichever is the more confident: what is in front hides part of what is behind, and looks smaller."""
    large, small = masked(square(40, 40, 400)), masked(square(200, 200, 60), class_id=1, confidence=0.3)
    picture = draw(blank(640, 480), [large, small], BARE)
    assert tinted(picture.getpixel((230, 230)), 1)
    assert tinted(picture.getpixel((120, 120)), 0)
    assert picture.getpixel((230, 230)) == draw(blank(640, 480), [small], BARE).getpixel((230, 230))


def test_boxes_and_labels_lie_over_masks() -> None:
    below = masked(square(0, 0, 479), class_id=3, confidence=0.95)
    above = detection(100, 100, 300, 300, class_id=1)
    plain, both = (draw(blank(640, 480), boxes) for boxes in ([above], [below, above]))
    label = both.crop((100, 85, 160, 99))
    assert both.getpixel((100, 200)) == colour(1)
    assert label.getcolors() == plain.crop((100, 85, 160, 99)).getcolors()


def test_masks_of_any_number_of_classes_can_be_drawn() -> None:
    many = [masked(square(2 * number, 10, 1), class_id=number) for number in range(300)]
    assert changed(blank(640, 480), draw(blank(640, 480), many, BARE)) is not None


@pytest.mark.parametrize("outline", [(5.0, 5.0, 5.0, 5.0, 5.0, 5.0), (-50.0, -50.0, 900.0, -50.0, 900.0, 700.0)])
def test_a_mask_of_one_pixel_or_beyond_the_picture_can_be_drawn(outline: tuple[float, ...]) -> None:
    picture = draw(blank(640, 480), [masked(outline)], BARE)
    assert changed(blank(640, 480), picture) is not None


def person(*, unseen: int | None = None) -> Detection:
    """Keypoints 30 pixels apart, each in a row of its own; `unseen` has little confidence."""
    points = tuple(
        (50.0 + 30 * number, 40.0 + 25 * (number * 7 % 17), 0.4 if number == unseen else 0.9) for number in range(17)
    )
    return Detection("person", (20, 20, 600, 470), 0.9, 0, keypoints=points)


def halfway(detection: Detection, limb: tuple[int, int]) -> tuple[int, int]:
    assert detection.keypoints is not None
    (x1, y1, *_), (x2, y2, *_) = (detection.keypoints[number] for number in limb)
    return round((x1 + x2) / 2), round((y1 + y2) / 2)


def test_a_skeleton_joins_the_points_of_a_person_that_are_seen() -> None:
    drawn = draw(blank(640, 480), [person()], BARE)
    without = draw(blank(640, 480), [person(unseen=9)], BARE)
    limbs = {limb: drawn.getpixel(halfway(person(), limb)) for limb in coco_pose.LIMBS}
    assert GREY not in limbs.values()
    assert len(set(limbs.values())) == 3  # left, right, and between the two
    assert without.getpixel(halfway(person(), (7, 9))) == GREY


def test_keypoints_of_another_kind_are_dots_in_the_colour_of_their_class() -> None:
    """Also without confidences; a point in the corner is one that the model did not find."""
    points = ((100.0, 100.0), (300.0, 200.0), (0.0, 0.0))
    picture = draw(blank(640, 480), [Detection("hand", (80, 80, 400, 300), 0.9, 4, keypoints=points)], BARE)
    assert picture.getpixel((100, 100)) == picture.getpixel((300, 200)) == colour(4)
    assert picture.getpixel((200, 150)) == GREY
    assert picture.getpixel((0, 0)) == GREY


def rotated(x: float, y: float, width: float, height: float, angle: float) -> Detection:
    cosine, sine = math.cos(angle), math.sin(angle)
    corners = tuple(
        (
            x + cosine * across * width / 2 - sine * along * height / 2,
            y + sine * across * width / 2 + cosine * along * height / 2,
        )
        for across, along in ((1, 1), (1, -1), (-1, -1), (-1, 1))
    )
    edges = [value for axis in zip(*corners, strict=True) for value in (min(axis), max(axis))]
    return Detection("ship", (edges[0], edges[2], edges[1], edges[3]), 0.9, 0, corners=corners, angle=angle)


@pytest.mark.parametrize("angle", [0.0, 0.3, math.pi / 4, 1.2, math.pi / 2])
def test_a_rotated_box_is_drawn_by_its_corners(angle: float) -> None:
    """Its line lies inside, as wide as that of an upright box; the box around it is not drawn."""
    ship = rotated(320, 240, 300, 120, angle)
    picture = draw(blank(640, 480), [ship], DrawOptions(labels=False, line_width=6))
    for side, away in ((150, 0), (-150, 0), (60, math.pi / 2), (-60, math.pi / 2)):
        ray = [
            picture.getpixel(
                (round(320 + radius * math.cos(angle + away)), round(240 + radius * math.sin(angle + away)))
            )
            for radius in (math.copysign(abs(side) + step, side) for step in (3, -3, -10))
        ]
        assert ray == [GREY, colour(0), GREY]
    if angle not in {0.0, math.pi / 2}:
        left, top, *_ = map(round, ship.xyxy)
        assert picture.getpixel((left, top)) == picture.getpixel((left + 3, top + 3)) == GREY


def test_an_upright_rotated_box_looks_as_a_box() -> None:
    """But for its last row and column, which belong to the corner of one that may lie between pixels."""
    box, ship = detection(170, 180, 470, 300), rotated(320, 240, 300, 120, 0)
    boxed, turned = (draw(blank(640, 480), [one], BARE) for one in (box, ship))
    assert thickness(boxed, colour(0), 240) == pytest.approx(thickness(turned, colour(0), 240), abs=1)


def test_the_label_of_a_rotated_box_touches_it() -> None:
    ship = rotated(320, 240, 300, 60, 0.9)
    without, labelled = (draw(blank(640, 480), [ship], DrawOptions(labels=labels)) for labels in (False, True))
    area = changed(without, labelled)
    assert area is not None
    assert ship.corners is not None
    assert (
        min(math.hypot(max(area[0] - x, 0, x - area[2]), max(area[1] - y, 0, y - area[3])) for x, y in ship.corners)
        <= 2
    )


def test_a_rotated_box_without_extent_or_outside_can_be_drawn() -> None:
    for ship in (rotated(100, 100, 0, 0, 0.3), rotated(100, 100, 50, 0, 0.3), rotated(-20, 500, 90, 90, 0.5)):
        assert draw(blank(640, 480), [ship]).size == (640, 480)


def classes(*confidences: float, name: str = "class") -> list[Detection]:
    return [Detection(f"{name} {n}", (0, 0, 640, 480), confidence, n) for n, confidence in enumerate(confidences)]


@pytest.mark.parametrize("size", [(64, 64), (160, 120), (640, 480), (640, 90), (90, 640), (7680, 4320)])
@pytest.mark.parametrize("name", ["dog", "a rather long name of a breed"])
def test_classes_are_listed_on_a_strip_at_the_bottom(size: tuple[int, int], name: str) -> None:
    """As many as a third of the picture holds, and always the surest; there is no box."""
    found = classes(0.8, 0.1, 0.05, 0.03, 0.02, name=name)
    plain = blank(*size)
    picture = draw(plain, found, task="classify")
    area = changed(plain, picture)
    assert area is not None
    left, top, right, bottom = area
    assert (left, right, bottom) == (0, size[0], size[1])
    assert top >= min(size[1] * 2 // 3, size[1] - 2 * lettering.MIN_PX - 4)
    colours = {pixel for _, pixel in picture.crop(area).getcolors(size[0] * size[1]) or ()}
    assert colour(0) in colours
    assert STRIP in colours
    if min(size) > 400:
        assert {colour(number) for number in range(5)} <= colours


def test_classes_stay_above_the_caption_and_are_left_out_without_labels() -> None:
    found = classes(0.8, 0.1)
    plain, caption = blank(640, 480), "fallback: yolov8n-cls"
    captioned, both = (draw(plain, some, caption=caption, task="classify") for some in ([], found))
    strip, area = changed(plain, captioned), changed(captioned, both)
    assert strip is not None
    assert area is not None
    assert area[3] <= strip[1]
    assert changed(plain, draw(plain, found, BARE, task="classify")) is None


def test_what_is_fitted_is_brought_to_its_size_before_it_is_drawn_on() -> None:
    """All of an object goes with the picture, and letters do not: as if the small picture had been asked about."""
    large, small = (
        [
            masked((10.0 * by, 10.0 * by, 90.0 * by, 20.0 * by, 50.0 * by, 80.0 * by)),
            Detection(
                "person",
                (10.0 * by, 12.0 * by, 100.0 * by, 110.0 * by),
                0.8,
                0,
                keypoints=((50.0 * by, 60.0 * by, 0.9),) * 3,
            ),
            rotated(100.0 * by, 60.0 * by, 50.0 * by, 25.0 * by, 0.3),
        ]
        for by in (4, 1)
    )
    result = DetectionResult(tuple(large), 640, 480, ModelInfo("m", None, "sha256:00", task="segment"))
    for options, thin in ((DrawOptions(), DrawOptions()), (DrawOptions(line_width=8), DrawOptions(line_width=2))):
        picture = fitted(blank(640, 480), result, (1000, 120), options)
        assert picture.tobytes() == draw(blank(160, 120), small, thin, task="segment").tobytes()
    assert fitted(blank(640, 1), result, (100, 100), BARE).size == (100, 1)


def test_a_caller_draws_the_bytes_that_a_service_draws() -> None:
    """An answer has fewer digits than the service: what lies halfway between two pixels must not fall elsewhere."""
    near = 0.4999
    objects = (
        masked((10 + near, 10 + near, 90 + near, 20 + near, 50 + near, 80 + near)),
        Detection(
            "person",
            (10.4999, 10.4999, 300.4999, 300.4999),
            0.86499999,
            0,
            keypoints=((50.4999, 60.4999, 0.49999),) * 3,
        ),
        rotated(200.4999, 200.4999, 100.4999, 51.2345, 0.3),
    )
    for task in ("segment", "classify"):
        model = ModelInfo("m", None, "sha256:00", task=task)
        result = DetectionResult(objects, 640, 480, model)
        answer = DetectionResult.from_json(dict(result.to_json()))
        served, drawn = (annotated(blank(640, 480), one, "png", DrawOptions()) for one in (result, answer))
        assert served == drawn
