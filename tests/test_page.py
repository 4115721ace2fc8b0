"""The page at `/` in a real Chromium, in front of a real detector."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import cv2
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import expect, sync_playwright

import shapes
from detectctl import coco_pose
from detectctl.errors import REQUEST_ERRORS
from detectctl.figures import colour, limb_colour
from detectctl.wire import ModelInfo, error_body
from served import BASE, served

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Page, Route

    from detectctl.engine.compiled import CompiledModel
    from detectctl.wire import Task

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: `apt-get install chromium`"),
]
ARGUMENTS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
    *("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"),
)
KEY = "key-of-the-page-tests"
FALLBACK = ModelInfo("yolov8n", "v3", "sha256:" + "ab" * 32, fallback=True, reason="W&B is away", reference="a/b/c:d")
OTHER_TASKS: dict[str, Task] = {"pose": "pose", "cls": "classify", "obb": "obb"}
REFUSED = "Failed to load resource"
"""What Chromium writes to the console for each answer that is an error."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def url(yolov8n_compiled: CompiledModel) -> Iterator[str]:
    with served(yolov8n_compiled, imgsz=640, allow_url=("127.0.0.9", "127.0.0.1")) as port:
        yield f"http://127.0.0.1:{port}/"


@pytest.fixture
def asked() -> list[str]:
    """Method and URL of what the page asked for; a test may clear it."""
    return []


@pytest.fixture
def page(browser: Browser, url: str, asked: list[str]) -> Iterator[Page]:
    """The page, loaded; afterwards nothing was written to the console, and nobody else was asked."""
    context = browser.new_context(viewport={"width": 1240, "height": 860}, permissions=["clipboard-read"])
    page = context.new_page()
    wrong: list[str] = []
    elsewhere: list[str] = []
    page.on("console", lambda said: wrong.append(said.text) if REFUSED not in said.text else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: asked.append(f"{request.method} {request.url}"))
    page.on("request", lambda request: elsewhere.append(request.url) if _is_elsewhere(request.url) else None)
    page.goto(url)
    expect(page.locator("#model")).to_contain_text("yolov8n")
    yield page
    context.close()
    assert wrong == []
    assert elsewhere == []


def _is_elsewhere(url: str) -> bool:
    return not url.startswith(("http://127.0.0.1:", "blob:http://127.0.0.1:"))


def _pick(page: Page, *pictures: Path) -> None:
    page.set_input_files("#files", list(pictures))
    expect(page.locator("#picture")).to_be_visible()
    expect(page.locator("#objects > div").first).to_be_visible()


def _slide(page: Page, slider: str, value: float) -> None:
    page.locator(slider).fill(str(value))


def _answer(page: Page) -> dict[str, object]:
    page.locator("#tab-json").click()
    answer: dict[str, object] = json.loads(page.locator("#code").inner_text())
    return answer


_BRING = """([kind, name, base64, type]) => {
  const data = new DataTransfer();
  if (base64) {
    const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt());
    data.items.add(new File([bytes], name, { type }));
  } else data.setData(kind === "paste" ? "text/plain" : "text/uri-list", name);
  const made = kind === "paste" ? new ClipboardEvent(kind, { clipboardData: data, bubbles: true })
    : new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true });
  document.body.dispatchEvent(made);
}"""


@pytest.mark.parametrize("way", ["pick", "drop", "paste", "url", "drop a url", "paste a url"])
def test_each_way_to_bring_a_picture_finds_what_is_in_it(
    page: Page, bus_jpg: Path, photo_server: str, way: str
) -> None:
    import base64

    there = f"{photo_server}/bus.jpg"
    if way == "pick":
        _pick(page, bus_jpg)
    elif way == "url":
        page.get_by_label("URL of a picture").fill(there)
        page.get_by_role("button", name="Fetch").click()
    elif way.endswith("url"):
        page.evaluate(_BRING, [way.split(maxsplit=1)[0], there, None, None])
    else:
        picture = base64.b64encode(bus_jpg.read_bytes()).decode()
        page.evaluate(_BRING, [way, "bus.jpg", picture, "image/jpeg"])
    expect(page.locator("#summary")).to_contain_text("1 bus")
    expect(page.locator("#picture")).to_be_visible()
    expect(page.locator("#overlay .object")).to_have_count(page.locator("#objects > div").count())
    assert page.locator("#picture").evaluate("(one) => one.naturalWidth") == 810
    expect(page.locator("#timing")).to_contain_text("inference")


def test_the_webcam_is_watched_until_it_is_stopped(page: Page) -> None:
    page.get_by_role("button", name="Use webcam").click()
    expect(page.locator("#timing")).to_be_visible()
    first = page.locator("#picture").get_attribute("src")
    expect(page.locator("#picture")).not_to_have_attribute("src", first or "")
    page.get_by_role("button", name="Stop webcam").click()
    expect(page.get_by_role("button", name="Use webcam")).to_be_visible()


def test_a_picture_that_the_browser_cannot_show_comes_from_the_service(
    page: Page, bus_jpg: Path, tmp_path: Path
) -> None:
    with Image.open(bus_jpg) as image:
        image.save(tmp_path / "bus.tiff")
    _pick(page, tmp_path / "bus.tiff")
    assert page.locator("#picture").evaluate("(one) => one.naturalWidth") == 810


def test_confidence_and_classes_are_filtered_without_asking_again(
    page: Page, bus_jpg: Path, asked: list[str], url: str
) -> None:
    """And the filtered answer is what the service itself gives for these settings."""
    _pick(page, bus_jpg)
    asked.clear()
    for confidence in (0.5, 0.1, 0.84):
        _slide(page, "#conf", confidence)
        mine = _answer(page)
        theirs = page.request.post(f"{url}detect?conf={confidence}&iou=0.7", data=bus_jpg.read_bytes()).json()
        assert mine == theirs
    page.get_by_role("checkbox", name="person").uncheck()
    expect(page.locator("#summary")).to_have_text("1: 1 bus")
    assert [one for one in asked if "/detect" in one] == []


def test_another_overlap_or_a_lower_confidence_asks_again(page: Page, bus_jpg: Path, asked: list[str]) -> None:
    _pick(page, bus_jpg)
    asked.clear()
    _slide(page, "#iou", 0.3)
    expect(page.locator("#stage")).not_to_have_class("busy")
    _slide(page, "#conf", 0)
    expect(page.locator("#objects > div")).to_have_count(300)
    assert [one.partition("?")[2] for one in asked if "/detect" in one] == ["conf=0.05&iou=0.3", "conf=0&iou=0.3"]


def test_of_300_objects_each_is_linked_with_its_row(page: Page, bus_jpg: Path, url: str) -> None:
    """And one class of an answer that was cut is asked for again, because what was cut may be of it."""
    _pick(page, bus_jpg)
    _slide(page, "#conf", 0)
    rows = page.locator("#objects > div")
    expect(rows).to_have_count(300)
    expect(page.locator("#overlay .object")).to_have_count(300)
    expect(page.locator("#summary")).to_contain_text("more were left out")
    _slide(page, "#conf", 0.3)  # of these, none was
    theirs = page.request.post(f"{url}detect?conf=0.3&iou=0.7", data=bus_jpg.read_bytes()).json()
    assert _answer(page) == theirs
    _slide(page, "#conf", 0)
    expect(rows).to_have_count(300)
    rows.nth(299).hover()
    expect(page.locator("#overlay .lit")).to_have_attribute("data-index", "299")
    expect(page.locator("#overlay .lit .tag")).to_be_visible()
    page.mouse.move(0, 0)
    expect(page.locator(".lit")).to_have_count(0)
    for box in page.locator("#class-list input").all()[1:]:
        box.uncheck()
    name = page.locator("#class-list input").first.input_value()
    theirs = page.request.post(f"{url}detect?conf=0&iou=0.7&class={name}", data=bus_jpg.read_bytes()).json()
    expect(rows).to_have_count(len(theirs["objects"]))
    assert _answer(page) == theirs


def test_where_classes_suppress_each_other_each_choice_of_them_is_asked_for(
    browser: Browser, bus_jpg: Path, yolov8n_compiled: CompiledModel
) -> None:
    """What a class that is left out has suppressed would come back."""
    with served(yolov8n_compiled, imgsz=640, defaults={"agnostic_nms": True}) as port, browser.new_context() as context:
        page, asked = context.new_page(), list[str]()
        page.goto(f"http://127.0.0.1:{port}/")
        _pick(page, bus_jpg)
        page.on("request", lambda request: asked.append(request.url.partition("?")[2]))
        page.get_by_role("checkbox", name="person").uncheck()
        expect(page.locator("#summary")).not_to_contain_text("person")
        page.get_by_role("checkbox", name="person").check()
        expect(page.locator("#summary")).to_contain_text("person")
        only, everything = asked
        assert "class=bus" in only
        assert "class=person" not in only
        assert "class" not in everything


def test_hovering_over_an_object_shows_its_row(page: Page, bus_jpg: Path) -> None:
    _pick(page, bus_jpg)
    page.locator("#overlay .object").last.locator(".shape").hover(position={"x": 5, "y": 200})
    expect(page.locator("#objects .lit")).to_have_attribute("data-index", "0")


def test_the_keyboard_reaches_everything(page: Page, bus_jpg: Path, zidane_jpg: Path) -> None:
    _pick(page, bus_jpg, zidane_jpg)
    page.evaluate("document.activeElement.blur()")
    reached = []
    for _ in range(40):
        page.keyboard.press("Tab")
        told = page.evaluate("document.activeElement.id || document.activeElement.closest('[id]')?.id || ''")
        reached.append(told)
        if told == "code":
            break
    wanted = ["files", "camera", "url", "shelf", "conf", "iou", "class-list", "objects", "tab-json", "copy", "code"]
    assert [name for name in dict.fromkeys(reached) if name in wanted] == wanted
    page.locator("#objects > div").first.focus()
    page.keyboard.press("ArrowDown")
    expect(page.locator("#overlay .lit")).to_have_attribute("data-index", "1")
    page.keyboard.press("End")
    expect(page.locator("#objects > div").last).to_be_focused()
    page.locator("#conf").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#conf-value")).to_have_text("0.26")
    page.locator("#tab-json").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#code")).to_contain_text("curl")
    page.get_by_role("button", name="zidane.jpg").press("Enter")
    expect(page.locator("#summary")).to_contain_text("tie")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1240])
def test_axe_finds_nothing_and_nothing_is_wider_than_the_screen(
    page: Page, bus_jpg: Path, scheme: str, width: int
) -> None:
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    page.set_viewport_size({"width": width, "height": 640})
    assert Axe().run(page).response["violations"] == []
    page.set_input_files("#files", {"name": "text.jpg", "mimeType": "image/jpeg", "buffer": b"text"})
    expect(page.locator("#error")).to_contain_text("unsupported_image")
    assert Axe().run(page).response["violations"] == []
    _pick(page, bus_jpg)
    assert Axe().run(page).response["violations"] == []
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_a_photograph_of_24_megapixels(page: Page, bus_jpg: Path, tmp_path: Path) -> None:
    """Turned by its EXIF data: boxes lie where they lie in the upright picture."""
    with Image.open(bus_jpg) as image:
        turned = image.resize((4000, 6000)).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "large.jpg", exif=exif)
    _pick(page, tmp_path / "large.jpg")
    image_json = _answer(page)["image"]
    assert image_json == {"width": 4000, "height": 6000}
    picture, overlay = page.locator("#picture").bounding_box(), page.locator("#overlay").bounding_box()
    assert picture is not None
    assert overlay == pytest.approx(picture, abs=0.1)
    assert picture["height"] > picture["width"]


@pytest.mark.parametrize("code", sorted(REQUEST_ERRORS.keys() - {"unauthorized"}))
def test_every_error_is_shown_whole(page: Page, bus_jpg: Path, code: str) -> None:
    kind = REQUEST_ERRORS[code]
    error = kind("what went wrong", why="the cause of it", hint="what to do")

    def refuse(route: Route) -> None:
        route.fulfill(status=kind.status, json=error_body(error), headers={"X-Request-ID": "id-7"})

    page.route("**/detect?*", refuse)
    page.set_input_files("#files", bus_jpg)
    for words in ("what went wrong", "the cause of it", "what to do", code, str(kind.status), "id-7"):
        expect(page.locator("#error")).to_contain_text(words)
    page.unroute("**/detect?*")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("#summary")).to_contain_text("1 bus")
    expect(page.locator("#error")).to_be_empty()


@pytest.mark.parametrize(
    ("address", "code"),
    [
        ("http://10.1.2.3/a.jpg", "url_not_allowed"),
        ("http://user@a.example/", "bad_url"),
        ("http://127.0.0.9:1/", "fetch_failed"),
    ],
)
def test_an_address_that_the_service_refuses(page: Page, address: str, code: str) -> None:
    page.get_by_label("URL of a picture").fill(address)
    page.get_by_role("button", name="Fetch").click()
    expect(page.locator("#error")).to_contain_text(code)


def test_a_service_that_has_gone(page: Page, bus_jpg: Path) -> None:
    page.route("**/detect?*", lambda route: route.abort())
    page.set_input_files("#files", bus_jpg)
    expect(page.locator("#error")).to_contain_text("detectctl status")


def _colour(class_id: int) -> str:
    return f"rgb({', '.join(map(str, colour(class_id)))})"


def test_keypoints_and_rotated_boxes_are_drawn_as_on_annotated_pictures(page: Page, bus_jpg: Path) -> None:
    """A person's, of which one is not seen, in the colours of its sides; others also without confidences."""
    one = {"class": "bus", "coordinates": [10, 10, 400, 400], "confidence": 0.9, "class_id": 5}
    objects = [
        {**one, "keypoints": [[20 + 10 * n, 50 + 5 * n, 0.9 if n else 0.1] for n in range(17)]},
        {**one, "keypoints": [[200, 300], [0, 0], [400, 500]]},
        {**one, "coordinates": [100, 500, 500, 900], "corners": [[500, 600], [400, 900], [100, 800], [200, 500]]},
    ]
    answer = {"status": "found", "objects": objects, "image": {"width": 810, "height": 1080}}
    model = ModelInfo("many", "v1", "sha256:0", task="pose").to_json()
    page.route("**/detect?*", lambda route: route.fulfill(json={**answer, "model": model}))
    _pick(page, bus_jpg)
    person, hand, ship = (page.locator(f'#overlay [data-index="{number}"]') for number in range(3))
    expect(person.locator("circle")).to_have_count(16)
    expect(person.locator("line")).to_have_count(len(coco_pose.LIMBS) - 2)
    sides = {"line": [limb_colour(*limb) for limb in coco_pose.LIMBS if 0 not in limb]}
    sides["circle"] = [limb_colour(number, number) for number in range(1, 17)]
    for kind, attribute in (("line", "stroke"), ("circle", "fill")):
        drawn = [each.get_attribute(attribute) for each in person.locator(kind).all()]
        assert drawn == [f"rgb({' '.join(map(str, hue))})" for hue in sides[kind]]
    expect(hand.locator("circle")).to_have_count(2)
    expect(hand.locator("circle").first).to_have_css("fill", _colour(5))
    assert len((ship.locator(".shape").get_attribute("points") or "").split()) == 4
    tag, frame = ship.locator(".tag").bounding_box(), ship.locator(".shape").bounding_box()
    assert tag is not None
    assert frame is not None
    assert tag["x"] > frame["x"]  # at the uppermost corner, not at that of the upright box


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("v8-seg", "segment"),
        # Long because answers that are made up are drawn above, for every task.
        *(pytest.param(f"v8-{short}", task, marks=pytest.mark.long) for short, task in OTHER_TASKS.items()),
    ],
)
def test_what_a_model_of_another_task_answers_is_drawn(
    browser: Browser, tiny_compiled: Callable[[str], CompiledModel], tmp_path: Path, name: str, task: Task
) -> None:
    """All of the service's own answer: parts of masks, keypoints that are seen, and five classes."""
    pixels, _ = next(shapes.pictures(task))
    assert cv2.imwrite(str(tmp_path / "shapes.png"), pixels)
    with served(tiny_compiled(name), imgsz=128, info=replace(BASE, name=name, task=task)) as port:
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{port}/")
        expect(page.locator("#model")).to_contain_text(f"Task{task}")
        _pick(page, tmp_path / "shapes.png")
        picture = (tmp_path / "shapes.png").read_bytes()
        objects = page.request.post(f"http://127.0.0.1:{port}/detect?conf=0.25&iou=0.7", data=picture).json()["objects"]
        texts = [f"{one['class']} {one['confidence']:.2f}" for one in objects]
        expect(page.locator("#overlay text")).to_have_text(texts[::-1])  # the surest on top
        expect(page.locator("#filter")).to_be_visible(visible=task != "classify")
        if task == "classify":
            assert len(objects) == 5
            expect(page.locator("#overlay .shape")).to_have_count(0)
            expect(page.locator("#summary")).to_have_text(objects[0]["class"])
        masks = page.locator("#overlay .mask")
        expect(masks).to_have_count(sum(len(one.get("mask", ())) for one in objects))
        if task == "segment":
            expect(masks.last).to_have_css("fill", _colour(objects[0]["class_id"]))
            expect(masks.last).to_have_css("fill-opacity", "0.43")
        points = [point for one in objects for point in one.get("keypoints", ())]
        height, width = pixels.shape[:2]
        seen = [x for x, y, confidence in points if confidence >= 0.5 and 0 < x < width and 0 < y < height]
        expect(page.locator("#overlay circle")).to_have_count(len(seen))
        assert (len(seen) > 0) == (task == "pose")
        page.close()


def test_the_same_request_by_other_means_gives_the_same(page: Page, bus_jpg: Path, tmp_path: Path) -> None:
    shutil.copyfile(bus_jpg, tmp_path / "a bus's.jpg")
    _pick(page, tmp_path / "a bus's.jpg")
    _slide(page, "#conf", 0.5)
    page.get_by_role("checkbox", name="person").uncheck()
    mine = _answer(page)
    path = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"  # noqa: PTH120 - not a path of ours

    def said(*command: str) -> str:
        done = subprocess.run(
            command, cwd=tmp_path, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    page.locator("#tab-curl").click()
    assert json.loads(said("sh", "-c", page.locator("#code").inner_text())) == mine
    page.locator("#tab-python").click()
    (found,) = said(sys.executable, "-c", page.locator("#code").inner_text()).splitlines()
    assert found.startswith("bus 0.87")
    page.locator("#tab-detectctl").click()
    assert '"bus"' in (text := said("sh", "-c", page.locator("#code").inner_text()))
    assert '"person"' not in text


def test_a_key_is_asked_for_and_kept_for_the_tab_only(
    browser: Browser, yolov8n_compiled: CompiledModel, bus_jpg: Path, tmp_path: Path
) -> None:
    (tmp_path / "keys").write_text(KEY + "\n")
    (tmp_path / "keys").chmod(0o600)
    with served(yolov8n_compiled, imgsz=640, info=FALLBACK, api_key_file=str(tmp_path / "keys")) as port:
        context = browser.new_context()
        page = context.new_page()
        urls: list[str] = []
        page.on("request", lambda request: urls.append(request.url))
        page.goto(f"http://127.0.0.1:{port}/")
        expect(page.get_by_label("API key")).to_be_focused()
        page.get_by_label("API key").fill("a-wrong-one")
        page.keyboard.press("Enter")
        expect(page.locator("#error")).to_contain_text("the API key is wrong")
        page.get_by_label("API key").fill(KEY)
        page.keyboard.press("Enter")
        expect(page.locator("#model")).to_contain_text("yolov8n v3")
        _pick(page, bus_jpg)
        for place in ("#warning", "#strip"):  # as on annotated pictures
            expect(page.locator(place)).to_contain_text("fallback: yolov8n v3 (W&B is away)")
        page.locator("#tab-curl").click()
        expect(page.locator("#code")).to_contain_text("$API_KEY")
        page.reload()
        expect(page.locator("#model")).to_contain_text("yolov8n v3")
        assert KEY not in page.content()
        other = context.new_page()
        other.goto(f"http://127.0.0.1:{port}/")
        expect(other.get_by_label("API key")).to_be_visible()
        page.get_by_role("button", name="Forget key").click()
        expect(page.get_by_label("API key")).to_be_visible()
        assert context.cookies() == []
        assert [one for one in urls if KEY in one] == []
        context.close()


def test_the_page_works_below_a_prefix(page: Page, url: str, bus_jpg: Path) -> None:
    """As behind a proxy that takes the prefix away."""
    page.route(
        f"{url}a/prefix/**",
        lambda route: route.fulfill(response=route.fetch(url=route.request.url.replace("/a/prefix", ""))),
    )
    page.goto(f"{url}a/prefix/")
    expect(page.locator("#model")).to_contain_text("yolov8n")
    _pick(page, bus_jpg)
    page.locator("#tab-detectctl").click()
    expect(page.locator("#code")).to_contain_text(f"{url}a/prefix ")


def test_at_a_route_prefix_all_that_the_page_asks_and_links_lies_below_it(
    browser: Browser, yolov8n_compiled: CompiledModel, bus_jpg: Path, tmp_path: Path
) -> None:
    """As `--route-prefix` has it on a cluster, from the prefix itself on, as people type it; with a key."""
    (tmp_path / "keys").write_text(KEY + "\n")
    (tmp_path / "keys").chmod(0o600)
    with served(yolov8n_compiled, imgsz=640, api_key_file=str(tmp_path / "keys"), prefix="/team/yolo") as port:
        context = browser.new_context()
        page, asked, failed = context.new_page(), list[str](), list[str]()
        page.on("request", lambda request: asked.append(request.url))
        page.on("response", lambda answer: failed.append(answer.url) if answer.status >= 400 else None)
        home = f"http://127.0.0.1:{port}/team/yolo"
        page.goto(home)
        assert page.url == f"{home}/"
        assert page.request.get(home, max_redirects=0).headers["location"] == "yolo/", "also behind what speaks TLS"
        page.get_by_label("API key").fill(KEY)
        page.keyboard.press("Enter")
        expect(page.locator("#model")).to_contain_text("yolov8n")
        failed.clear()  # the question that told the page that it needs a key
        _pick(page, bus_jpg)
        expect(page.locator("#summary")).to_contain_text("1 bus")
        for tab in ("curl", "python", "detectctl"):
            page.locator(f"#tab-{tab}").click()
            expect(page.locator("#code")).to_contain_text(home)
        assert [url for url in asked if not url.startswith((home, f"blob:http://127.0.0.1:{port}/"))] == []
        assert failed == []

        # A browser that follows a link sends no key.
        page.set_extra_http_headers({"X-API-Key": KEY})
        page.goto(f"{home}/docs")
        expect(page.locator("h1")).to_contain_text("detectctl")
        page.get_by_role("link", name="openapi.json").click()
        assert page.url == f"{home}/openapi.json"
        described = json.loads(page.locator("body").inner_text())
        assert described["servers"] == [{"url": "/team/yolo"}]
        assert failed == []
        context.close()


def test_a_picture_of_more_bytes_than_the_service_takes_is_not_sent(
    page: Page, asked: list[str], tmp_path: Path
) -> None:
    """The service would hang up in the middle of it, and the browser could not say why."""
    with (tmp_path / "long.bmp").open("wb") as file:
        file.truncate(21 * 2**20)
    asked.clear()
    page.set_input_files("#files", tmp_path / "long.bmp")
    expect(page.locator("#error")).to_contain_text("image_too_large")
    assert [one for one in asked if not one.startswith("GET blob:")] == []


def test_a_model_that_becomes_stale_is_named_with_the_next_answer(page: Page, bus_jpg: Path) -> None:
    model = ModelInfo("yolo", "v3", "sha256:0", stale=True, reason="W&B is away", reference="a/b/c:d").to_json()
    _pick(page, bus_jpg)
    expect(page.locator("#strip")).to_be_hidden()
    page.route("**/detect?*", lambda route: route.fulfill(json={**route.fetch().json(), "model": model}))
    _slide(page, "#iou", 0.5)
    for place in ("#warning", "#strip"):
        expect(page.locator(place)).to_contain_text("stale: yolo v3 (W&B is away)")
