"""A service as one application on a Ray cluster that others use too: nothing of theirs is touched.

Everything goes through the dashboard's HTTP interface. What Serve cannot be told there without declaring everybody's
applications again is done by a job, whose program (`deploy_child`) travels with our code.
"""

from __future__ import annotations

import contextlib
import functools
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from detectctl.errors import DeadlineExceeded, NotReady, UsageError
from detectctl.files import reason
from detectctl.hosts.cluster import carrier, jobs
from detectctl.hosts.cluster.probe import needs
from detectctl.hosts.cluster.replica_counters import stats
from detectctl.hosts.cluster.replica_logs import new_lines
from detectctl.hosts.cluster.runtime_environment import ATTEMPT, BUILT, DRAIN
from detectctl.hosts.dashboard import Dashboard, NothingChanged, ServeApiError, TokenRefused
from detectctl.hosts.serve_rest import ServeApi, ServeStatus, parse, user_config
from detectctl.progress import Progress
from detectctl.ray_token import ORDER, found, token
from detectctl.serving import tracing
from detectctl.serving.request_stats import RequestStats
from detectctl.serving.service_config import UPDATES
from detectctl.waiting import Deadline, NotYet, until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from detectctl.hosts.cluster.place import ClusterPlace
    from detectctl.hosts.host import NewLines
    from detectctl.progress import Report

OLDEST_RAY = (2, 60)
"""What an older one does not know of an application it leaves out without a word."""
_JOB_S = 120.0
_LOOK_S = 60.0  # at nodes, unless each prepares an environment first
_ASK_S = 10.0
# A replica that leaves waits half a minute, unless the application says how long is enough: until each node's HAProxy
# has heard of it, which takes some seconds where processors are busy.
DRAIN_S = 5
_ENVIRONMENT = {DRAIN: str(DRAIN_S)}
_SERVE = {"proxy_location": "EveryNode", "http_options": {"host": "0.0.0.0", "port": 8000}, "applications": []}  # noqa: S104 - a cluster is there to be reached; without a key `up` refuses
RECORD = "detectctl"
"""In the user configuration of an application of ours: what any client has to know of it."""


class ClusterHost(contextlib.ExitStack):  # of its connections
    """See `hosts.host.Host`."""

    remote = True

    def __init__(self, place: ClusterPlace) -> None:
        super().__init__()
        self._place = place
        self._prefix = "/"

    # --- what is there -----------------------------------------------------------------------------------------------

    @property
    def endpoint(self) -> str:
        return self.endpoints[0]

    @property
    def endpoints(self) -> tuple[str, ...]:
        # The head's stays; a worker's is there while it has a replica.
        try:
            details = self._serve.details(Deadline.after(_ASK_S))
        except ServeApiError:
            details = {}
        port = (details.get("http_options") or {}).get("port") or 8000
        prefix = (self._application(details).get("route_prefix") or self._prefix).rstrip("/")
        head = urlsplit(self._place.address).hostname or ""
        others = sorted(str(proxy.get("node_ip", "")) for proxy in _healthy(details))
        return tuple(f"http://{bracketed(host)}:{port}{prefix}" for host in dict.fromkeys((head, *others)) if host)

    @property
    def alive(self) -> bool:
        with contextlib.suppress(ServeApiError):
            return bool(self._application(self._serve.details(Deadline.after(_ASK_S))))
        return True  # nobody knows; whoever asks for more is told why

    @property
    def gone(self) -> str:
        return f"its application is not on {self._place.address}"

    def recall(self) -> dict[str, Any] | None:
        try:
            details = self._serve.details(Deadline.after(_ASK_S))
        except TokenRefused as error:
            raise self._refused(error) from error
        application = self._application(details)
        if not application or application.get("status") == "DELETING":
            return None
        told: dict[str, Any] = user_config(application).get(RECORD) or {}
        if not told:
            self._refuse_others(application)
            raise ServeApiError("Serve does not say at the moment what runs")
        status = parse(application)
        if status.application == "RUNNING" and told.get("deployed") and not _same(told["deployed"], told["last_good"]):
            told = {**told, "last_good": told["deployed"], "last_failure": None}
        return told

    def status(self, deadline: Deadline | None = None) -> ServeStatus:
        details = self._serve.details(deadline)
        application = self._application(details)
        status = parse(application)
        if status.application == "DEPLOYING" and status.ready < status.target_replicas:
            return replace(status, waits_for=self._lost_since(application.get("last_deployed_time_s") or 0.0, deadline))
        if status.application == "RUNNING" and (closed := _closed(details, status)):
            waits = f"the ingress of {', '.join(sorted(closed))} is not ready"
            return replace(status, application="DEPLOYING", message=status.message or waits)
        if status.application == "UNHEALTHY" and status.message.startswith("A deployment actor"):
            return replace(status, application="RUNNING")  # it keeps packages; requests do not need it
        return status

    def _lost_since(self, moment: float, deadline: Deadline | None) -> str:
        """Nodes that were lost after this, and are not back: their addresses, in words; empty if there are none."""
        known: dict[str, Any] = {}
        with contextlib.suppress(ServeApiError):  # a part of the dashboard that nothing else here needs
            known = self._dashboard.json("GET", "/api/v0/nodes?detail=1&limit=10000", deadline)
        nodes = ((known.get("data") or {}).get("result") or {}).get("result") or ()
        lost = {one.get("node_ip") for one in nodes if (one.get("end_time_ms") or 0) > moment * 1000}
        missing = sorted(map(str, lost - {one.get("node_ip") for one in nodes if one.get("state") == "ALIVE"}))
        return f"the lost node {', '.join(missing)}" if missing else ""

    def _application(self, details: Mapping[str, Any]) -> dict[str, Any]:
        return (details.get("applications") or {}).get(self._place.application) or {}

    @functools.cached_property
    def _dashboard(self) -> Dashboard:
        dashboard = Dashboard(self._place.address, token(self._place.token_file, os.environ))
        return self.enter_context(contextlib.closing(dashboard))

    @functools.cached_property
    def _serve(self) -> ServeApi:
        return ServeApi(self._dashboard, self._place.application)

    # --- what is changed ---------------------------------------------------------------------------------------------

    def require(self, route_prefix: str) -> None:
        address = self._place.address
        try:
            version = str(self._dashboard.json("GET", "/api/version", Deadline.after(_ASK_S)).get("ray_version", ""))
            details = self._serve.details(Deadline.after(_ASK_S))
        except TokenRefused as error:
            raise self._refused(error) from error
        except ServeApiError as error:
            raise NotReady(
                f"the cluster at {address} does not answer",
                why=str(error),
                hint="check the address of its dashboard, such as http://head:8265",
            ) from error
        if tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) < OLDEST_RAY:
            oldest = ".".join(map(str, OLDEST_RAY))
            raise NotReady(
                f"the cluster at {address} runs Ray {version or 'of an unknown version'}",
                why=f"detectctl needs Ray {oldest}: an older one drops requests at an update, without a word",
                hint=f"upgrade the cluster to Ray {oldest} or later",
            )
        self._refuse_others(self._application(details))
        for name, other in (details.get("applications") or {}).items():
            if name != self._place.application and other.get("route_prefix") == route_prefix:
                raise UsageError(
                    f"--route-prefix {route_prefix} is taken",
                    why=f"the application {name} of this cluster answers there",
                    hint="choose another, such as `--route-prefix /yolo`",
                )
        self._prefix = route_prefix

    def _refused(self, error: TokenRefused) -> UsageError:
        secret = found(self._place.token_file, os.environ)
        which = f"it was that of {secret.where}" if secret.token else f"none was found; looked for in {ORDER}"
        return UsageError(
            f"the cluster at {self._place.address} does not accept the token",
            why=f"{error}: {which}",
            hint="name the file of its token: `--ray-token-file FILE`, or RAY_AUTH_TOKEN_PATH",
        )

    def _refuse_others(self, application: Mapping[str, Any]) -> None:
        if application and not user_config(dict(application)).get(RECORD) and application.get("deployments"):
            raise UsageError(
                f"the application {self._place.application} on {self._place.address} is not detectctl's",
                why="somebody else deployed it under this name",
                hint="choose another `--name`",
            )

    def start(self, environ: Mapping[str, str], alive_file: Path, report: Report) -> ClusterPlace:
        del environ, alive_file
        details = self._serve.details()
        if not details.get("controller_info"):
            report(Progress("start Ray", "starting Serve on the cluster"))
            self._serve.put(_SERVE)
        return self._place

    def inherited(self, variable: str) -> str | None:
        return os.environ.get(variable)  # see `_environment`

    def require_running(self, doing: str) -> None:
        """The cluster is not ours; `status` says why it does not answer."""

    def wait_until_up(self, deadline: Deadline) -> str:
        def answer() -> str | NotYet:
            try:
                self._serve.details(deadline)
            except ServeApiError as error:
                return NotYet(str(error))
            return f"the cluster at {self._place.address}"

        return until(answer, deadline, f"the cluster at {self._place.address} did not answer in time")

    def deploy(
        self, application: Mapping[str, Any], record: Mapping[str, Any], deadline: Deadline | None = None
    ) -> None:
        [deployment] = application["deployments"]
        fingerprint = deployment["user_config"]["fingerprint"]
        there = self._application(self._serve.details())
        before, packages = parse(there), (user_config(there).get(RECORD) or {}).get("packages") or {}
        known = packages.get(fingerprint)
        if known is None or not all(jobs.has(self._dashboard, uri) for uri in known["uris"]):
            known = {**self._upload(Path(application["args"]["detector"]["model"])), "attempt": 0}
        if before.fingerprint == fingerprint and before.application == "DEPLOY_FAILED":
            # Serve would see no difference, and nodes remember for minutes that an environment failed.
            known = {**known, "attempt": known["attempt"] + 1}
        args = {**application["args"], "carried": known["carried"]}
        if args["api_key_file"] is not None:
            args["api_key_file"] = ""  # there is one, of which they get digests; another is no reason to replace them
        args["detector"] = {**args["detector"], "model": ""}
        told = {**record, "packages": {**packages, fingerprint: known}}
        keep = {fingerprint, *(one["config"]["fingerprint"] for one in (record["last_good"],) if one)}
        told["packages"] = {key: value for key, value in told["packages"].items() if key in keep}
        user = {**deployment["user_config"], UPDATES: updates(user_config(there).get(UPDATES) or {}, before, record)}
        spec: dict[str, Any] = {
            "route_prefix": application["route_prefix"],
            "args": args,
            "deployment": {**deployment, "user_config": {**user, RECORD: told}},
        }
        spec["needs"] = needs(on_gpu=args["detector"]["device"] == "cuda")
        # New replicas must find CPUs beside the old ones, or Serve would wait for room without a word. Of what is gone
        # back to, some have never stopped.
        wanted: int = deployment.get("num_replicas") or max(1, deployment["autoscaling_config"]["min_replicas"])
        back = _same(record["deployed"], record["last_good"])
        spec["running"] = max(wanted, before.target_replicas)
        spec["room"] = 0 if back else more(wanted, before.target_replicas, spread=bool(deployment.get("spread")))
        builds = set(BUILT) & set(deployment["ray_actor_options"].get("runtime_env", ()))
        deadline = deadline or Deadline.after(_JOB_S)
        spec["look_s"] = deadline.left_s / 2 if builds else min(_LOOK_S, deadline.left_s / 2)
        self._run("deploy", spec, known["uris"], deadline, attempt=known["attempt"])

    def _upload(self, path: Path) -> dict[str, Any]:
        try:
            carried, parts = carrier.model(path)
        except OSError as error:
            raise ServeApiError(f"its model is not on this machine: {path}: {reason(error)}") from error
        try:
            uris = [jobs.sent(self._dashboard, package) for package in (carrier.code(), *parts)]
        except ServeApiError as error:
            raise NothingChanged(f"code and model cannot be sent to the cluster: {error}") from error
        return {"carried": asdict(carried), "uris": uris}

    def _run(
        self,
        command: str,
        spec: Mapping[str, Any],
        uris: list[str],
        deadline: Deadline | None = None,
        *,
        attempt: int = 0,
    ) -> None:
        jobs.run(
            self._dashboard,
            command,
            {"name": self._place.application, **spec},
            uris,
            deadline or Deadline.after(_JOB_S),
            variables=_environment() | ({ATTEMPT: str(attempt)} if attempt else {}),
        )

    def drain(self, deadline: Deadline) -> bool:
        def gone() -> bool | NotYet:
            status = self.status(deadline)
            return NotYet(str(status)) if status.application or status.replicas else True

        try:
            self._delete(deadline)
            return until(gone, deadline, "replicas were still at work")
        except (ServeApiError, DeadlineExceeded):
            return False

    def _delete(self, deadline: Deadline) -> None:
        if self._application(self._serve.details(deadline)):
            self._run("delete", {}, [jobs.sent(self._dashboard, carrier.code(), deadline)], deadline)

    def stop(self) -> None:
        try:
            self._delete(Deadline.after(_JOB_S))
        except ServeApiError as error:
            raise NotReady(
                f"the application {self._place.application} may still be on {self._place.address}",
                why=str(error),
                hint="run `detectctl down` again once the cluster answers",
            ) from error

    # --- what it says of itself --------------------------------------------------------------------------------------

    def stats(self) -> RequestStats:
        with contextlib.suppress(ServeApiError):
            return stats(self._dashboard, self._place.application)
        return RequestStats()

    def note_update(self, outcome: str) -> None:
        """Replicas are told with what is deployed; see `updates`."""

    def new_log_lines(self, reached: dict[Any, Any], *, unfinished: bool = False) -> Iterator[NewLines]:
        del unfinished
        return new_lines(self._dashboard, self._place.application, reached)


def more(wanted: int, running: int, *, spread: bool) -> int:
    """How many replicas must find room beside those that run."""
    if spread:  # an old one makes room
        return max(0, wanted - running)
    return max(1, wanted - running + 1) if running else wanted


def updates(known: Mapping[str, int], before: ServeStatus, record: Mapping[str, Any]) -> dict[str, int]:
    """How many changes had which end, once what `record` says is deployed in place of `before`, which knew of `known`.

    It counts as done, as nobody may come to say so later; if what was there comes back, it was not.
    """
    counts = {"done": 0, "went_back": 0, **known}
    if not _same(record["deployed"], record["last_good"]):
        counts["done"] += bool(before.application)  # the first one changes nothing
    elif before.fingerprint != record["deployed"]["config"]["fingerprint"]:
        counts["went_back"] += 1
        if before.application != "RUNNING":
            counts["done"] = max(0, counts["done"] - 1)
    elif record["last_failure"] is not None:  # Serve has not taken the other one
        counts["went_back"] += 1
    return counts


def _same(deployed: Mapping[str, Any], good: Mapping[str, Any] | None) -> bool:
    return good is not None and bool(deployed["config"]["fingerprint"] == good["config"]["fingerprint"])


def _environment() -> dict[str, str]:
    wanted = {name: os.environ[name] for name in tracing.ENDPOINTS if name in os.environ}
    return {**_ENVIRONMENT, **wanted}


def _healthy(details: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [proxy for proxy in (details.get("proxies") or {}).values() if proxy.get("status") == "HEALTHY"]


def _closed(details: Mapping[str, Any], status: ServeStatus) -> set[str]:
    """Nodes that have a replica and should have an ingress, and have none that answers."""
    if details.get("proxy_location") != "EveryNode":
        return set()
    running = {replica.node_ip for replica in status.replicas if replica.state == "RUNNING" and replica.node_ip}
    return running - {proxy.get("node_ip") for proxy in _healthy(details)}


def bracketed(host: str) -> str:
    """A host name or address, as a URL has it."""
    return f"[{host}]" if ":" in host else host
