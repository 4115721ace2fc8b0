"""The HTTP interface, over real sockets and without Ray: routes, parameters, errors."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from PIL import Image

from broken_images import encoded
from detectctl.engine.decode import decode
from detectctl.errors import REQUEST_ERRORS
from detectctl.lifecycle.deployment import plan
from detectctl.registry.model_version import ModelVersion
from detectctl.serving import page_files
from detectctl.serving.accept import choices
from detectctl.serving.request_stats import read_stats
from detectctl.settings import UpSettings
from detectctl.values import pixel_count
from served import served
from slow_upload import FORM

if TYPE_CHECKING:
    from collections.abc import Iterator

    from detectctl.engine.compiled import CompiledModel

ORIGIN = "https://app.example.org"
GOOD = encoded("JPEG")
TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
STAGES = ("fetch", "decode", "infer", "render")


@pytest.fixture(scope="module")
def client(yolov8n_compiled: CompiledModel) -> Iterator[httpx.Client]:
    with (
        served(yolov8n_compiled, cors_origin=(ORIGIN,)) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as client,
    ):
        yield client


@pytest.mark.parametrize(("path", "location"), [("/detect/?conf=0.5", "../detect?conf=0.5"), ("/info/", "../info")])
def test_a_slash_too_many_is_redirected_relative_to_what_was_asked(
    client: httpx.Client, path: str, location: str
) -> None:
    """So it leads there too where something in front speaks TLS, or takes a prefix away."""
    answer = client.get(path)
    assert (answer.status_code, answer.headers["location"]) == (307, location)
    assert client.get(path, follow_redirects=True).status_code != 404
    assert _code(client.get("/nothing/")) == (404, "not_found")


def _code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def _refuses_the_name(charset: str) -> bool:
    """Whether this Python's codec fails in a way that Starlette does not expect; that of `idna` does so up to 3.12."""
    try:
        b"xn--zzzzzzzz".decode(charset)
    except (LookupError, UnicodeDecodeError):  # Starlette reads the name as Latin-1 instead
        return False
    except ValueError:
        return True
    return False


@pytest.mark.parametrize("charset", ["undefined", "idna", "nonsense", "utf-7"])
def test_the_charset_of_a_form_is_the_callers_fault(client: httpx.Client, charset: str) -> None:
    """Python has codecs that fail for every name; a codec that does not exist does no harm."""
    form = FORM.replace(b'"a"', b'"xn--zzzzzzzz"') + GOOD + b"\r\n--b--\r\n"
    kind = f"multipart/form-data; boundary=b; charset={charset}"
    answer = client.post("/detect", content=form, headers={"Content-Type": kind})
    if _refuses_the_name(charset):
        assert _code(answer) == (415, "unsupported_image")
    else:
        assert answer.status_code == 200


@pytest.mark.parametrize("query", ["conf=.1&conf=.9", "conf=.1&conf=.1", "iou=.5&iou=.6", "image_url=a&image_url=b"])
def test_a_parameter_with_two_values_is_refused(client: httpx.Client, query: str) -> None:
    """A proxy in front of the service might use the other of the two."""
    if "image_url" in query:
        answer = client.get(f"/detect?{query}")
    else:
        answer = client.post(f"/detect?{query}", content=GOOD)
        assert _code(client.get(f"/annotate?image_url=http://a.example/&{query}")) == (422, "bad_parameter")
    assert _code(answer) == (422, "bad_parameter")
    assert "twice" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("conf=0.4,person=0.25", None),
        ("conf=person=0.25,traffic%20light=1", None),
        ("max_det=1000&agnostic_nms=true", None),
        ("conf=0.4,persn=0.25", "'person'"),
        ("conf=person=0.1,person=0.2", "'person' one threshold"),
        ("conf=0.4,person=2", "from 0 to 1"),
        ("conf=0.4,person=low", "0.4,person=0.25"),
        ("conf=", "0.4,person=0.25"),
        ("max_det=0", "1"),
        ("max_det=1001", "1000"),
        ("max_det=some", "integer"),
        ("agnostic_nms=perhaps", "boolean"),
        ("max_det=1&max_det=2", "once"),
    ],
)
def test_a_request_has_thresholds_of_classes_and_a_most(client: httpx.Client, query: str, told: str | None) -> None:
    for path in ("/detect", "/annotate"):
        answer = client.post(f"{path}?{query}", content=GOOD)
        if told is None:
            assert answer.status_code == 200
        else:
            assert _code(answer) == (422, "bad_parameter")
            assert told in str(answer.json()["error"])


def test_an_answer_that_was_cut_says_so(client: httpx.Client) -> None:
    assert client.get("/info").json()["defaults"]["max_det"] == 300
    crowd, cut = (client.post(f"/detect?conf=0&max_det={most}", content=GOOD).json() for most in (1000, 2))
    assert "truncated" not in crowd
    assert len(crowd["objects"]) > 2
    assert cut["truncated"] is True
    assert cut["objects"] == crowd["objects"][:2]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("DELETE", "/detect", 405, "method_not_allowed"),
        ("POST", "/annotate", 406, "not_acceptable"),
        ("GET", "/detect", 422, "bad_parameter"),
        ("POST", "/detect?conf=2", 422, "bad_parameter"),
    ],
)
def test_every_error_is_of_the_tree_with_its_parts_apart(
    client: httpx.Client, method: str, path: str, status: int, code: str
) -> None:
    """Every code is in `errors.py`, from which the documents are made; why and hint are fields of their own."""
    headers = {"Accept": "image/avif"} if path == "/annotate" else {}
    answer = client.request(method, path, content=b"not an image" if method == "POST" else None, headers=headers)
    assert _code(answer) == (status, code)
    assert REQUEST_ERRORS[code].status == status
    error = answer.json()["error"]
    assert set(error) == {"code", "message", "why", "hint"}
    assert error["why"] or error["hint"]
    assert not any(part and part in error["message"] for part in (error["why"], error["hint"]))


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_a_health_check_may_ask_for_the_head_only_and_is_not_counted(
    yolov8n_compiled: CompiledModel, path: str, tmp_path: Path
) -> None:
    with served(yolov8n_compiled, stats_file=tmp_path / "one.tally") as port:
        answer = httpx.head(f"http://127.0.0.1:{port}{path}", trust_env=False)
        assert (answer.status_code, answer.content) == (200, b"")
        assert httpx.get(f"http://127.0.0.1:{port}{path}", trust_env=False).status_code == 200
        assert httpx.get(f"http://127.0.0.1:{port}/nowhere", trust_env=False).status_code == 404
    stats = read_stats(tmp_path)
    assert (stats.requests, stats.errors) == (1, {"not_found": 1})


def test_the_page_is_open_small_kept_by_its_etag_and_not_counted(
    yolov8n_compiled: CompiledModel, tmp_path: Path
) -> None:
    """Also where a key is required: the page holds nothing of the service, and asks for the key itself."""
    stats_file, size = tmp_path / "one.tally", 0
    (tmp_path / "keys").touch(mode=0o600)
    with (
        served(yolov8n_compiled, stats_file=stats_file, api_key_file=str(tmp_path / "keys")) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client,
    ):
        page = client.get("/")
        links = re.findall(r'(?:src|href)="(page/[^"]+)"', page.text)
        scripts = [path.name for path in Path(page_files.__file__).with_name("page").glob("*.js")]
        assert len(links) == 3
        assert not re.search(r"<style|<script(?! type=.module. src=)| style=| on[a-z]+=|https?://(?!…)", page.text)
        for path in {"/", *(f"/{link}" for link in links), *(f"/page/{name}" for name in scripts)}:
            answer = client.get(path)
            assert answer.status_code == 200, path
            assert answer.headers["content-type"].partition(";")[0] == TYPES.get(Path(path).suffix, "text/html")
            assert "unsafe" not in answer.headers["content-security-policy"]
            assert client.head(path).content == b""
            again = client.get(path, headers={"If-None-Match": f'"another", W/{answer.headers["etag"]}'})
            assert (again.status_code, again.content) == (304, b"")
            # A browser puts the headers of a 304 in place of those that it kept.
            assert again.headers["content-security-policy"] == answer.headers["content-security-policy"]
            size += len(answer.content)
        assert client.get("/info").status_code == 401
    assert size < 60_000
    assert read_stats(tmp_path).requests == 1


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_without_the_page_load_balancers_still_get_200(yolov8n_compiled: CompiledModel, method: str) -> None:
    with served(yolov8n_compiled, page=False) as port:
        url = f"http://127.0.0.1:{port}/"
        answer = httpx.request(method, url, trust_env=False)
        assert answer.status_code == 200
        assert answer.text == ("" if method == "HEAD" else '{"status":"ok"}')
        assert httpx.get(f"{url}page/app.js", trust_env=False).status_code == 404


def test_answers_tell_how_long_each_stage_took(client: httpx.Client) -> None:
    for route, stages in (("/detect", ["fetch", "decode", "infer"]), ("/annotate", [*STAGES])):
        timing = client.post(route, content=GOOD).headers["server-timing"]
        assert [name for name in re.findall(r"(\w+);dur=\d+\.\d", timing) if name in stages] == stages


def test_classes_may_be_repeated(client: httpx.Client) -> None:
    assert client.post("/detect?class=bus&class=person", content=GOOD).status_code == 200


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/info", "/docs"])
def test_parameters_that_health_checkers_add_are_ignored(client: httpx.Client, path: str) -> None:
    assert client.get(f"{path}?t=1&t=2").status_code == 200


@pytest.mark.parametrize(("size", "media"), [((20_000, 10), "image/webp"), ((70_000, 10), "image/jpeg, image/webp")])
def test_a_picture_too_long_for_its_format_is_a_bad_parameter(
    client: httpx.Client, size: tuple[int, int], media: str
) -> None:
    """A PNG may be longer than WebP and JPEG allow; the hint names another format."""
    answer = client.post("/annotate", content=encoded("PNG", size), headers={"Accept": media})
    assert _code(answer) == (422, "bad_parameter")
    assert "image/png" in answer.json()["error"]["hint"]
    assert client.post("/annotate", content=encoded("PNG", size), headers={"Accept": "image/png"}).status_code == 200


CHROME = "image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8"
FIREFOX = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/png,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "width", "media"),
    [
        (CHROME, 320, "image/webp"),
        (CHROME, 17_000, "image/jpeg"),
        (CHROME, 70_000, "image/png"),
        (FIREFOX, 17_000, "image/png"),
        ("*/*", 70_000, "image/png"),
        ("image/webp, image/jpeg;q=0.1, image/png;q=0", 17_000, "image/jpeg"),
    ],
)
def test_what_a_picture_is_too_long_for_is_left_for_another_type_that_is_accepted(
    client: httpx.Client, accept: str, width: int, media: str
) -> None:
    answer = client.post("/annotate", content=encoded("PNG", (width, 10)), headers={"Accept": accept})
    assert (answer.status_code, answer.headers["content-type"]) == (200, media)
    with Image.open(io.BytesIO(answer.content)) as picture:
        assert (picture.size, picture.get_format_mimetype()) == ((width, 10), media)


WRITTEN = ["image/jpeg", "image/png", "image/webp"]


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("", "jpeg png webp"),
        ("*/*", "jpeg png webp"),
        ("image/*;q=0.1", "jpeg png webp"),
        ("image/png, image/jpeg", "png jpeg"),
        ("image/webp;q=0.2, image/png;q=0.9, image/jpeg;q=0.5", "png jpeg webp"),
        ("image/jpeg;q=0, */*", "png webp"),
        ("*/*, image/*;q=0.5, image/png;q=0.1", "jpeg webp png"),
        ("image/*;q=0, */*", ""),
        ("text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2", "jpeg png webp"),
        ("IMAGE/PNG ; Q=1.0 , image/webp;level=1;q=0.3", "png webp"),
        ("image/webp;q=high", "webp"),
        ("image/jpg, image/png;q=0.5", "jpeg png"),
        ("image/pjpeg", "jpeg"),
        ("image/avif", ""),
        ("*/*;q=0", ""),
        (",,;q=1,", "jpeg png webp"),
        ("image/png;q=0.000", ""),
    ],
)
def test_types_are_accepted_by_the_nearest_range_and_its_quality(accept: str, wanted: str) -> None:
    assert choices(accept, WRITTEN) == [f"image/{name}" for name in wanted.split()]


def test_nothing_acceptable_is_refused_and_headers_on_several_lines_are_one(client: httpx.Client) -> None:
    for accept in ("image/avif", "image/*;q=0", "text/html"):
        assert _code(client.post("/annotate", content=GOOD, headers={"Accept": accept})) == (406, "not_acceptable")
    lines = [("Accept", "image/avif"), ("Accept", "image/png")]
    assert client.post("/annotate", content=GOOD, headers=lines).headers["content-type"] == "image/png"
    request = client.build_request("POST", "/annotate", content=GOOD)
    del request.headers["accept"]
    assert client.send(request).headers["content-type"] == "image/jpeg"


@pytest.mark.parametrize("origin", [ORIGIN, "https://evil.example"])
def test_the_answer_to_a_preflight_request_restricts_browsers_too(client: httpx.Client, origin: str) -> None:
    """It is answered before the guard."""
    asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    answer = client.options("/detect", headers=asked)
    assert answer.status_code == (200 if origin == ORIGIN else 400)
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert len(client.get("/info", headers={"Origin": origin}).headers.get_list("cache-control")) == 1


def test_a_keyless_service_describes_its_refusals(yolov8n_compiled: CompiledModel) -> None:
    """421 is in the description of every route that the guard protects."""
    with served(yolov8n_compiled, own_host="127.0.0.1") as port:
        url = f"http://127.0.0.1:{port}"
        for path in ("/info", "/detect", "/annotate", "/metrics"):
            asked = httpx.get(url + path, headers={"Host": "evil.example"}, trust_env=False)
            assert _code(asked) == (421, "host_not_known")
        paths = httpx.get(f"{url}/openapi.json", trust_env=False).json()["paths"]
    assert {path for path, routes in paths.items() if "421" in routes["get"]["responses"]} == {
        "/info",
        "/detect",
        "/annotate",
        "/metrics",
    }


S3 = "https://b.s3.amazonaws.com/x.jpg?X-Amz-Algorithm=A"


@pytest.mark.parametrize(
    "rest",
    ["X-Amz-Signature=B", "sv=2022&sig=a%2Fb%3D", "class=banner", "conf=high", "class=bus&class=banner", "iou=1&iou=1"],
)
@pytest.mark.parametrize("path", ["/detect", "/annotate"])
def test_an_image_url_that_was_not_encoded_is_told_as_that(client: httpx.Client, path: str, rest: str) -> None:
    """Its own parameters arrive as ours; encoded, they are none of our business."""
    answer = client.get(f"{path}?image_url={S3}&{rest}".replace("b.s3.amazonaws.com", "127.0.0.1"))
    if answer.json()["error"]["code"] != "url_not_allowed":  # a class is looked up after the image was downloaded
        assert _code(answer) == (422, "bad_parameter")
        assert answer.json()["error"]["message"] == "image_url is not percent-encoded"
        assert f"`curl -G …{path} --data-urlencode image_url=https://…`" in answer.json()["error"]["hint"]
    else:
        assert "class" in rest
    encoded_url = client.get(path, params={"image_url": f"{S3}&{rest}".replace("b.s3.amazonaws.com", "127.0.0.1")})
    assert _code(encoded_url) == (403, "url_not_allowed")
    plain = client.get(f"{path}?image_url=https://127.0.0.1/x.jpg&confidence=1").json()["error"]
    assert (plain["message"], "percent-encoded" in plain["hint"]) == ("a query parameter is unknown", True)


@pytest.mark.parametrize("url", ["https://example.com/x.jpg", S3])
@pytest.mark.parametrize("path", ["/detect", "/annotate"])
def test_an_image_url_that_was_posted_is_told_to_go_by_get(client: httpx.Client, path: str, url: str) -> None:
    """As many other services take it; with a body or without."""
    for answer in (client.post(f"{path}?image_url={url}"), client.post(f"{path}?image_url={url}", content=GOOD)):
        assert _code(answer) == (422, "bad_parameter")
        assert answer.json()["error"]["message"] == "image_url is a parameter of GET"
        assert "`curl -G`" in answer.json()["error"]["hint"]


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("s3://bucket/x.jpg", "it is an object in S3"),
        ("gs://bucket/x.jpg", "it is an object in Google"),
        ("data:image/jpeg;base64," + "/9j/" * 3000, "it is a data: URL"),
        ("file:///etc/passwd", "it is a file: URL"),
        ("www.example.org/x.jpg", "it must begin with http:// or https://"),
        ("http:/example.org/x.jpg", "it is a URL whose beginning is misspelt"),
        ('"http://example.org/x.jpg"', "it is a URL with other characters around it"),
    ],
)
def test_an_address_of_another_kind_is_told_as_that(client: httpx.Client, url: str, why: str) -> None:
    answer = client.get("/detect", params={"image_url": url})
    assert _code(answer) == (400, "bad_url")
    assert answer.json()["error"]["why"].startswith(why)
    remedies = {"s": "presign", "h": "begin it with http://", '"': "name it without them"}
    for begin, remedy in remedies.items():
        assert (remedy in answer.json()["error"]["hint"]) == url.startswith(begin)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'{"image": "/9j/4AAQ"}', "JSON"),
        (b'{"image_url": "https://h/x.jpg"}', "JSON"),
        (base64.b64encode(GOOD), "an image in base64"),
        (b"image=%2F9j%2F4AAQ", "a URL-encoded form"),
        (b"data:image/jpeg;base64,/9j/", "a data: URL"),
        (b"<html>", "an HTML page"),
        (b"", "empty"),
    ],
)
@pytest.mark.parametrize("form", [False, True])
def test_what_is_sent_in_place_of_an_image_is_told_with_the_way_to_send_one(
    client: httpx.Client, body: bytes, kind: str, form: bool
) -> None:
    answer = client.post("/detect", files={"file": body}) if form else client.post("/detect", content=body)
    assert _code(answer) == (415, "unsupported_image")
    error = answer.json()["error"]
    assert error["message"] == f"what was sent is {kind}, not an image"
    assert error["hint"] == "send the bytes as they are: `curl --data-binary @image.jpg …/detect`"


def test_an_image_without_its_line_ends_is_answered_with_the_option_that_keeps_them(client: httpx.Client) -> None:
    """`curl --data` drops them, and names the type of a form; so does `--data-binary`, which is fine."""
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    for image in (GOOD, encoded("PNG")):
        assert client.post("/detect", content=image, headers=headers).status_code == 200
        answer = client.post("/detect", content=re.sub(rb"[\r\n\0]", b"", image), headers=headers)
        assert _code(answer) == (415, "unsupported_image")
        assert "--data-binary" in answer.json()["error"]["hint"]


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"image": ("a.jpg", GOOD)}, "its fields are 'image', and the image is looked for in `file`"),
        ({"file": (None, "a.jpg")}, "that field is text, without a file's name; with curl, an @ makes the difference"),
    ],
)
def test_a_form_without_its_file_is_told_what_it_has(client: httpx.Client, fields: Any, why: str) -> None:
    answer = client.post("/detect", files=fields)
    assert _code(answer) == (415, "unsupported_image")
    assert answer.json()["error"]["why"] == why
    assert "curl -F file=@image.jpg" in answer.json()["error"]["hint"]


@pytest.mark.parametrize("name", ["conf", "class", "max_det", "quality", "image_url"])
def test_a_parameter_in_a_form_is_told_where_it_belongs(client: httpx.Client, name: str) -> None:
    """It would change nothing, and nobody would know; other fields, such as a page's token, are left alone."""
    file = {"file": ("a.jpg", GOOD)}
    answer = client.post("/detect", data={name: "0.9"}, files=file)
    assert _code(answer) == (422, "bad_parameter")
    error = answer.json()["error"]
    if name == "image_url":
        assert error["message"] == "image_url is a parameter of GET"
    else:
        assert error["message"] == f"{name} is in the form"
        assert f"'…/detect?{name}=…'" in error["hint"]
    assert client.post("/detect", data={"csrf_token": "0.9"}, files=file).status_code == 200


def test_a_limit_of_pixels_travels_from_the_settings_to_the_refusal(yolov8n_compiled: CompiledModel) -> None:
    """What the hint says is enough."""
    model = ModelVersion("base", "base", "yolov8n", None, "0" * 64, Path("/models/yolov8n.pt"))
    detector = plan(UpSettings(max_image_pixels=2_000_000), model, yolov8n_compiled, "cpu", None).config.detector
    large = encoded("PNG", (2001, 1000))
    with served(yolov8n_compiled, max_image_pixels=detector.max_image_pixels) as port:
        url = f"http://127.0.0.1:{port}"
        assert httpx.get(f"{url}/info", trust_env=False).json()["limits"]["image_pixels"] == 2_000_000
        assert httpx.post(f"{url}/detect", content=encoded("PNG", (2000, 1000)), trust_env=False).status_code == 200
        answer = httpx.post(f"{url}/annotate", content=large, trust_env=False)
    assert _code(answer) == (413, "image_too_large")
    hint = answer.json()["error"]["hint"]
    assert hint == "send a smaller image, or raise the limit: `detectctl up --max-image-pixels 3M`"
    assert decode(large, max_bytes=len(large), max_pixels=pixel_count("3M")).shape == (1000, 2001, 3)


def test_without_url_input_no_url_is_opened(yolov8n_compiled: CompiledModel) -> None:
    """`--no-url-input` travels from the settings to the replica, which refuses every URL in the same words."""
    model = ModelVersion("base", "base", "yolov8n", None, "0" * 64, Path("/models/yolov8n.pt"))
    settings = UpSettings(url_input=False)
    planned = plan(settings, model, yolov8n_compiled, "cpu", None).config
    told = type(planned).from_json(asdict(planned))
    assert told.url_input is False
    with served(yolov8n_compiled, url_input=told.url_input) as port:
        for path in ("/detect", "/annotate"):
            for url in ("https://example.org/a.jpg", "http://127.0.0.1/", "nonsense"):
                query = {"image_url": url}
                answer = httpx.get(f"http://127.0.0.1:{port}{path}", params=query, trust_env=False, timeout=30)
                assert _code(answer) == (403, "url_not_allowed")
                assert "--no-url-input" in answer.json()["error"]["why"]
        good = httpx.post(f"http://127.0.0.1:{port}/detect", content=GOOD, trust_env=False, timeout=30)
        assert good.status_code == 200
