"""Programs of ours on a cluster, as jobs of Ray: what Serve can only be asked there, or only a node knows."""

from __future__ import annotations

import base64
import contextlib
import json
import shlex
import zlib
from typing import TYPE_CHECKING, Any

from detectctl.errors import DeadlineExceeded
from detectctl.hosts.cluster.probe import FAILED, LACKING
from detectctl.hosts.dashboard import NothingChanged, ServeApiError
from detectctl.waiting import NotYet, until

if TYPE_CHECKING:
    from collections.abc import Mapping

    from detectctl.hosts.cluster.carrier import Package
    from detectctl.hosts.dashboard import Dashboard
    from detectctl.waiting import Deadline

_CHILD = "detectctl.hosts.cluster.deploy_child"


def has(dashboard: Dashboard, uri: str, deadline: Deadline | None = None) -> bool:
    """Whether the cluster has a package; if it has, it keeps it for some minutes from now."""
    return dashboard.ask("GET", _path(uri), deadline, may_lack=True).status == 200


def sent(dashboard: Dashboard, package: Package, deadline: Deadline | None = None) -> str:
    """The package's URI, once the cluster has it; NotThere if the dashboard takes none."""
    if not has(dashboard, package.uri, deadline):
        dashboard.ask("PUT", _path(package.uri), deadline, package.data)
    return package.uri


def _path(uri: str) -> str:
    return f"/api/packages/gcs/{uri.removeprefix('gcs://')}"


def run(
    dashboard: Dashboard,
    command: str,
    spec: Mapping[str, Any],
    uris: list[str],
    deadline: Deadline,
    *,
    variables: Mapping[str, str],
) -> str:
    """What `deploy_child` prints as a job on the head.

    `spec` is the command's, with the `name` of the application; the packages at `uris` have our code. What the job
    deploys inherits its `variables`.

    Raises:
        NotThere: the dashboard takes no jobs.
        NothingChanged: nodes lack something.
        ServeApiError: it failed, in its words; or it did not end in time, and was stopped.
    """
    packed = base64.urlsafe_b64encode(zlib.compress(json.dumps(spec).encode())).decode()
    submission = {
        "entrypoint": f"python -m {_CHILD} {command} {shlex.quote(packed)}",
        "entrypoint_num_cpus": 0,
        "runtime_env": {"py_modules": uris, "env_vars": dict(variables)},
        "metadata": {"application": spec["name"], "by": "detectctl"},
    }
    job = str(dashboard.json("POST", "/api/jobs/", deadline, submission).get("submission_id"))

    def ended() -> dict[str, Any] | NotYet:
        state = dashboard.json("GET", f"/api/jobs/{job}", deadline)
        done = state.get("status") in {"SUCCEEDED", "FAILED", "STOPPED"}
        return state if done else NotYet(f"job {job}: {state.get('status')}")

    try:
        state = until(ended, deadline, f"the job {job} did not end in time")
    except DeadlineExceeded as error:
        with contextlib.suppress(ServeApiError):
            dashboard.json("POST", f"/api/jobs/{job}/stop")
        raise ServeApiError(error.what_and_why) from error
    logs = str(dashboard.json("GET", f"/api/jobs/{job}/logs", deadline).get("logs", ""))
    if state["status"] == "SUCCEEDED":
        return logs
    said = [line for line in logs.splitlines() if line.startswith((f"{FAILED}: ", f"{LACKING}: "))]
    if said and said[-1].startswith(f"{LACKING}: "):
        raise NothingChanged(said[-1].removeprefix(f"{LACKING}: "))
    raise ServeApiError(said[-1].removeprefix(f"{FAILED}: ") if said else _last_line(state, logs))


def _last_line(state: Mapping[str, Any], logs: str) -> str:
    lines = (logs or str(state.get("message", ""))).strip().splitlines()
    return lines[-1] if lines else "the job failed without a word"
