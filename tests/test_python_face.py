"""`from detectctl import …`: what is promised is there, typed, and loads when it is used."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest

import detectctl
from bent_service import Request, bent
from detectctl import Client, Detection, DetectOptions, errors

if TYPE_CHECKING:
    from pathlib import Path

BUS = {"class": "bus", "coordinates": [10.0, 5.0, 90.0, 45.0], "confidence": 0.8734, "class_id": 5}


def found(request: Request) -> None:
    request.found(BUS)


def test_every_name_that_is_promised_is_there() -> None:
    for name in detectctl.__all__:
        assert getattr(detectctl, name) is not None
        assert name in dir(detectctl)


def test_what_is_not_promised_is_not_there() -> None:
    with pytest.raises(AttributeError, match="module 'detectctl' has no attribute 'Klient'"):
        detectctl.Klient  # type: ignore[attr-defined]  # noqa: B018


def test_a_name_is_the_class_that_the_other_modules_use() -> None:
    assert detectctl.NotRunning is errors.NotRunning
    assert detectctl.DetectctlError in detectctl.Unauthorized.__mro__


def test_importing_loads_nothing_and_a_client_only_what_asks() -> None:
    code = """
        import sys
        import detectctl
        print(sorted(name for name in sys.modules if name.startswith("detectctl")))
        from detectctl import Client
        heavy = {"PIL", "httpx", "ray", "torch", "ultralytics", "wandb", "openvino", "numpy", "cv2", "rich", "typer"}
        print(sorted(heavy & set(sys.modules)))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["['detectctl']", "[]"]


@pytest.mark.parametrize("given", ["str", "Path", "bytes"])
def test_an_image_may_be_given_as_what_it_is(given: str, tmp_path: Path) -> None:
    (tmp_path / "bus.jpg").write_bytes(b"image")
    images: dict[str, str | Path | bytes] = {
        "str": str(tmp_path / "bus.jpg"),
        "Path": tmp_path / "bus.jpg",
        "bytes": b"image",
    }
    with bent(found) as service, Client(service.url, api_key="secret") as client:
        result = client.detect(images[given])
    assert result.detections == (Detection("bus", (10.0, 5.0, 90.0, 45.0), 0.8734, 5),)
    assert service.requests[0].body == b"image"
    assert service.requests[0].headers["authorization"] == "Bearer secret"


def test_a_url_is_given_as_text() -> None:
    with bent(found) as service, Client(service.url) as client:
        client.detect("https://example.com/bus.jpg", DetectOptions(confidence=0.5))
    assert dict(service.requests[0].query) == {"image_url": "https://example.com/bus.jpg", "conf": "0.5"}


def test_many_images_may_be_given_as_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"image")
    with bent(found) as service, Client(service.url) as client:
        first, missing, last = client.detect_all([tmp_path / "a.jpg", "missing.jpg", b"image"])
    assert first.source.name == str(tmp_path / "a.jpg")
    assert isinstance(missing.error, detectctl.SourceUnreadable)
    assert missing.error.what == "missing.jpg cannot be read"
    assert last.result is not None


@pytest.mark.slow
def test_a_type_checker_knows_the_names_and_their_types(tmp_path: Path) -> None:
    """Under mypy's strict rules, from outside: right use passes, and each wrong one is noticed."""
    (tmp_path / "right.py").write_text(
        textwrap.dedent("""\
            from pathlib import Path

            from detectctl import Client, Detection, DetectionResult, DetectOptions, DrawOptions, RequestError

            def count(image: str | Path | bytes) -> int:
                with Client("http://127.0.0.1:8000", api_key="key", fetch="client") as client:
                    try:
                        result: DetectionResult = client.detect(image, DetectOptions(confidence=0.5, classes=("bus",)))
                    except RequestError as error:
                        print(error.code, error.hint)
                        return 0
                    best: Detection = result.detections[0]
                    x1, y1, x2, y2 = best.xyxy
                    picture, _ = client.annotate(image, "webp", drawing=DrawOptions(labels=False))
                    for outcome in client.detect_all(["a.jpg", Path("b.jpg"), b""]):
                        print(outcome.source.name, outcome.error)
                    return round((x2 - x1) * (y2 - y1)) + len(picture)
        """)
    )
    (tmp_path / "wrong.py").write_text(
        textwrap.dedent("""\
            from detectctl import Client, Klient
            Client(8000)
            Client("http://h", fetch="nobody")
            Client("http://h").detect(7)
            Client("http://h").annotate("a.jpg", "gif")
        """)
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", tmp_path / "cache", "right.py", "wrong.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert [line.partition(": error")[0] for line in done.stdout.splitlines()[:-1]] == [
        f"wrong.py:{number}" for number in range(1, 6)
    ], done.stdout
