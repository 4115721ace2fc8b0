"""A Ray cluster, seen through its dashboard: whether `up --address` can put a service there, and what lives there."""

from __future__ import annotations

import contextlib
import json
import time
from importlib import metadata
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from packaging.requirements import Requirement

from detectctl import ray_token
from detectctl.doctor import running
from detectctl.doctor.finding import Finding, Subject, failure, ok, warning
from detectctl.hosts.cluster import carrier, jobs, runtime_environment
from detectctl.hosts.cluster.cluster_host import DRAIN_S, OLDEST_RAY, RECORD, bracketed, more
from detectctl.hosts.cluster.probe import FOUND, GPU, OLDEST_PYTHON, fitting, mend, needs, reserved
from detectctl.hosts.dashboard import Dashboard, NotThere, ServeApiError, TokenRefused
from detectctl.hosts.serve_rest import ServeApi, parse, user_config
from detectctl.http import NoAnswer, Server
from detectctl.lifecycle.state import cluster_place
from detectctl.waiting import Deadline

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from detectctl.hosts.cluster.place import ClusterPlace
    from detectctl.settings import UpSettings

_ASK_S = 15.0
_JOB_S = 90.0
_REACH_S = 5.0
_MOST_SKEW_S = 60.0
_LISTED = 8


def dashboard(subject: Subject) -> Iterator[Finding]:
    """What it says by itself: nothing is run on the cluster for it."""
    place, deadline = _place(subject), Deadline.after(_ASK_S)
    secret = ray_token.found(place.token_file, subject.variables)
    try:
        with _opened(place, secret) as there:
            version = _version(there, deadline)
            if (lack := _lack_of(place, version)) is None:
                yield ok(f"the cluster at {place.address} answers, with Ray {version}")
            else:
                yield lack
            if not version:
                return
            yield ok(f"that of {secret.where} is accepted" if secret.token else "none is needed", "token")
            if lack is None or lack.level != "failure":
                yield from _living(there, subject.settings, deadline)
                details = ServeApi(there).details(deadline)
                yield from _applications(details, place, subject.settings.route_prefix)
                yield from _way_in(details, place)
    except TokenRefused as error:
        said = f"does not accept the token of {secret.where}" if secret.token else "wants a token, and none was found"
        yield failure(
            f"the cluster at {place.address} {said}: {error}; looked for, in this order: {ray_token.ORDER}",
            "on its head run `ray get-auth-token`, and name a file with that here: `--ray-token-file FILE`",
            "token",
        )
    except NotThere as error:
        yield failure(
            f"a part of the dashboard at {place.address} is missing: {error}",
            "let all of /api/ through to it; on the head: `pip install 'ray[default,serve]'`",
        )
    except ServeApiError as error:
        yield failure(
            f"the cluster at {place.address} does not answer: {error}",
            "check the address of its dashboard, such as http://head:8265, and the way there",
        )


def nodes(subject: Subject) -> Iterator[Finding]:
    """What only programs on the nodes can see: a job that looks, and changes nothing."""
    place, settings, deadline = _place(subject), subject.settings, Deadline.after(_JOB_S)
    wanted = needs(on_gpu=settings.gpus > 0 and settings.device != "cpu")
    theirs = runtime_environment.read(settings.runtime_env, settings.node_python)
    with _opened(place, ray_token.found(place.token_file, subject.variables)) as there:
        try:
            lack = _lack_of(place, _version(there, deadline))
            details = ServeApi(there).details(deadline)
        except ServeApiError:  # `dashboard` says so
            return
        if lack is not None and lack.level == "failure":
            return
        began = time.time()
        try:
            code = jobs.sent(there, carrier.code(), deadline)
        except ServeApiError as error:
            yield failure(
                f"code and models cannot be sent to the cluster: {error}",
                "let GET and PUT of /api/packages/ through to its dashboard; on the head: `pip install 'ray[default]'`",
            )
            return
        try:
            spec = {"name": place.application, "needs": wanted, "environment": theirs}
            found = _found(jobs.run(there, "survey", spec, [code], deadline, variables={}))
        except NotThere as error:
            yield failure(
                f"the cluster takes no jobs: {error}",
                "let GET and POST of /api/jobs/ through to its dashboard; on the head: `pip install 'ray[default]'`",
            )
            return
        except ServeApiError as error:
            yield failure(
                f"a job that only looks failed: {error}", "read its log in the dashboard, and `ray status` on the head"
            )
            return
    yield from _python(found)
    yield from _features(found)
    yield from (_node(one, wanted, theirs, settings) for one in found["nodes"])
    yield _room(found, details, place, settings)
    yield _ingress(found)
    yield from _clocks(found, began, time.time())


def service(subject: Subject) -> Iterator[Finding]:
    """As on this machine, if the cluster can be asked."""
    place = _place(subject)
    with _opened(place, ray_token.found(place.token_file, subject.variables)) as there:
        try:
            ServeApi(there).details(Deadline.after(_ASK_S))
        except ServeApiError:  # `dashboard` says so
            return
    yield from running.service(subject)


def _place(subject: Subject) -> ClusterPlace:
    place = cluster_place(subject.settings)
    assert place is not None  # noqa: S101 - the checks of a cluster are made with an address only
    return place


@contextlib.contextmanager
def _opened(place: ClusterPlace, secret: ray_token.Found) -> Iterator[Dashboard]:
    there = Dashboard(place.address, secret.token)
    try:
        yield there
    finally:
        there.close()


def _version(there: Dashboard, deadline: Deadline) -> str:
    """Of Ray; empty if something else answers."""
    try:
        return str(there.json("GET", "/api/version", deadline).get("ray_version") or "")
    except NotThere:
        return ""


def _lack_of(place: ClusterPlace, version: str) -> Finding | None:
    tested = next(one.specifier for one in map(Requirement, metadata.requires("detectctl") or ()) if one.name == "ray")
    if not version:
        return failure(
            f"what listens at {place.address} does not answer as a Ray dashboard does",
            "name the dashboard, whose port is 8265 unless `ray start --dashboard-port` said otherwise",
        )
    if tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) < OLDEST_RAY:
        oldest = ".".join(map(str, OLDEST_RAY))
        return failure(
            f"the cluster at {place.address} runs Ray {version}, which knows neither max_surge_percent nor "
            "deployment_actors: updates would drop requests",
            f"upgrade it to Ray {oldest} or later",
        )
    if not tested.contains(version, prereleases=True):
        return warning(
            f"the cluster at {place.address} runs Ray {version}, which is not among the tested ones, {tested}",
            "look for a newer version: `pip install --upgrade detectctl`",
        )
    return None


def _living(there: Dashboard, settings: UpSettings, deadline: Deadline) -> Iterator[Finding]:
    said = there.json("GET", "/api/v0/nodes?detail=1&limit=10000", deadline)
    known = ((said.get("data") or {}).get("result") or {}).get("result") or ()
    alive = [node for node in known if node.get("state") == "ALIVE"]
    cpus, gpus = settings.cpus or 1, settings.gpus
    resources = [node.get("resources_total") or {} for node in alive]
    if not any(fitting(each, cpus, gpus) for each in resources):
        yield failure(
            f"{_counted(len(alive), 'node')} alive, and none has {reserved(cpus, gpus)} for a replica",
            "add a node that has, or lower --cpus or --gpus",
            "nodes",
        )
        return
    listed = [
        f"{node.get('node_ip')} ({'head, ' if node.get('is_head_node') else ''}"
        f"{reserved(has.get('CPU', 0), has.get('GPU', 0))})"
        for node, has in zip(alive, resources, strict=True)
    ]
    yield ok(f"{_counted(len(alive), 'node')} alive: {_shortened(sorted(listed))}", "nodes")


def _applications(details: Mapping[str, Any], place: ClusterPlace, route_prefix: str) -> Iterator[Finding]:
    if not details.get("controller_info"):
        yield ok("Serve does not run there yet; `up` starts it", "applications")
        return
    found = details.get("applications") or {}
    if not found:
        yield ok("there are none", "applications")
    for name, application in sorted(found.items()):
        ours, prefix = bool(user_config(application).get(RECORD)), application.get("route_prefix")
        whose = "detectctl's" if ours else f"somebody else's, {application.get('source') or 'of unknown source'}"
        where = f"at {prefix}" if prefix else "without a path"
        said = f"{name} {where} is {whose}: {application.get('status')}"
        if name != place.application and prefix == route_prefix:
            fix = f"give `up` another path than {prefix}, such as `--route-prefix /yolo`"
            yield warning(said, fix, "applications")
        else:
            yield ok(said, "applications")


def _way_in(details: Mapping[str, Any], place: ClusterPlace) -> Iterator[Finding]:
    """Whether the ingress on the head, the one that stays, is reached from here."""
    if not details.get("proxies"):
        return
    location, options = details.get("proxy_location"), details.get("http_options") or {}
    head = f"http://{bracketed(urlsplit(place.address).hostname or '')}:{options.get('port') or 8000}"
    try:
        with contextlib.closing(Server(head)) as ingress:
            ingress.ask("GET", "/-/healthz", Deadline.after(_REACH_S))  # 503 without an application
    except NoAnswer as error:
        only = options.get("host") or "127.0.0.1"
        alone = f"; it listens on {only} alone" if only in {"127.0.0.1", "localhost", "::1"} else ""
        yield failure(
            f"the cluster's ingress {head} is not reached from here: {error}{alone}",
            "let requests through to it; Serve takes `http_options: {host: 0.0.0.0}` only when it starts",
            "ingress",
        )
    else:
        nodes = "the head alone" if location == "HeadOnly" else "the head and each node with a replica"
        yield ok(f"{head} is reached from here; Serve listens on {nodes} ({location})", "ingress")


def _found(said: str) -> dict[str, Any]:
    """What the job found, as `probe.survey` has it."""
    for line in said.splitlines():
        if line.startswith(f"{FOUND}: "):
            found: dict[str, Any] = json.loads(line.removeprefix(f"{FOUND}: "))
            return found
    raise ServeApiError("it said nothing")


def _python(found: Mapping[str, Any]) -> Iterator[Finding]:
    version = str(found["python"])
    if tuple(map(int, version.split(".")[:2])) >= OLDEST_PYTHON:
        yield ok(f"Python {version}")
    else:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        yield failure(
            f"the nodes run Python {version}, and detectctl needs {oldest} or later",
            f"give all nodes an environment or an image with it: of Ray's images, one whose tag ends in "
            f"-py{oldest.replace('.', '')}",
        )


def _features(found: Mapping[str, Any]) -> Iterator[Finding]:
    if found["lacks"]:
        yield failure(
            f"this Ray does not know {' and '.join(found['lacks'])}: updates would drop requests",
            "install a released Ray on all nodes",
        )


def _node(one: Mapping[str, Any], wanted: dict[str, str], theirs: dict[str, Any], settings: UpSettings) -> Finding:
    address, seen, cpus, gpus = one["address"], one["seen"], settings.cpus or 1, settings.gpus
    free = f"{one['free']['CPU']:g} of {one['whole']['CPU']:g} CPUs free"
    if one["whole"]["GPU"]:
        free += f", {one['free']['GPU']:g} of {one['whole']['GPU']:g} GPUs"
    if not fitting(one["whole"], cpus, gpus):
        return ok(f"{address} takes no replica, which needs {reserved(cpus, gpus)}: {free}")
    if seen["trouble"]:
        return failure(
            f"{address} could not be looked at: {seen['trouble']}",
            "see `ray status` on the head, that node's logs, and what --node-python and --runtime-env name there",
        )
    if seen["lacks"]:
        lacking = ", ".join(f"{name} ({wrong})" for name, wrong in seen["lacks"].items())
        if GPU in seen["lacks"]:
            fix = "see on it whether `nvidia-smi` names its GPUs; or compute on CPUs: leave out --gpus"
            return failure(f"{address} lacks what replicas need: {lacking}", fix)
        return failure(
            f"{address} lacks what replicas need: {lacking}",
            f"on it, in the environment that replicas run in: `{mend(wanted, seen['lacks'], theirs)}`",
        )
    return ok(f"{address} has what replicas need; {free}")


def _room(found: Mapping[str, Any], details: Mapping[str, Any], place: ClusterPlace, settings: UpSettings) -> Finding:
    cpus, gpus = settings.cpus or 1, settings.gpus
    sound = [one for one in found["nodes"] if one["seen"] and not (one["seen"]["trouble"] or one["seen"]["lacks"])]
    room = sum(fitting(one["free"], cpus, gpus) for one in sound)
    running = parse((details.get("applications") or {}).get(place.application) or {}).target_replicas
    least = max(1, settings.replicas.minimum) if settings.replicas else 1
    wanted = more(least, running, spread=settings.spread)
    said = f"there is room for {_counted(room, 'more replica')}, with {reserved(cpus, gpus)} each"
    if room < wanted:
        beside = f" beside the {running} that run" if running else ""
        return failure(
            f"{said}, and `up` starts {wanted}{beside}", "free some, add nodes, or lower --cpus or --replicas"
        )
    return ok(said)


def _ingress(found: Mapping[str, Any]) -> Finding:
    if not found["haproxy"]:
        return ok("Serve's own proxy takes the requests", "ingress")
    waits = f"it waits {found['drain_s']:g} s for a replica that leaves, {DRAIN_S:g} s for one of detectctl's"
    return ok(f"HAProxy takes the requests; {waits}", "ingress")


def _clocks(found: Mapping[str, Any], began: float, ended: float) -> Iterator[Finding]:
    """Nodes were asked for the time while the job ran: that is how well it is known."""
    ahead = {}
    for one in found["nodes"]:
        if one["seen"] and (clock := one["seen"]["clock"]):
            ahead[one["address"]] = min(clock - began, 0) or max(clock - ended, 0)
    wrong = {address: skew_s for address, skew_s in ahead.items() if abs(skew_s) > _MOST_SKEW_S}
    for address, skew_s in wrong.items():
        yield warning(
            f"that of {address} is {abs(skew_s):.0f} s {'ahead of' if skew_s > 0 else 'behind'} this machine's: "
            "the times in status and logs mislead",
            "set it: `timedatectl set-ntp true`",
            "clocks",
        )
    if ahead and not wrong:
        yield ok(f"those of all nodes agree with this machine's, to within {ended - began:.0f} s", "clocks")


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _shortened(listed: list[str]) -> str:
    return ", ".join(listed[:_LISTED]) + (", …" if len(listed) > _LISTED else "")
