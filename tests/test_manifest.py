"""What `detectctl manifest` writes for Kubernetes, and that it serves: Ray is started as KubeRay starts it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import urllib.error
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import psutil
import pytest
import yaml

from detectctl.errors import ModelCorrupt, ModelNotFound, UsageError
from detectctl.hosts import kuberay
from detectctl.lifecycle.manifest import manifest, prepare
from detectctl.paths import Paths
from detectctl.precedence import Sources
from detectctl.processes import MARKER
from detectctl.progress import silent
from detectctl.settings import ManifestSettings, UpSettings
from detectctl.thresholds import Thresholds
from detectctl.values import Replicas
from dockerfile import stages
from installed import DETECTCTL, marked, wait_until
from rehearsed_pods import RehearsedPods

if TYPE_CHECKING:
    from collections.abc import Iterator

    from installed import Home
    from wandb_site import Site

HERE = Path(__file__).parent
SCHEMA = json.loads((HERE / "kuberay_rayservice_1.7.json").read_text())
KEY = "a-key-for-tests"
SETTINGS = ManifestSettings(name="yolo", image="registry.example/detectctl:1", no_auth=True)
SECRETS = replace(
    SETTINGS,
    no_auth=False,
    api_key_secret="keys",
    wandb_secret="wandb",
    ray_token_secret="ray",
    redis="redis:6379",
    redis_secret="redis",
)


def written(home: Home, settings: ManifestSettings, **environ: str) -> str:
    return manifest(settings, Paths.from_environ(home.env), home.env | environ, silent)


def parsed(home: Home, settings: ManifestSettings) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The cluster, its workers, and what Serve is told."""
    spec = yaml.safe_load(written(home, settings))["spec"]
    return (
        spec["rayClusterConfig"],
        spec["rayClusterConfig"]["workerGroupSpecs"][0],
        yaml.safe_load(spec["serveConfigV2"]),
    )


@pytest.fixture
def short_tmp() -> Iterator[Path]:
    """A folder whose path leaves room for Ray's sockets."""
    folder = Path(tempfile.mkdtemp(prefix="kr-"))
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    "settings",
    [
        SETTINGS,
        SECRETS,
        replace(SETTINGS, replicas=Replicas(0, 4), cpus=2, memory=6 << 30, spread=True, route_prefix="/yolo"),
        replace(SETTINGS, replicas=Replicas(2, 2), gpus=1.0, imgsz=320, allow_url=("10.0.0.0/8",)),
    ],
    ids=["plain", "secrets", "scaled", "gpu"],
)
def test_kuberay_knows_every_field(home: Home, settings: ManifestSettings) -> None:
    """And the same settings give the same bytes, which tell nothing of the machine they were written on."""
    text = written(home, settings)
    jsonschema.Draft202012Validator(SCHEMA).validate(yaml.safe_load(text))
    assert text == written(home, settings)
    assert str(home.path) not in text


def test_an_unknown_field_would_be_noticed(home: Home) -> None:
    document = yaml.safe_load(written(home, SETTINGS))
    pod = document["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]
    pod["containers"][0]["readinesProbe"] = {}
    with pytest.raises(jsonschema.ValidationError, match="readinesProbe"):
        jsonschema.Draft202012Validator(SCHEMA).validate(document)


def test_a_secret_is_named_and_mounted_where_it_is_read(home: Home) -> None:
    """Nobody gets a key that he does not need: W&B's is for fetching the model, which a base model does not need."""
    cluster, workers, serve = parsed(home, SECRETS)
    pod = workers["template"]["spec"]
    assert cluster["authOptions"] == {"mode": "token", "secretName": "ray"}
    assert "wandb" not in str(pod)
    (mount,) = (each for each in pod["containers"][0]["volumeMounts"] if each["name"] == "keys")
    assert serve["applications"][0]["args"]["api_key_file"] == f"{mount['mountPath']}/keys"
    assert {
        "name": "keys",
        "secret": {"secretName": "keys", "items": [{"key": "keys", "path": "keys"}], "defaultMode": 0o440},
    } in pod["volumes"]


def test_a_file_is_known_by_its_name_whatever_that_is(home: Home, yolov8n_pt: Path) -> None:
    """Not by its path: a pod looks for it in its image."""
    file = Path(shutil.copy(yolov8n_pt, home.path / "é: #1\x85 '猫'.pt"))
    _, workers, serve = parsed(home, replace(SETTINGS, model=str(file)))
    assert serve["applications"][0]["args"]["model"]["name"] == file.stem
    assert f"--model={file.name}" in workers["template"]["spec"]["initContainers"][0]["args"]


def test_each_replica_fits_a_pod_and_each_pod_one_replica(home: Home) -> None:
    cluster, workers, serve = parsed(home, replace(SETTINGS, replicas=Replicas(0, 4), cpus=2))
    (deployment,) = serve["applications"][0]["deployments"]
    assert deployment["ray_actor_options"]["num_cpus"] == int(workers["rayStartParams"]["num-cpus"]) == 2
    assert workers["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"] == "2"
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert (workers["minReplicas"], workers["maxReplicas"], cluster["enableInTreeAutoscaling"]) == (0, 4, True)
    assert deployment["autoscaling_config"]["max_replicas"] == 4


def test_only_what_replaces_replicas_makes_another_cluster(home: Home) -> None:
    """Thresholds and the number of replicas are changed where they run."""
    one = replace(SETTINGS, replicas=Replicas(1, 1))
    cluster, workers, serve = parsed(home, one)
    for same in (replace(one, conf=Thresholds(0.5)), replace(one, replicas=Replicas(3, 3))):
        there, theirs, told = parsed(home, same)
        assert told != serve
        assert (there["headGroupSpec"], theirs["template"]) == (cluster["headGroupSpec"], workers["template"])
    for other in (replace(one, page=False), replace(one, route_prefix="/yolo"), replace(one, image="other")):
        assert parsed(home, other)[1]["template"] != workers["template"]


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"image": None}, "--image"),
        ({"no_auth": False}, "open to everybody"),
        ({"api_key_secret": "keys"}, "exclude each other"),
        ({"name": "1st"}, "--name 1st"),
        ({"precision": "int8"}, "--precision int8"),
        ({"gpus": 0.5}, "--gpus 0.5"),
        ({"device": "cuda"}, "--device cuda"),
        ({"redis_secret": "redis"}, "--redis-secret"),
        ({"memory": 1 << 30}, "--memory 1073741824"),
        ({"assets_url": "https://me:hunter2@mirror.example"}, r"me|\*\*\*"),
        ({"model": "yolov8n-none"}, "yolov8n-none"),
    ],
)
def test_what_cannot_be_on_kubernetes_is_refused(home: Home, changed: dict[str, Any], what: str) -> None:
    with pytest.raises(UsageError, match=what) as caught:
        written(home, replace(SETTINGS, **changed))
    assert caught.value.why
    assert caught.value.hint
    assert "hunter2" not in str(caught.value)


def test_the_settings_of_up_are_those_of_the_manifest(tmp_path: Path) -> None:
    """Whether from the file or from the environment; what says where `up` starts something is no setting of it."""
    file = tmp_path / "detectctl.toml"
    file.write_text('[up]\nmodel = "yolo11n"\nhost = "0.0.0.0"\ntimeout = 7\n[manifest]\nimage = "there"\n')
    sources = Sources.read({"DETECTCTL_UP_IOU": "0.5", "HOME": "/nowhere"}, file)
    found, _ = sources.load(ManifestSettings, {})
    assert (found.model, found.iou, found.image, found.timeout, found.host) == (
        "yolo11n",
        0.5,
        "there",
        180,
        "127.0.0.1",
    )


@pytest.mark.slow  # the W&B SDK
def test_an_alias_is_pinned(site: Site) -> None:
    """Also where the manifest is written again, after the alias has moved: then it names the other version."""
    args = ["manifest", "--model", "acme/registry/yolo:latest", "--image", "there", "--no-auth"]
    refused = site.home.run(*args, **site.env)
    assert refused.returncode == 2
    assert "--wandb-secret" in refused.stderr
    done = site.home.run(*args, "--wandb-secret", "wandb", "-o", "out.yaml", **site.env)
    assert done.returncode == 0, done.stderr
    text = (site.home.path / "out.yaml").read_text()
    assert "--model=acme/registry/yolo:v0#best.pt" in text
    assert "--model=acme/registry/yolo:latest" not in text
    assert site.env["WANDB_API_KEY"] not in text


def test_a_pod_serves_the_model_of_the_manifest_or_nothing(home: Home) -> None:
    paths, target = Paths.from_environ(home.env), home.cache / "served"
    _, workers, _ = parsed(home, SETTINGS)
    *_, sha256, place = workers["template"]["spec"]["initContainers"][0]["args"]
    assert place == "/var/cache/detectctl/served"
    for _attempt in range(2):  # it may have been cut off
        prepare(UpSettings(), sha256, target, paths, home.env, silent)
    assert (target / "model.xml").is_file()
    _, workers, serve = parsed(home, replace(SETTINGS, gpus=1.0))
    on_gpu = Path(workers["template"]["spec"]["initContainers"][0]["args"][-1])
    assert serve["applications"][0]["args"]["detector"]["model"] == str(on_gpu)
    assert on_gpu.suffix == ".pt"  # or PyTorch's engine refuses it
    prepare(UpSettings(device="cuda"), sha256, home.cache / on_gpu.name, paths, home.env, silent)
    assert (home.cache / on_gpu.name).resolve().name == "checkpoint.pt"
    with pytest.raises(ModelCorrupt, match="base is not the model"):
        prepare(UpSettings(), "0" * 64, target, paths, home.env, silent)
    with pytest.raises(ModelNotFound, match=r"best\.pt is not in this image"):
        prepare(UpSettings(model="best.pt"), "0" * 64, target, paths, home.env, silent)


def test_the_image_is_what_the_pods_expect() -> None:
    """Its user, its folder of models, and where its entry point looks for W&B's key."""
    base = stages((HERE.parent / "deploy" / "Dockerfile").read_text())["base"]
    text = " ".join(step.words for step in base.steps)
    assert f"--uid {kuberay.USER_ID}" in text
    assert f"XDG_CACHE_HOME={kuberay.CACHE.parent}" in text
    assert str(kuberay._WANDB_KEY) in (HERE.parent / "deploy" / "entrypoint.sh").read_text()


@pytest.mark.cluster
@pytest.mark.slow  # Ray
def test_what_is_written_serves(home: Home, short_tmp: Path, bus_jpg: Path) -> None:
    """Without Kubernetes: only paths and ports are others. In its image: see test_container.py."""
    (short_tmp / "keys").write_text(KEY)
    settings = replace(SECRETS, replicas=Replicas(1, 1), redis=None, redis_secret=None)
    text = written(home, settings)
    for there, here in {kuberay.CACHE: home.cache, kuberay.KEYS: short_tmp / "keys"}.items():
        text = text.replace(str(there), str(here))
    pods = RehearsedPods(text)
    done = home.run(*pods.prepare)
    assert done.returncode == 0, done.stderr
    env = {
        "PATH": f"{DETECTCTL.parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": "/nonexistent",
        MARKER: pods.token[:16],
    }
    with (short_tmp / "head.log").open("w") as log:
        command = pods.head(f"--temp-dir={short_tmp / 'ray'}")
        head = subprocess.Popen(
            command, env=env | pods.env, cwd=short_tmp, stdout=log, stderr=log, start_new_session=True
        )
    try:
        assert {"bus", "person"} <= pods.find(bus_jpg, key=KEY)
        with pytest.raises(urllib.error.HTTPError, match="401"):
            pods.find(bus_jpg, key="another-key")
    finally:
        wait_until(lambda: not _killed(pods.token[:16]))
        head.wait(timeout=30)


def _killed(mark: str) -> list[psutil.Process]:
    found = marked(mark)
    for process in found:
        with contextlib.suppress(psutil.Error):
            process.kill()
    return found
