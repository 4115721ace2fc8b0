"""`manifest`: the same settings as those of `up`, for Kubernetes; and how a pod there comes to the model.

The model is pinned where the manifest is written, and converted there to learn what it is. A pod takes the checkpoint
of that sha256 from its image, or from where the reference leads, and converts it for its own processor.
"""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from detectctl.addresses import masked
from detectctl.engine.convert import compile_checkpoint
from detectctl.engine.detector_settings import BYTES_PER_PIXEL
from detectctl.errors import ModelCorrupt, ModelNotFound, UsageError
from detectctl.hosts import kuberay
from detectctl.lifecycle.conversion import convert
from detectctl.lifecycle.deployment import plan
from detectctl.progress import Progress
from detectctl.registry.resolve import resolve
from detectctl.registry.store import Store
from detectctl.serving.url_policy import parse_allow
from detectctl.settings import variable_of
from detectctl.waiting import Deadline

if TYPE_CHECKING:
    from collections.abc import Mapping

    from detectctl.paths import Paths
    from detectctl.progress import Report
    from detectctl.registry.model_version import ModelVersion
    from detectctl.settings import ManifestSettings, UpSettings
    from detectctl.wire import Device

_COMPILED = kuberay.CACHE / "served"
_CHECKPOINT = kuberay.CACHE / "served.pt"  # as Ultralytics wants it to be called
_LEAST_MEMORY = 2 << 30  # of a replica and of Ray beside it, and of PyTorch while it converts
_GIBIBYTE = 1 << 30


def manifest(settings: ManifestSettings, paths: Paths, environ: Mapping[str, str], report: Report) -> str:
    """KubeRay's RayService for these settings, as YAML.

    Raises:
        UsageError: a setting is wrong, does not suit Kubernetes, or would open the service by accident.
        ModelError: the model could not be pinned or converted.
    """
    _check(settings)
    deadline = Deadline.after(settings.timeout)
    model = _pinned(settings, paths, environ, deadline, report)
    report(Progress("resolve", f"{model.name} sha256:{model.sha256[:12]}", done=True))
    if model.source == "wandb" and settings.wandb_secret is None:
        raise UsageError(
            f"{model.reference} cannot be fetched by a pod",
            why="W&B wants a key, and nothing says where a pod finds it",
            hint="name the Secret that has it as wandb_api_key: `--wandb-secret NAME`",
        )
    device: Device = "cuda" if settings.gpus and settings.device != "cpu" else "cpu"
    compiled, device = convert(
        settings, model, device, cache=paths.cache, environ=environ, deadline=deadline, report=report
    )
    # Kubernetes spreads the pods, each of which has one replica.
    asked = replace(settings, spread=False)
    there = replace(model, checkpoint=_CHECKPOINT, reference=_reference(model))
    deployment = plan(asked, there, replace(compiled, directory=_COMPILED), device, None, remote=True)
    if settings.api_key_secret is not None:
        deployment = replace(deployment, config=replace(deployment.config, api_key_file=str(kuberay.KEYS)))
    pods = kuberay.Pods(
        name=settings.name,
        image=settings.image or "",
        ray=version("ray"),
        cpus=deployment.placement.cpus or 1,
        gpus=int(settings.gpus),
        memory=settings.memory or _memory(settings),
        minimum=deployment.minimum,
        maximum=deployment.maximum,
        spread=settings.spread,
        prepare=_prepare(settings, model, device),
        prepare_env=_prepare_env(settings, model, environ),
        key_secret=settings.api_key_secret,
        wandb_secret=settings.wandb_secret if model.source == "wandb" else None,
        token_secret=settings.ray_token_secret,
        redis=settings.redis,
        redis_secret=settings.redis_secret,
    )
    return kuberay.ray_service(deployment.application(), pods)


def _check(settings: ManifestSettings) -> None:
    """What can be said before a model is looked for."""
    parse_allow(settings.allow_url)
    _check_access(settings)
    _check_pods(settings)
    if settings.image is None:
        raise UsageError(
            "missing option '--image'",
            why="detectctl does not publish one",
            hint="build one: `docker build -f deploy/Dockerfile -t REGISTRY/detectctl .`, push it, and name it",
        )
    if not settings.name[0].isalpha():
        raise UsageError(
            f"--name {settings.name} cannot be the name of a Service",
            why="Kubernetes wants it to begin with a letter",
            hint="choose another, such as `--name yolo`",
        )
    if settings.assets_url is not None and masked(settings.assets_url) != settings.assets_url:
        raise UsageError(
            f"the assets URL {masked(settings.assets_url)} cannot be put into a manifest",
            why="it has a password in it, which everybody who may read the manifest would see",
            hint="build the model into the image, and leave the setting assets-url out",
        )


def _check_access(settings: ManifestSettings) -> None:
    if settings.api_key_secret is None and not settings.no_auth:
        raise UsageError(
            "the service would be open to everybody who reaches it",
            why="nothing says who may ask",
            hint="name the Secret of its keys: `--api-key-secret NAME`; or allow everybody: `--no-auth`",
        )
    if settings.api_key_secret is not None and settings.no_auth:
        raise UsageError(
            "--api-key-secret and --no-auth exclude each other",
            why="only one can say who may ask",
            hint="give one of them",
        )
    if settings.redis_secret is not None and settings.redis is None:
        raise UsageError(
            "--redis-secret is of no use alone",
            why="it has the password of the Redis that `--redis` names",
            hint="add `--redis HOST:PORT`",
        )


def _check_pods(settings: ManifestSettings) -> None:
    if settings.precision == "int8":
        raise UsageError(
            "--precision int8 is not possible on Kubernetes",
            why="each pod converts the model for itself, and has no images to calibrate with",
            hint="leave it out; or serve an export that is int8 already",
        )
    if settings.gpus != int(settings.gpus):
        raise UsageError(
            f"--gpus {settings.gpus:g} is not possible on Kubernetes",
            why="each replica has a pod of its own, and a pod has whole GPUs",
            hint="give a whole number, such as `--gpus 1`",
        )
    if settings.device == "cuda" and not settings.gpus:
        raise UsageError("--device cuda needs a GPU", why="a pod sees only those it asks for", hint="add `--gpus 1`")
    if settings.memory is not None and settings.memory < (least := _memory(settings)):
        raise UsageError(
            f"--memory {settings.memory} is too little",
            why=f"an image of {settings.max_image_pixels} pixels and all else may take {least >> 30} GiB together",
            hint=f"give `--memory {least >> 30}GiB`, or lower `--max-image-pixels`",
        )


def _memory(settings: ManifestSettings) -> int:
    needed = _LEAST_MEMORY + settings.max_image_pixels * BYTES_PER_PIXEL
    return -(-needed // _GIBIBYTE) * _GIBIBYTE


def _reference(model: ModelVersion) -> str:
    """What a pod asks for: never an alias, which may move, nor a path of this machine."""
    if model.source == "file":
        return Path(model.reference).name
    return model.artifact or model.reference


def _prepare(settings: ManifestSettings, model: ModelVersion, device: Device) -> tuple[str, ...]:
    return (
        "prepare",
        f"--model={_reference(model)}",
        f"--device={device}",
        f"--model-timeout={settings.model_timeout:g}",
        f"--timeout={settings.timeout:g}",
        *(("--trust-checkpoint",) if settings.trust_checkpoint else ()),
        model.sha256,
        str(_CHECKPOINT if device == "cuda" else _COMPILED),
    )


def _prepare_env(settings: ManifestSettings, model: ModelVersion, environ: Mapping[str, str]) -> dict[str, str]:
    """What says where the model comes from, beside its reference."""
    env = {}
    if model.source == "base" and settings.assets_url is not None:
        env[variable_of("assets-url")] = settings.assets_url
    if model.source == "wandb" and (server := environ.get("WANDB_BASE_URL")):
        env["WANDB_BASE_URL"] = server
    return env


def prepare(
    settings: UpSettings, sha256: str, target: Path, paths: Paths, environ: Mapping[str, str], report: Report
) -> None:
    """In a pod, before its replica starts: make `target` a link to what the replica loads.

    Raises:
        ModelNotFound: the model was a file where the manifest was written, and is not in the image.
        ModelCorrupt: what the reference means now has another sha256.
        ModelError: it could not be fetched or converted.
    """
    deadline = Deadline.after(settings.timeout)
    store = Store(paths.cache)
    try:
        checkpoint = store.open(sha256).path
    except ModelCorrupt:  # not in the image
        checkpoint = _fetched(settings, sha256, paths, environ, deadline, report)
    found = checkpoint
    if settings.device != "cuda":
        found = compile_checkpoint(
            checkpoint,
            sha256,
            cache=paths.cache,
            trust_checkpoint=settings.trust_checkpoint,
            timeout_s=deadline.left_s,
            environ=environ,
            report=report,
            name=settings.model,
        ).directory
    target.unlink(missing_ok=True)  # of an attempt that was cut off
    target.symlink_to(found)
    report(Progress("convert", f"{settings.model} sha256:{sha256[:12]}", done=True))


def _pinned(
    settings: UpSettings, paths: Paths, environ: Mapping[str, str], deadline: Deadline, report: Report
) -> ModelVersion:
    report(Progress("resolve", settings.model))
    return resolve(
        settings.model,
        cache=paths.cache,
        environ=environ,
        timeout_s=settings.model_timeout,
        within_s=deadline.left_s,
        fallback=False,  # what stands in for a model for a while must not be written down
        assets_url=settings.assets_url,
        report=report,
    )


def _fetched(
    settings: UpSettings,
    sha256: str,
    paths: Paths,
    environ: Mapping[str, str],
    deadline: Deadline,
    report: Report,
) -> Path:
    try:
        model = _pinned(settings, paths, environ, deadline, report)
    except UsageError as error:
        raise ModelNotFound(
            f"the model {settings.model} is not in this image",
            why=error.what_and_why,
            hint="build it in: `docker build --build-arg MODEL=FILE …`",
        ) from error
    if model.sha256 != sha256:
        raise ModelCorrupt(
            f"{settings.model} is not the model that the manifest was written for",
            why=f"its sha256 is {model.sha256}, not {sha256}",
            hint="run `detectctl manifest` again, and apply what it writes",
        )
    return model.checkpoint
