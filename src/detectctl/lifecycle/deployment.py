"""What should run: a pinned model with its settings, as Serve's declarative configuration."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import detectctl
from detectctl import limits
from detectctl.engine.compiled import read_agreement
from detectctl.engine.cpus import available_cpus
from detectctl.engine.detector_settings import CONFIDENCE, DetectorSettings
from detectctl.keys import key_digests
from detectctl.lifecycle import sizing
from detectctl.serving.service_config import APPLICATION, DEPLOYMENT, IMPORT_PATH, MAX_QUEUE, ServiceConfig
from detectctl.wire import Device, EngineInfo

if TYPE_CHECKING:
    from detectctl.engine.compiled import CompiledModel
    from detectctl.registry.model_version import ModelVersion
    from detectctl.settings import UpSettings

# Serve's own limit lies above ours, so that a refused request gets our JSON and Retry-After, not Serve's text.
_SERVE_MAX_ONGOING = 4 * MAX_QUEUE
# Of a replica on a GPU, whose requests share batches. One on the CPU should have as many as it works on at a time: more
# have to wait, for about as long as one takes, and one replica fewer could not do what is there.
_TARGET_ONGOING_ON_GPU = 8
# Of a CPU, as Ray counts them: room for as many replicas as may be asked for, and to replace them one for one. CPU time
# is the scheduler's business, not Ray's, and so is the GPU: a replica uses the first one that it sees.
_REPLICA_SHARE = 0.001


@dataclass(frozen=True, slots=True)
class Placement:
    """Where replicas run, and what of it is theirs.

    Attributes:
        cpus: that each reserves and uses; None for a machine of our own, which they share.
        gpus: that each reserves.
        spread: whether each node should have as many as another.
        route_prefix: below which the service answers.
        environment: what they get beside what the host gives them, as Ray's runtime environment.
    """

    cpus: int | None = None
    gpus: float = 0.0
    spread: bool = False
    route_prefix: str = "/"
    environment: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Deployment:
    """A configuration that can be handed to Serve, compared, and restored: from `minimum` to `maximum` replicas.

    Attributes:
        config: what each replica is given.
        source: where the model came from: `base`, `file` or `wandb`.
        artifact: the exact one on W&B; see `ModelVersion`.
        placement: what replicas are given.
        sizing: why `--replicas auto` chose so many; empty where it did not.
    """

    config: ServiceConfig
    minimum: int
    maximum: int
    device: Device
    source: str
    artifact: str | None = None
    placement: Placement = Placement()
    sizing: str = ""

    @property
    def fingerprint(self) -> str:
        """Equal for two deployments that would serve the same in the same way."""
        return self.config.fingerprint

    @property
    def engine(self) -> EngineInfo:
        """What computes, as far as that is known without asking a replica."""
        detector = self.config.detector
        precision = None if detector.precision == "auto" else detector.precision
        agreement = read_agreement(Path(detector.model)) if precision == "int8" else None
        return EngineInfo(detector.engine, detector.device, precision, agreement=agreement)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Deployment:
        """The inverse of `asdict`; TypeError or KeyError on another shape."""
        placement = Placement(**data.get("placement", {}))  # earlier versions had no clusters
        return cls(**{**data, "config": ServiceConfig.from_json(data["config"]), "placement": placement})

    def application(self, running: int = 0) -> dict[str, Any]:
        """As one application of Serve's REST interface, for any host; `running`: replicas that it has already."""
        args, user_config = self.config.split()
        deployment: dict[str, Any] = {
            "name": DEPLOYMENT,
            "user_config": user_config,
            "max_ongoing_requests": _SERVE_MAX_ONGOING,
            "max_queued_requests": _SERVE_MAX_ONGOING,
            "max_surge_percent": 100,  # the new replica serves before the old one stops
            "graceful_shutdown_wait_loop_s": 0.2,
            "graceful_shutdown_timeout_s": 150,  # more than a replica may take for a request; `down` has its own limit
            "health_check_period_s": 1,  # a killed replica is noticed at the next look
            "health_check_timeout_s": 15,
            "ray_actor_options": {"num_cpus": self.placement.cpus or _REPLICA_SHARE},
        }
        if self.placement.gpus:
            deployment["ray_actor_options"]["num_gpus"] = self.placement.gpus
        if self.placement.environment:
            deployment["ray_actor_options"]["runtime_env"] = self.placement.environment
        if self.minimum == self.maximum:
            deployment["num_replicas"] = self.minimum
        else:
            deployment["autoscaling_config"] = {
                "min_replicas": self.minimum,
                "max_replicas": self.maximum,
                "target_ongoing_requests": self.config.detector.streams or _TARGET_ONGOING_ON_GPU,
                # A jump of the load is seen at once: replicas report every second instead of every ten, and what counts
                # is the mean of three seconds instead of thirty.
                "metrics_interval_s": 1,
                "look_back_period_s": 3,
                "upscale_delay_s": 1,
                # They go one at a time, each after two minutes without need of it: under a steady load that ebbs for a
                # moment, more at once would be started again at the next.
                "downscale_delay_s": 120,
                "downscaling_factor": 0.1,
                "downscale_to_zero_delay_s": 60,
            }
            if self.minimum == 0:
                # Serve goes to this number at each change, and otherwise stays at what the load has asked for. Without
                # it a new model would not be loaded before the first request, and `up` could not say whether it loads.
                deployment["autoscaling_config"]["initial_replicas"] = min(max(1, running), self.maximum)
        if self.placement.spread:
            deployment["spread"] = True  # how many that is on a node, the host knows
        application = {"name": APPLICATION, "route_prefix": self.placement.route_prefix, "import_path": IMPORT_PATH}
        return {**application, "args": args, "deployments": [deployment]}


def plan(
    settings: UpSettings,
    model: ModelVersion,
    compiled: CompiledModel,
    device: Device,
    api_key_file: Path | None,
    *,
    remote: bool = False,
    environment: dict[str, Any] | None = None,
) -> Deployment:
    """The deployment that `settings` ask for with this model; below this, nothing knows the command line's settings.

    `remote`: for a host of whose disk replicas see nothing, so that keys travel as digests.
    `environment`: see `Placement`.
    """
    placement = Placement()
    if remote:
        cpus, gpus, prefix = settings.cpus or 1, settings.gpus, settings.route_prefix
        placement = Placement(cpus, gpus, settings.spread, prefix, environment or {})
    on_gpu = device == "cuda"
    shared = not remote and not on_gpu
    size = sizing.size(settings.replicas, available_cpus() if shared else None, limits.whole_memory())
    detector = DetectorSettings(
        model=str(model.checkpoint if on_gpu else compiled.directory),
        sha256=model.sha256,
        engine="torch" if on_gpu else "openvino",
        device=device,
        precision=cast("Any", settings.precision),  # the settings have checked it
        imgsz=settings.imgsz,
        confidence=CONFIDENCE if settings.conf.confidence is None else settings.conf.confidence,
        class_confidence={name: least for name, least in settings.conf.by_class.items() if compiled.trained.ids(name)},
        iou=settings.iou,
        max_det=settings.max_det,
        agnostic_nms=settings.agnostic_nms,
        threads=placement.cpus,
        trust_checkpoint=settings.trust_checkpoint,
        max_image_bytes=settings.max_image_bytes,
        max_image_pixels=settings.max_image_pixels,
        streams=None if on_gpu else size.streams or placement.cpus,
    )
    config = ServiceConfig(
        fingerprint="",
        version=detectctl.__version__,
        model=replace(model.served, task=compiled.trained.task),
        detector=detector,
        allow_url=settings.allow_url,
        url_input=settings.url_input,
        api_key_file=None if api_key_file is None else str(api_key_file),
        key_digests=key_digests(api_key_file) if remote and api_key_file is not None else (),
        # Neither keys nor --no-auth: the service listens on loopback, for the users of this machine.
        own_host=settings.host if api_key_file is None and not settings.no_auth and not remote else None,
        cors_origin=settings.cors_origin,
        docs=settings.docs,
        page=settings.page,
        metrics_public=settings.metrics_public,
    )
    config = replace(config, fingerprint=_fingerprint(config, size, placement if remote else None))
    return Deployment(
        config, size.minimum, size.maximum, device, model.source, model.artifact, placement, sizing=size.why
    )


def _fingerprint(config: ServiceConfig, size: sizing.Size, placement: Placement | None) -> str:
    """The same for all that serves the same in the same way."""
    told = replace(config, model=replace(config.model, reason=None))  # its wording is not a change; everything else is
    compared = {**asdict(told), "replicas": [size.minimum, size.maximum], "device": config.detector.device}
    if placement is not None:
        compared["placement"] = asdict(placement)
    return hashlib.sha256(json.dumps(compared, sort_keys=True).encode()).hexdigest()[:16]
