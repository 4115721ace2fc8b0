"""What runs, as it really is: the state file says where to look, and is never believed."""

from __future__ import annotations

import contextlib
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from detectctl.client.service_client import Client
from detectctl.errors import DetectctlError
from detectctl.hosts.dashboard import ServeApiError
from detectctl.hosts.serve_rest import Replica, ServeStatus
from detectctl.keys import read_keys
from detectctl.lifecycle.elsewhere import elsewhere
from detectctl.lifecycle.lock import holder
from detectctl.lifecycle.state import UNKNOWN, InstanceFolder, InstanceState, all_states, not_running
from detectctl.serving.request_stats import RequestStats

if TYPE_CHECKING:
    from detectctl.lifecycle.deployment import Deployment
    from detectctl.paths import Paths
    from detectctl.wire import EngineInfo, ModelInfo

_ASK_S = 2.0

State = Literal["starting", "running", "updating", "degraded", "failed update", "stopping", "dead", "elsewhere"]


@dataclass(frozen=True, slots=True)
class InstanceStatus:
    """One instance.

    Attributes:
        message: why it is not simply running; empty otherwise.
        model: what answers; None before the first deployment, like `engine`.
        wanted: how many replicas Serve wants now, from `minimum` to `maximum`.
        ready: how many of them take requests.
        replicas: each of them, in Ray's words, with what it has counted.
        requests: answered since the instance started.
        errors: error code → how many of them were answered with it.
        p50_ms: median latency of the successful ones, in the replica.
        p99_ms: the latency that 99 % of them stayed below.
        uptime_s: since `up` started it.
        sizing: why `--replicas auto` chose `minimum` and `maximum`; empty where it did not.
        stats: what was counted, in full.
    """

    name: str
    state: State
    message: str
    endpoint: str
    model: ModelInfo | None
    engine: EngineInfo | None
    wanted: int
    ready: int
    minimum: int
    maximum: int
    replicas: tuple[Replica, ...]
    requests: int
    errors: dict[str, int]
    p50_ms: float | None
    p99_ms: float | None
    uptime_s: float
    sizing: str = ""
    stats: RequestStats = field(default_factory=RequestStats)

    def to_json(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {key: value for key, value in asdict(self).items() if key != "stats"}

    @property
    def healthy(self) -> bool:
        """Whether requests are answered as they should be; `status` exits 4 otherwise."""
        return self.state in {"running", "updating"}


def status(folder: InstanceFolder) -> InstanceStatus:
    """One instance; NotRunning if there is none."""
    state = folder.read()
    if state is None:
        raise not_running(folder.name)
    return _status_of(state, folder)


def all_statuses(paths: Paths) -> tuple[InstanceStatus, ...]:
    """Every instance that has a state file, by name."""
    return tuple(_status_of(state, InstanceFolder(paths.state, state.name)) for state in all_states(paths.state))


def _status_of(state: InstanceState, folder: InstanceFolder) -> InstanceStatus:
    changed_by, other_place = holder(folder), elsewhere(folder, state)
    with state.open_host() as host:
        alive, served, trouble = host.alive, ServeStatus(), ""
        if alive:
            try:
                served = host.status()
            except ServeApiError as error:
                trouble = f"Ray does not answer: {error}"
        command = changed_by.command if changed_by else None
        word, message = _judge(state, served, command, trouble=trouble, gone="" if alive else host.gone)
        if other_place is not None:
            word, message = "elsewhere", f"it runs on {other_place}: run this command there"
        stats = host.stats()
        deployment = _answering(state, served)
        return InstanceStatus(
            name=state.name,
            state=word,
            message=message,
            endpoint=host.endpoint,
            model=deployment.config.model if deployment else None,
            engine=_engine(host.endpoint, served, deployment) if deployment else None,
            wanted=served.target_replicas,
            ready=served.ready,
            minimum=deployment.minimum if deployment else 0,
            maximum=deployment.maximum if deployment else 0,
            replicas=tuple(_counted(replica, stats) for replica in served.replicas),
            requests=stats.requests,
            errors=stats.errors,
            p50_ms=stats.percentile_ms(0.5),
            p99_ms=stats.percentile_ms(0.99),
            uptime_s=max(0.0, time.time() - state.created_at),  # the clock may have been set back
            sizing=deployment.sizing if deployment else "",
            stats=stats,
        )


def _counted(replica: Replica, stats: RequestStats) -> Replica:
    requests, version = stats.replicas.get(replica.replica_id.rpartition("#")[2], (None, None))
    return replace(replica, requests=requests, version=version)


def _answering(state: InstanceState, served: ServeStatus) -> Deployment | None:
    """What requests get: a new deployment only when all its replicas run, until then the last good one."""
    arrived = served.application == "RUNNING" and _serves(served, state.deployed)
    return state.deployed if arrived or state.last_good is None else state.last_good


def _serves(served: ServeStatus, deployment: Deployment | None) -> bool:
    return deployment is not None and served.fingerprint == deployment.fingerprint


def _engine(endpoint: str, served: ServeStatus, deployment: Deployment) -> EngineInfo:
    """As a replica says, if one is awake to ask; nothing here may wait long for it."""
    if served.ready > 0:
        key_file = deployment.config.api_key_file
        with contextlib.suppress(DetectctlError):
            key = None if key_file is None else read_keys(Path(key_file))[0]
            with Client(endpoint, api_key=key, timeout_s=_ASK_S, retries=0) as client:
                info = client.info()
            if info.deployment == deployment.fingerprint:
                return info.engine
    return deployment.engine


def _judge(
    state: InstanceState, served: ServeStatus, command: str | None, *, trouble: str, gone: str
) -> tuple[State, str]:
    """The word for what an instance does, and why it is not simply running.

    `command` is changing it now; `trouble` says why Serve says nothing although Ray lives, `gone` why Ray does not.
    """
    again = "`detectctl up` starts it again, `detectctl down` cleans up"
    if command == "down":
        return "stopping", ""
    if state.last_good is None and command == "up":
        return "starting", served.message
    if gone:
        return ("starting", "") if command == "up" else ("dead", f"{gone}; {again}")
    if trouble:
        return "degraded", trouble
    if state.last_good is None and served.application != "RUNNING":
        return "degraded", f"the command that started it was killed; {again}"
    return _judge_served(state, served, busy=command == "up")


def _judge_served(state: InstanceState, served: ServeStatus, *, busy: bool) -> tuple[State, str]:
    complete = served.ready >= served.target_replicas or served.deployment in {"UPSCALING", "DOWNSCALING"}
    settled = _serves(served, state.last_good)
    match served.application:
        case "RUNNING" if complete and busy and not settled:
            return "updating", ""
        case "RUNNING" if complete:
            return _judge_settled(state)
        case "DEPLOYING" | "NOT_STARTED":
            return "updating", served.message
        case "DEPLOY_FAILED":
            return "failed update", served.message
        case "DELETING" | "":
            return "stopping", "" if busy else "`detectctl down` was interrupted: run it again, or `detectctl up`"
        case _:
            return "degraded", served.message or f"{served.ready} of {served.target_replicas} replicas are ready"


def _judge_settled(state: InstanceState) -> tuple[State, str]:
    if state.last_failure is not None:
        model, what = state.last_failure.model, state.last_failure.what
        return "failed update", what if model in what else f"{model}: {what}"
    if state.unknown:
        return "running", f"{UNKNOWN}; `detectctl up` rolls it to what it asks for"
    return "running", ""
