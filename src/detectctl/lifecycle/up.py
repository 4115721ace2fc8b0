"""`up`: from settings to a service that answers; safe to repeat, and a failed start leaves nothing behind."""

from __future__ import annotations

import contextlib
import shutil
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import httpx

from detectctl.engine.convert import compile_checkpoint
from detectctl.errors import ModelError, NotReady, UsageError
from detectctl.hosts.local import haproxy, ports, ray_head
from detectctl.hosts.serve_rest import ServeApiError
from detectctl.lifecycle import exposure, int8
from detectctl.lifecycle.deployment import Deployment, plan
from detectctl.lifecycle.lock import locked
from detectctl.lifecycle.rollout import Rollout, asleep, note_failure
from detectctl.lifecycle.state import InstanceFolder, InstanceState, not_running
from detectctl.progress import Progress, Report
from detectctl.registry.resolve import resolve
from detectctl.serving.url_policy import parse_allow
from detectctl.signals import uninterrupted
from detectctl.wire import ServiceInfo

if TYPE_CHECKING:
    from collections.abc import Mapping

    from detectctl.engine.int8.calibration import Calibration
    from detectctl.hosts.serve_rest import ServeApi, ServeStatus
    from detectctl.paths import Paths
    from detectctl.registry.model_version import ModelVersion
    from detectctl.settings import UpSettings
    from detectctl.wire import EngineInfo, ModelInfo


_POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class UpResult:
    """What `up` did.

    Attributes:
        name: of the instance.
        endpoint: where the service answers.
        action: `started`, `updated` or `unchanged`.
        model: what is served, with its reference.
        engine: what computes.
        replicas: wanted now.
        seconds: from the command to the answer.
        api_key_file: of the keys that callers need; None if they need none.
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


@dataclass(frozen=True, slots=True)
class Rejected:
    """Models that are not tried again.

    Attributes:
        digests: theirs, `sha256:…`.
        instead: what is started where one of them would be.
    """

    digests: frozenset[str] = frozenset()
    instead: Deployment | None = None


_NOTHING_REJECTED = Rejected()


def up(
    settings: UpSettings,
    paths: Paths,
    environ: Mapping[str, str],
    report: Report,
    rejected: Rejected = _NOTHING_REJECTED,
    *,
    may_start: bool = True,
) -> UpResult:
    """Make the instance run the asked-for model; returns when it answers.

    Args:
        settings: what is asked for.
        paths: where state and models are.
        environ: what child processes and the Ray head inherit.
        report: told what goes on.
        rejected: if the reference means one of these, what serves goes on serving.
        may_start: whether to start an instance that is not there; one that died is started again anyway.

    Raises:
        NotRunning: it is not there and may not be started.
        UsageError: a setting is wrong, or a service that others reach would be open by accident.
        PortTaken: said before anything starts.
        ModelError: the model could not be loaded; a running instance goes on as it was.
        NotReady: Ray or Serve failed, or the deadline passed; a start leaves nothing behind.
    """
    begun = time.monotonic()
    exposure.check(settings)
    parse_allow(settings.allow_url)
    device = _device(settings.device)
    _require_precision(settings.precision, device)
    calibration = int8.prepare(settings, device, report)
    folder = InstanceFolder(paths.state, settings.name)
    with locked(folder, "up", settings.timeout, lambda holder: report(Progress("lock", holder, warning=True))):
        with exposure.prepared(settings, folder, report) as who:
            deadline = time.monotonic() + settings.timeout
            if not may_start and folder.read() is None:
                raise not_running(settings.name)
            job = _Up(settings, paths, environ, folder, deadline, report, who.key_file, calibration, rejected)
            action, state = job.run()
        served = _served(state)
        if action == "unchanged" and state.last_good is not None and asleep(state, served):
            deployment = Deployment.from_json(state.last_good)
            model, engine = deployment.config.model, deployment.engine
        else:
            info = _info(state.endpoint, who.key, deadline)
            model, engine = info.model, info.engine
    seconds = time.monotonic() - begun
    key_file = None if who.key_file is None else str(who.key_file)
    return UpResult(
        settings.name, state.endpoint, action, model, engine, served.target_replicas, seconds, key_file, who.new_key,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Up:
    """One run of `up`, under the instance's lock; times are monotonic seconds."""

    settings: UpSettings
    paths: Paths
    environ: Mapping[str, str]
    folder: InstanceFolder
    deadline: float
    report: Report
    api_key_file: Path | None
    calibration: Calibration | None
    rejected: Rejected

    def run(self) -> tuple[str, InstanceState]:
        """The action taken and the state after it."""
        state = self._living()
        if state is None:
            ports.require_free(self.settings.host, self.settings.port)
            return "started", self._start(self._resolve(serving=False))
        self._refuse_move(state)
        return self._change(state)

    def _living(self) -> InstanceState | None:
        """The state of an instance that can be changed; remains of another are cleaned away."""
        state = self.folder.read()
        if state is None or (state.alive and state.deployed is not None):
            return state
        what = "was never finished" if state.deployed is None else "died"
        self.report(Progress("start Ray", f"instance {state.name} {what}; cleaning up after it", warning=True))
        ray_head.of(state).stop()
        self.folder.forget()
        return None

    def _refuse_move(self, state: InstanceState) -> None:
        wanted = (self.settings.host, self.settings.port)
        if wanted != (state.host, state.port):
            raise UsageError(
                f"instance {state.name} listens on {state.host}:{state.port}, not {wanted[0]}:{wanted[1]}",
                why="the address of a running service cannot change",
                hint=f"detectctl down --name {state.name}, then up again; or use another --name",
            )

    def _resolve(self, *, serving: bool) -> ModelVersion:
        wish = self.settings.model
        self.report(Progress("resolve", wish))

        def on_event(event: dict[str, Any]) -> None:
            if event.get("event") == "download" and event.get("total"):
                fraction = event["done"] / event["total"]
                self.report(Progress("resolve", f"downloading {wish}", fraction=fraction))

        model = resolve(
            wish,
            cache=self.paths.cache,
            environ=self.environ,
            timeout_s=self.settings.model_timeout,
            within_s=self.deadline - time.monotonic(),
            fallback=self.settings.fallback,
            serving=serving,
            assets_url=self.settings.assets_url,
            on_event=on_event,
        )
        words = " ".join(filter(None, (model.name, model.version, f"sha256:{model.sha256[:12]}")))
        self.report(Progress("resolve", words, done=True))
        if model.reason is not None:
            kind = "fallback" if model.fallback else "stale"
            self.report(Progress("resolve", f"{kind}: {model.reason}", warning=True))
        return model

    def _plan(self, model: ModelVersion, temp_dir: Path) -> Deployment:
        self.report(Progress("convert", model.name))

        def on_event(event: dict[str, Any]) -> None:
            if "stage" in event:
                self.report(Progress("convert", f"{model.name}: {event['stage']}"))

        compiled = compile_checkpoint(
            model.checkpoint,
            model.sha256,
            cache=self.paths.cache,
            trust_checkpoint=self.settings.trust_checkpoint,
            timeout_s=max(0.0, self.deadline - time.monotonic()),
            environ=self.environ,
            on_event=on_event,
            name=model.reference,
        )
        self.report(Progress("convert", f"{len(compiled.labels)} classes", done=True))
        if self.calibration is not None:
            left_s = max(0.0, self.deadline - time.monotonic())
            compiled = int8.quantised(
                compiled,
                self.calibration,
                self.settings,
                self.paths,
                self.environ,
                left_s,
                self.report,
                model.reference,
            )
        device = _device(self.settings.device)
        return plan(self.settings, model, compiled, device, temp_dir / "requests", self.api_key_file)

    def _start(self, model: ModelVersion) -> InstanceState:
        planned = ray_head.plan(self.settings.port)
        state = InstanceState(
            name=self.settings.name,
            instance_id=planned.instance_id,
            head=None,
            temp_dir=planned.temp_dir,
            dashboard_url=planned.dashboard_url,
            host=self.settings.host,
            port=self.settings.port,
            deployed=None,
            last_good=None,
            last_failure=None,
            created_at=time.time(),
        )
        # Before anything exists: whatever kills this process, the next command finds what it began.
        self.folder.write(state)
        shutil.rmtree(self.folder.failed_logs, ignore_errors=True)  # of an earlier start
        try:
            # Ray takes seconds to start and the model may take seconds to convert; neither needs the other.
            process = ray_head.spawn(
                planned,
                self.environ,
                with_haproxy=haproxy.is_available(),
                host=self.settings.host,
                port=self.settings.port,
            )
            state = replace(state, head=process)
            self.folder.write(state)
            started = ray_head.of(state)
            if self._rejects(model) and self.rejected.instead is not None:
                deployment = self.rejected.instead.at(started.temp_dir / "requests")
            else:
                deployment = self._plan(model, started.temp_dir)
            self.report(Progress("start Ray", "waiting for the head"))
            started.wait_until_up(self.deadline)
            self.report(Progress("start Ray", f"head process {process.pid}", done=True))
            with started.serve_api() as api:
                return self._rollout(api).start(state, deployment)
        except BaseException:  # also Ctrl-C: a failed start leaves nothing behind
            with uninterrupted():
                _keep_logs(state.temp_dir, self.folder)
                ray_head.of(state).stop()
                self.folder.forget()
            raise

    def _change(self, state: InstanceState) -> tuple[str, InstanceState]:
        digest = None
        try:
            model = self._resolve(serving=True)
            if self._rejects(model):
                return "unchanged", state
            digest = model.served.digest
            wanted = self._plan(model, state.temp_dir)
        except ModelError as error:
            self.folder.write(note_failure(state, self.settings.model, error, digest=digest))
            raise
        with _serve_api(state) as api:
            return self._rollout(api).change(state, wanted)

    def _rejects(self, model: ModelVersion) -> bool:
        return model.served.digest in self.rejected.digests

    def _rollout(self, api: ServeApi) -> Rollout:
        return Rollout(api, self.folder, self.deadline, self.report)


def _device(wish: str) -> str:
    """`auto` is the GPU if there is one and this torch can use it; UsageError for one that there is not."""
    if wish == "cpu":
        return wish
    lack = _lack_of_gpu()
    if lack is None:
        return "cuda"
    if wish == "cuda":
        raise UsageError("--device cuda is not available here", why=lack, hint="use --device cpu, or auto")
    return "cpu"


def _lack_of_gpu() -> str | None:
    """Why a replica could not compute on a GPU; looked at without torch, whose import takes seconds."""
    from importlib.metadata import version

    if not Path("/dev/nvidiactl").exists():
        return "this machine has no NVIDIA GPU, or no driver for it"
    torch = version("torch")
    return f"the torch that is installed, {torch}, is built for CPUs only" if torch.endswith("+cpu") else None


def _require_precision(wish: str, device: str) -> None:
    """Before anything starts; `fp32` and `auto` are always there, and int8 has its own look."""
    if device == "cpu" and wish in {"bf16", "fp16"}:
        from detectctl.engine.openvino_engine import require_precision

        require_precision(cast("Any", wish))


def _info(endpoint: str, key: str | None, deadline: float) -> ServiceInfo:
    """What the service says of itself; it answered a moment ago, so what hinders it now may pass."""
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    while True:
        try:
            response = httpx.get(f"{endpoint}/info", headers=headers, trust_env=False, timeout=10)
            response.raise_for_status()
            info = ServiceInfo.from_json(response.json())
        except (httpx.HTTPError, KeyError, TypeError, ValueError) as error:
            final = isinstance(error, httpx.HTTPStatusError) and error.response.status_code < 500
            if final or time.monotonic() > deadline:
                raise NotReady(f"{endpoint} does not answer", why=str(error), hint="detectctl status") from error
        else:
            return info
        time.sleep(_POLL_S)


def _served(state: InstanceState) -> ServeStatus:
    try:
        with _serve_api(state) as api:
            return api.status()
    except ServeApiError as error:
        raise NotReady(f"instance {state.name} does not answer", why=str(error), hint="detectctl status") from error


def _serve_api(state: InstanceState) -> ServeApi:
    try:
        return ray_head.of(state).serve_api()
    except OSError as error:
        raise NotReady(
            f"instance {state.name} has lost its token file",
            why=str(error),
            hint=f"detectctl down --name {state.name}, then up again",
        ) from error


def _keep_logs(temp_dir: Path, folder: InstanceFolder) -> None:
    """Save what a failed start said, for `detectctl logs`."""
    shutil.rmtree(folder.failed_logs, ignore_errors=True)
    logs = ray_head.ray_dir(temp_dir) / "session_latest" / "logs" / "serve"
    with contextlib.suppress(OSError):
        shutil.copytree(logs, folder.failed_logs)
    with contextlib.suppress(OSError):
        folder.failed_logs.mkdir(exist_ok=True)
        shutil.copy(temp_dir / "head.log", folder.failed_logs)
