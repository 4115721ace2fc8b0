"""`up`: from settings to a service that answers; safe to repeat, and a failed start leaves nothing behind."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from detectctl import limits
from detectctl.addresses import masked
from detectctl.client.service_client import Client
from detectctl.engine import devices
from detectctl.engine.detector_settings import BYTES_PER_PIXEL, MAX_IMAGE_PIXELS
from detectctl.engine.int8.quantise import prepare
from detectctl.errors import DetectctlError, ModelError, NotReady, UsageError
from detectctl.hosts import places
from detectctl.hosts.cluster import runtime_environment
from detectctl.hosts.dashboard import ServeApiError
from detectctl.lifecycle import exposure
from detectctl.lifecycle.conversion import convert
from detectctl.lifecycle.deployment import plan
from detectctl.lifecycle.lock import locked
from detectctl.lifecycle.rollout import Rollout, Superseded, note_failure, scaled_to_zero
from detectctl.lifecycle.state import InstanceFolder, InstanceState, not_running
from detectctl.progress import Progress, Report
from detectctl.registry.resolve import resolve as resolve_reference
from detectctl.serving import tracing
from detectctl.serving.url_policy import parse_allow
from detectctl.signals import uninterrupted
from detectctl.waiting import Deadline

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from detectctl.engine.int8.calibration import Calibration
    from detectctl.hosts.host import Host
    from detectctl.lifecycle.deployment import Deployment
    from detectctl.lifecycle.exposure import Exposure
    from detectctl.paths import Paths
    from detectctl.registry.model_version import ModelVersion
    from detectctl.settings import UpSettings
    from detectctl.wire import Device, EngineInfo, ModelInfo, ServiceInfo


_ANSWER_S = 10.0  # at least, for `/info`


@dataclass(frozen=True, slots=True)
class UpResult:
    """What `up` did.

    Attributes:
        action: `started`, `updated` or `unchanged`.
        replicas: how many Serve wants now.
        seconds: from the command to the answer.
        endpoints: `endpoint`, and others that answer now, on a cluster those of its other nodes.
        api_key_file: the file of the keys that callers need; None if they need none.
        api_key: the key that was made now; never shown again.
    """

    name: str
    endpoint: str
    action: str
    model: ModelInfo
    engine: EngineInfo
    replicas: int
    seconds: float
    api_key_file: str | None = None
    api_key: str | None = field(default=None, repr=False)
    endpoints: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class UpJob:
    """What the steps of one `up` share, under the instance's lock.

    Attributes:
        begun: when the command began, on the monotonic clock, seconds.
        deadline: for the service to answer.
        state: of the instance.
        running: whether it is to be changed; otherwise it has to be started.
        calibration: images for int8; None for another precision.
        environment: of Ray, what an operator adds to that of replicas.
    """

    settings: UpSettings
    paths: Paths
    environ: Mapping[str, str]
    report: Report
    begun: float
    deadline: Deadline
    folder: InstanceFolder
    state: InstanceState
    running: bool
    device: Device
    exposure: Exposure
    calibration: Calibration | None
    environment: dict[str, Any]


def up(settings: UpSettings, paths: Paths, environ: Mapping[str, str], report: Report) -> UpResult:
    """Make the instance run the requested model; returns when it answers. Child processes and Ray inherit `environ`.

    Raises:
        UsageError: a setting is wrong, or a service that others reach would be open by accident.
        PortTaken: raised before anything starts.
        ModelError: the model could not be loaded; a running instance goes on as it was.
        NotReady: Ray or Serve failed, or the deadline passed; a start leaves nothing behind.
    """
    with begin(settings, paths, environ, report) as job:
        if job.running:
            _check_traces(job)
        model = resolve(job)
        return apply(job, lambda: deployment_of(job, model), model.served.digest)


@contextlib.contextmanager
def begin(
    settings: UpSettings, paths: Paths, environ: Mapping[str, str], report: Report, *, may_start: bool = True
) -> Iterator[UpJob]:
    """Check what can be checked before anything starts, and hold the instance's lock meanwhile; raises what `up` does.

    An instance that does not exist is started only if `may_start`, else it is a NotRunning error; what is left of one
    that died is removed in any case, so that it can be started again.
    """
    begun = time.monotonic()
    exposure.check(settings)
    parse_allow(settings.allow_url)
    device = _chosen_device(settings, environ, report)
    environment = runtime_environment.read(settings.runtime_env, settings.node_python)
    folder = InstanceFolder.named(settings, paths.state)
    with locked(folder, "up", settings.timeout, report), exposure.prepared(settings, folder, report) as exposed:
        deadline = Deadline.after(settings.timeout)
        _require_place(settings, folder.noted())
        state = folder.read()
        if state is None and not may_start:
            raise not_running(settings.name)
        running = state is not None and _can_change(state, folder, report)
        if state is None or not running:
            state = InstanceState.new(settings, environ)
        with state.open_host() as host:
            host.require(settings.route_prefix)
        calibration = prepare(settings.precision, settings.calibrate, report)
        yield UpJob(
            *(settings, paths, environ, report, begun, deadline, folder, state, running),
            *(device, exposed, calibration, environment),
        )


def _chosen_device(settings: UpSettings, environ: Mapping[str, str], report: Report) -> Device:
    """Where replicas compute; raises as `up` if this machine, where that matters, has not what they need."""
    if settings.address is None:
        for option, given in {
            "--cpus": settings.cpus is not None,
            "--gpus": settings.gpus > 0,
            "--spread": settings.spread,
            "--node-python": settings.node_python is not None,
            "--runtime-env": settings.runtime_env is not None,
            "--route-prefix": settings.route_prefix != "/",
        }.items():
            if given:
                raise UsageError(
                    f"{option} is of no use on this machine",
                    why="it says how to share a cluster with others",
                    hint="name the cluster: `--address http://HEAD:8265`; or leave it out",
                )
        if settings.max_image_pixels > MAX_IMAGE_PIXELS:
            limits.require_memory(settings.max_image_pixels * BYTES_PER_PIXEL)
        return devices.choose(settings.device, settings.precision, environ, report)
    if settings.device == "cuda" and not settings.gpus:
        raise UsageError(
            "--device cuda needs a GPU for each replica",
            why="on a cluster, a replica sees only the GPUs that it reserves",
            hint="add `--gpus 1`",
        )
    return "cuda" if settings.gpus and settings.device != "cpu" else "cpu"


def _require_place(settings: UpSettings, noted: InstanceState | None) -> None:
    """UsageError if this machine knows an instance of the name that is somewhere else."""
    wanted = f"{settings.host}:{settings.port}"
    if settings.address is not None:
        wanted = f"the cluster {settings.address}"
    if noted is not None and (place := places.described(noted.place)) != wanted:
        raise UsageError(
            f"instance {noted.name} listens on {place}, not {wanted}",
            why="the address of a running service cannot change",
            hint=f"run `detectctl down --name {noted.name}`, then `detectctl up` again; or choose another `--name`",
        )


def _check_traces(job: UpJob) -> None:
    """Warn that they are not sent where the environment says now, because replicas have that of the first `up`."""
    wanted = tracing.endpoint(job.environ)
    with job.state.open_host() as host:
        if wanted is None or wanted in {host.inherited(name) for name in tracing.ENDPOINTS}:
            return
    what = f"traces are not sent to {masked(wanted)}: the instance was started without that"
    job.report(Progress("start Ray", f"{what}; run `detectctl down`, then `detectctl up` again", warning=True))


def _can_change(state: InstanceState, folder: InstanceFolder, report: Report) -> bool:
    """Whether the instance lives; otherwise what is left of it is removed."""
    with state.open_host() as host:
        finished = state.deployed is not None or state.unknown
        if host.alive and finished:
            return True
        what = "died" if finished else "was never finished"
        report(Progress("stop", f"instance {state.name} {what}; cleaning up after it", warning=True))
        host.stop()
    folder.forget()
    return False


def resolve(job: UpJob, *, patience_s: float = math.inf) -> ModelVersion:
    """The model that the reference means now; raises as `up`. While W&B fails, it is asked again for `patience_s`."""
    settings, served = job.settings, job.state.last_good
    job.report(Progress("resolve", settings.model))
    with _noting_failure(job, digest=None):
        model = resolve_reference(
            settings.model,
            cache=job.paths.cache,
            environ=job.environ,
            timeout_s=settings.model_timeout,
            within_s=job.deadline.left_s,
            patience_s=patience_s,
            fallback=settings.fallback,
            # One that serves the base model as a fallback has nothing to lose, and `up` may be repeated.
            serving=job.running and not (served is not None and served.config.model.fallback),
            assets_url=settings.assets_url,
            report=job.report,
        )
    words = " ".join(filter(None, (model.name, model.version, f"sha256:{model.sha256[:12]}")))
    job.report(Progress("resolve", words, done=True))
    if model.reason is not None:
        kind = "fallback" if model.fallback else "stale"
        job.report(Progress("resolve", f"{kind}: {model.reason}", warning=True))
    return model


def deployment_of(job: UpJob, model: ModelVersion) -> Deployment:
    """What the settings ask for with this model, converted for the engine that will run it; raises as `up`."""
    compiled, device = convert(
        job.settings,
        model,
        job.device,
        job.calibration,
        cache=job.paths.cache,
        environ=job.environ,
        deadline=job.deadline,
        report=job.report,
    )
    with job.state.open_host() as host:
        return plan(
            job.settings,
            model,
            compiled,
            device,
            job.exposure.key_file,
            remote=host.remote,
            environment=job.environment,
        )


def apply(job: UpJob, make: Callable[[], Deployment], digest: str) -> UpResult:
    """Make the instance serve a deployment, whether it runs already or has to be started; raises as `up`.

    Args:
        job: from `begin`.
        make: gives the deployment; called while Ray starts, because neither needs the other.
        digest: of its model, `sha256:…`, to be noted if `make` fails.
    """
    if not job.running:
        return _start(job, make)
    with _noting_failure(job, digest=digest):
        deployment = make()
    with job.state.open_host() as host:
        action, state = Rollout(host, job.folder, job.deadline, job.report).change(job.state, deployment)
        return _result(job, host, action, state)


@contextlib.contextmanager
def _noting_failure(job: UpJob, *, digest: str | None) -> Iterator[None]:
    """`status` of a running instance tells of an update that failed before Serve heard of it."""
    try:
        yield
    except ModelError as error:
        if job.running:
            job.folder.write(note_failure(job.state, job.settings.model, error, digest=digest))
        raise


def _start(job: UpJob, make: Callable[[], Deployment]) -> UpResult:
    with job.state.open_host() as host:
        try:
            # Before anything exists: whatever kills this process, the next command finds what it began.
            job.folder.write(job.state)
            shutil.rmtree(job.folder.failed_logs, ignore_errors=True)  # of an earlier start
            state = replace(job.state, place=host.start(job.environ, job.folder.alive_file, job.report))
            job.folder.write(state)
            deployment = make()
            job.report(Progress("start Ray", "waiting for the head"))
            job.report(Progress("start Ray", host.wait_until_up(job.deadline), done=True))
            state = Rollout(host, job.folder, job.deadline, job.report).start(state, deployment)
            return _result(job, host, "started", state)
        except BaseException as error:  # also Ctrl-C: a failed start leaves nothing behind
            with uninterrupted():
                _keep_logs(host, job.folder)
                if not isinstance(error.__cause__, Superseded):  # else what is there is somebody else's by now
                    host.stop()
                job.folder.forget()
            raise


def _result(job: UpJob, host: Host, action: str, state: InstanceState) -> UpResult:
    try:
        served = host.status(job.deadline)
    except ServeApiError as error:
        raise NotReady(
            f"instance {state.name} does not answer", why=str(error), hint="check it with `detectctl status`"
        ) from error
    if action == "unchanged" and state.last_good is not None and scaled_to_zero(state, served):
        model, engine = state.last_good.config.model, state.last_good.engine  # a request would wake it
    else:
        info = _info(host.endpoint, job.exposure.key, job.deadline)
        model, engine = info.model, info.engine
    return UpResult(
        name=state.name,
        endpoint=host.endpoint,
        endpoints=host.endpoints,
        action=action,
        model=model,
        engine=engine,
        replicas=served.target_replicas,
        seconds=time.monotonic() - job.begun,
        api_key_file=None if job.exposure.key_file is None else str(job.exposure.key_file),
        api_key=job.exposure.new_key,
    )


def _info(endpoint: str, key: str | None, deadline: Deadline) -> ServiceInfo:
    """What the service says of itself. It answered a moment ago, so whatever is in the way now may pass."""
    with Client(endpoint, api_key=key, timeout_s=max(_ANSWER_S, deadline.left_s), wait_for_restart=True) as client:
        try:
            return client.info()
        except DetectctlError as error:
            raise NotReady(
                f"{endpoint} does not answer", why=error.what_and_why, hint="check it with `detectctl status`"
            ) from error


def _keep_logs(host: Host, folder: InstanceFolder) -> None:
    """Save what a failed start said, for `detectctl logs`."""
    shutil.rmtree(folder.failed_logs, ignore_errors=True)
    with contextlib.suppress(OSError, ServeApiError):
        for name, modified, lines in host.new_log_lines({}, unfinished=True):
            folder.failed_logs.mkdir(exist_ok=True)
            file = folder.failed_logs / name
            file.write_bytes(b"".join(line + b"\n" for line in lines))
            os.utime(file, (modified, modified))
