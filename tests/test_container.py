"""What lies in deploy/ for containers: the steps of the Dockerfile, carried out; and what compose.yaml names."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import psutil
import pytest
import yaml

from detectctl.hosts import kuberay
from detectctl.lifecycle.manifest import manifest
from detectctl.paths import Paths
from detectctl.progress import silent
from detectctl.serving.guard import OPEN_ROUTES
from detectctl.settings import DownSettings, ManifestSettings
from detectctl.values import Replicas
from dockerfile import Builder, Image, stages
from installed import free_port, wait_until
from rehearsed_pods import RehearsedPods

if TYPE_CHECKING:
    from collections.abc import Iterator

    from installed import Home

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
STAGES = stages((DEPLOY / "Dockerfile").read_text())
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
KEY = "a-key-for-tests"


def test_what_is_copied_is_in_the_context() -> None:
    """And not left out of it by .dockerignore; nor does the wheel need more than is copied."""
    ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] not in "#*"]
    copies = [step for stage in STAGES.values() for step in stage.steps if step.name == "COPY"]
    names = [name for step in copies if step.flag("from") is None for name in step.words.split()[:-1]]
    assert {"src", "pyproject.toml", "constraints.txt", "deploy/entrypoint.sh"} <= set(names)
    assert [name for name in names if not (ROOT / name).exists()] == []
    assert [name for name in names if any(name == each or name.startswith(f"{each}/") for each in ignored)] == []
    assert {step.flag("from") for step in copies} - {None} <= STAGES.keys()
    assert os.access(DEPLOY / "entrypoint.sh", os.X_OK)


def test_secrets_of_compose_are_neither_in_the_context_nor_in_git() -> None:
    assert COMPOSE["secrets"]["keys"]["file"].startswith("./secrets/")
    for file in (".dockerignore", ".gitignore"):
        assert "deploy/secrets" in {line.rstrip("/") for line in (ROOT / file).read_text().splitlines()}


def test_the_probe_asks_a_route_that_needs_no_key() -> None:
    (probe,) = (step.words for step in STAGES["base"].steps if step.name == "HEALTHCHECK")
    (route,) = re.findall(r"\}(/\w+)'", probe)
    assert route in OPEN_ROUTES
    assert "healthcheck" in COMPOSE["services"]["detectctl"]


def test_compose_names_what_is_there() -> None:
    """Files that are mounted, stages that are built, folders of the image, and whom Prometheus asks."""
    services = COMPOSE["services"]
    volumes = [volume.split(":") for service in services.values() for volume in service.get("volumes", ())]
    assert [source for source, *_ in volumes if source.startswith(".") and not (DEPLOY / source).exists()] == []
    assert {source for source, *_ in volumes if not source.startswith(".")} == COMPOSE["volumes"].keys()
    (chosen,) = re.findall(r"\$\{TARGET:-(\w+)\}", services["detectctl"]["build"]["target"])
    assert chosen in STAGES
    written = [*services["detectctl"]["volumes"], *services["detectctl"]["tmpfs"]]
    made = " ".join(step.words for step in STAGES["base"].steps if step.name == "RUN")
    assert [folder for folder in ("/var/cache/detectctl", "/var/lib/detectctl") if folder not in made] == []
    assert [folder for folder in ("/var/cache/detectctl", "/var/lib/detectctl") if folder not in str(written)] == []
    job = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())["scrape_configs"][0]
    assert job["static_configs"][0]["targets"] == ["detectctl:8000"]
    secrets = {secret["target"] for secret in services["prometheus"]["secrets"]}
    assert job["authorization"]["credentials_file"] in secrets
    asked = yaml.safe_load(COMPOSE["configs"]["datasource"]["content"])["datasources"][0]["url"]
    assert urlsplit(asked).hostname in services


def test_the_drain_ends_before_the_engine_kills() -> None:
    assert int(COMPOSE["services"]["detectctl"]["stop_grace_period"].removesuffix("s")) > DownSettings().timeout


def test_the_last_stages_run_as_another_user() -> None:
    for name in ("lean", "full"):
        assert [step.words for step in STAGES[name].steps if step.name == "USER"] == ["detectctl"]
    assert list(STAGES)[-1] == "full"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, yolov8n_pt: Path) -> Iterator[tuple[Builder, dict[str, Image]]]:
    """Both images, built from the Dockerfile's own steps, with a model in them that is called best.pt."""
    work = tmp_path_factory.mktemp("images")
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, work)
        context = work / "context"
        context.mkdir()
        for name in ("src", "deploy", "pyproject.toml", "constraints.txt", "README.md", "LICENSE"):
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, context / name)
        shutil.copy(yolov8n_pt, context / "best.pt")
        pip = [sys.executable, "-m", "pip"]
        cache = Path(subprocess.check_output([*pip, "cache", "dir"], text=True).strip())
        cache.mkdir(parents=True, exist_ok=True)
        # As whoever runs the tests has configured pip; the files and folders that this names are lent.
        configured = subprocess.check_output([*pip, "config", "list"], text=True)
        settings = dict(re.findall(r"^(?:global|install|:env:)\.(\S+)='(.*)'$", configured, re.MULTILINE))
        (work / "pip.conf").write_text("[global]\n" + "".join(f"{key} = {value}\n" for key, value in settings.items()))
        words = " ".join(settings.values()).split()
        # An index on this disk names files beside it.
        named = {Path(word.removeprefix("file://")).parent if "://" in word else Path(word) for word in words}
        lent = tuple(path for path in sorted(named) if path.is_absolute() and path.exists())
        builder = Builder(work / "layers", context, {"MODEL": "best.pt"}, {"pip.conf": work / "pip.conf"}, cache, lent)
        builder.work.mkdir()
        built: dict[str, Image] = {}
        for target in ("lean", "full"):
            builder.build(STAGES, target, built)
        yield builder, built


@dataclass(frozen=True)
class Container:
    """A running image: its first process, where it answers, and the file of what it says."""

    image: Image
    first: psutil.Process
    port: int
    said: Path

    def ask(self, path: str, body: bytes | None = None) -> bytes:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", body, {"Authorization": f"Bearer {KEY}"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            found: bytes = answer.read()
        return found

    def run(self, *program: str) -> subprocess.CompletedProcess[str]:
        """One more program in it, as its user."""
        there = ["nsenter", "--target", str(self.first.pid), "--mount", "--pid", "--root"]
        env = {"DETECTCTL_PORT": str(self.port)}
        return subprocess.run(
            [*there, *self.image.program(program, env)], capture_output=True, text=True, timeout=100, check=False
        )


@contextlib.contextmanager
def running(builder: Builder, image: Image, folder: Path, model: Path | None) -> Iterator[Container]:
    """As compose.yaml runs it, with a read-only root, folders for cache and state, and a key; but without an init.

    It serves `model`, or the one that was built in.
    """
    port = free_port()
    (folder / "keys").write_text(KEY)
    folder.chmod(0o755)
    binds = [(folder / "keys", "/run/secrets/keys", "ro")]
    for name in ("cache", "lib"):
        (folder / name).mkdir(mode=0o700)
        os.chown(folder / name, 10001, 10001)
        binds.append((folder / name, f"/var/{name}/detectctl", "rw"))
    env = {"DETECTCTL_PORT": str(port), "DETECTCTL_UP_API_KEY_FILE": "/run/secrets/keys"}
    if model is not None:
        binds.append((model, "/run/model.pt", "ro"))
        env["DETECTCTL_MODEL"] = "/run/model.pt"
    enter = builder.enter(image, [*image.entrypoint, *image.command], binds=binds, env=env)
    said = folder / "said"
    with (
        said.open("w") as output,
        subprocess.Popen(enter, stdin=subprocess.DEVNULL, stdout=output, stderr=output) as it,
    ):
        try:
            wait_until(lambda: psutil.Process(it.pid).children() or it.poll() is not None)
            (first,) = psutil.Process(it.pid).children()
            yield Container(image, first, port, said)
            assert it.wait(timeout=60) == 0, said.read_text()
        finally:  # with the first process, all that is in the container ends
            for one in psutil.Process(it.pid).children() if it.poll() is None else ():
                one.kill()


# Long: it installs everything, of which PyTorch alone is 700 MB, and starts three services.
@pytest.mark.long
@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(1800)
@pytest.mark.skipif(os.geteuid() != 0 or sys.base_prefix == "/usr", reason="needs root, and a Python outside /usr")
@pytest.mark.parametrize("target", ["lean", "full"])
def test_the_image_serves(
    target: str, images: tuple[Builder, dict[str, Image]], tmp_path: Path, fall_pt: Path, bus_jpg: Path
) -> None:
    """As another user, with a read-only root and no home; SIGTERM ends it when all requests are answered.

    One without PyTorch the model that was built in, the other one that it converts first.
    """
    builder, built = images
    image = built[target]
    sys.stdout.write(f"{target}: {image.size / 1e6:.0f} MB, and the base image\n")
    with running(builder, image, tmp_path, fall_pt if target == "full" else None) as container:
        wait_until(lambda: _is_ready(container) or not container.first.is_running(), 180)
        found = json.loads(container.ask("/detect", bus_jpg.read_bytes()))
        assert found["model"]["name"] == ("model" if target == "full" else "best")
        assert target == "full" or {one["class"] for one in found["objects"]} >= {"bus", "person"}
        probe = container.run(*image.probe)
        assert probe.returncode == 0, probe.stderr
        user = container.run("sh", "-c", "id -un; touch /opt/models/x || touch /nonexistent || detectctl status --json")
        name, _, document = user.stdout.partition("\n")
        assert name == "detectctl"
        assert json.loads(document)["state"] == "running"
        assert user.stderr.count("Read-only file system") == 2
        torch = container.run("python", "-c", "import torch")
        assert (torch.returncode == 0) == (target == "full")
        assert [one for one in psutil.process_iter(["status"]) if _is_dead(one, container)] == []
        container.first.send_signal(getattr(signal, image.stop_signal))
    assert "every accepted request was answered" in container.said.read_text()


@pytest.mark.long  # see above
@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(1800)
@pytest.mark.skipif(os.geteuid() != 0 or sys.base_prefix == "/usr", reason="needs root, and a Python outside /usr")
def test_the_image_serves_as_kuberay_starts_it(
    images: tuple[Builder, dict[str, Image]], home: Home, tmp_path: Path, yolov8n_pt: Path, bus_jpg: Path
) -> None:
    """The pods of `detectctl manifest`, of a file that only the image has: its init container's command, then Ray's.

    With the folders that Kubernetes mounts, which belong to somebody else, and nothing else that can be written.
    """
    builder, built = images
    image = built["lean"]
    model = shutil.copy(yolov8n_pt, tmp_path / "best.pt")
    settings = ManifestSettings(
        name="yolo", image="here", model=str(model), api_key_secret="keys", replicas=Replicas(1, 1)
    )
    pods = RehearsedPods(manifest(settings, Paths.from_environ(home.env), home.env, silent))
    cache, keys = tmp_path / "cache", tmp_path / "keys"
    cache.mkdir()
    cache.chmod(0o777)
    keys.write_text(KEY)
    tmp_path.chmod(0o755)
    writable, readable = ((cache, str(kuberay.CACHE), mode) for mode in ("rw", "ro"))
    made = builder.enter(image, [*image.entrypoint, *pods.prepare], binds=[writable])
    done = subprocess.run(made, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    mounted = [readable, (keys, str(kuberay.KEYS), "ro")]
    with (tmp_path / "said").open("w") as said:
        enter = builder.enter(image, pods.head(), binds=mounted, env=pods.env)
        pod = subprocess.Popen(enter, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
    try:
        assert pods.find(bus_jpg, key=KEY) >= {"bus", "person"}
    finally:
        pod.kill()  # and with it, all that is in the container
        pod.wait()
        sys.stdout.write((tmp_path / "said").read_text())


@pytest.mark.long  # see above
@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0 or sys.base_prefix == "/usr", reason="needs root, and a Python outside /usr")
def test_without_torch_only_torch_is_missing(images: tuple[Builder, dict[str, Image]]) -> None:
    """Nothing that was removed is needed by what stays, Ultralytics aside."""
    builder, built = images
    pip = [*["/usr/local/bin/python", "-m", "pip", "--python", "/opt/detectctl/bin/python", "check"]]
    done = subprocess.run(builder.enter(built["lean"], pip), capture_output=True, text=True, check=False)
    missing = [line for line in done.stdout.splitlines() if " requires " in line]
    assert len(missing) > 2
    assert [line for line in missing if not line.startswith("ultralytics-")] == []


def _is_dead(process: psutil.Process, container: Container) -> bool:
    """Whether it is a zombie that the container's first process should have reaped."""
    with contextlib.suppress(psutil.Error):
        return process.status() == psutil.STATUS_ZOMBIE and process.ppid() == container.first.pid
    return False


def _is_ready(container: Container) -> bool:
    with contextlib.suppress(OSError):
        return b"ready" in container.ask("/readyz")
    return False
