"""Ray Serve's REST interface on a head's dashboard, read loosely: its fields differ between versions."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from detectctl.colours import without_colours
from detectctl.http import NoAnswer, Server
from detectctl.serving.service_config import APPLICATION, DEPLOYMENT
from detectctl.waiting import Deadline

_PATH = "/api/serve/applications/"
_PATIENCE_S = 60.0  # the first PUT starts Serve's controller


class ServeApiError(Exception):
    """The dashboard did not answer in time, or reported an error: in Serve's own words."""


@dataclass(frozen=True, slots=True)
class Replica:
    """One replica, as Serve sees it; `state` is Ray's own word (STARTING, RUNNING, STOPPING, …)."""

    replica_id: str
    state: str
    pid: int | None
    node_ip: str | None


@dataclass(frozen=True, slots=True)
class ServeStatus:
    """The application and its one deployment, in Ray's words.

    Attributes:
        application: NOT_STARTED, DEPLOYING, RUNNING, DEPLOY_FAILED, UNHEALTHY, DELETING; or "" if there is none.
        deployment: UPDATING, HEALTHY, UNHEALTHY, DEPLOY_FAILED, UPSCALING, DOWNSCALING; or "".
        message: Serve's own message, of the deployment if it has one, else of the application.
        target_replicas: how many Serve wants now.
        replicas: those it has.
        fingerprint: of the deployment that was last PUT.
    """

    application: str = ""
    deployment: str = ""
    message: str = ""
    target_replicas: int = 0
    replicas: tuple[Replica, ...] = ()
    fingerprint: str = ""

    def __str__(self) -> str:
        states = ", ".join(sorted(replica.state for replica in self.replicas)) or "no replica yet"
        return f"{self.application or 'NOT_STARTED'} ({states})"

    @property
    def ready(self) -> int:
        """Replicas that take requests."""
        return sum(replica.state == "RUNNING" for replica in self.replicas)

    @property
    def reason(self) -> str:
        """The line of the message that names the cause: the last of a traceback."""
        return (without_colours(self.message).strip() or "Serve gives no reason").splitlines()[-1].strip()


class ServeApi:
    """A client of the dashboard of one head; close it. Its methods raise ServeApiError."""

    def __init__(self, dashboard_url: str, token: str) -> None:
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        self._server = Server(dashboard_url, headers=headers)
        self.close = self._server.close

    def status(self, deadline: Deadline | None = None) -> ServeStatus:
        """What runs now."""
        data = self._ask("GET", deadline)
        return _parse(data.get("applications", {}).get(APPLICATION) or {})

    def put(self, config: dict[str, Any], deadline: Deadline | None = None) -> None:
        """Declare what should run; applications left out are deleted."""
        self._ask("PUT", deadline, json.dumps(config).encode())

    def _ask(self, method: str, deadline: Deadline | None, body: bytes | None = None) -> dict[str, Any]:
        # One second at least: the last look of a wait should say what it saw, not that there was no time to look.
        left_s = _PATIENCE_S if deadline is None else min(_PATIENCE_S, max(1.0, deadline.left_s))
        try:
            answer = self._server.ask(method, _PATH, Deadline.after(left_s), body=body)
        except NoAnswer as error:
            raise ServeApiError(str(error)) from error
        if answer.status != 200:
            raise ServeApiError(f"HTTP {answer.status}: {_cause(answer.body.decode(errors='replace'))}")
        data = answer.json()
        return data if isinstance(data, dict) else {}


def _cause(text: str) -> str:
    """Serve's own words on one line; of a traceback, the error that it ends with."""
    error = re.search(r'(?s).*^  File "[^\n]*\n(?:  [^\n]*\n)*(.+)', text, re.MULTILINE)
    return " ".join((error[1] if error else text).split())[-500:]


def _parse(application: dict[str, Any]) -> ServeStatus:
    deployment = (application.get("deployments") or {}).get(DEPLOYMENT) or {}
    config = application.get("deployed_app_config") or {}
    return ServeStatus(
        application=application.get("status") or "",
        deployment=deployment.get("status") or "",
        message=deployment.get("message") or application.get("message") or "",
        target_replicas=deployment.get("target_num_replicas") or 0,
        replicas=tuple(
            Replica(str(item.get("replica_id", "")), str(item.get("state", "")), item.get("pid"), item.get("node_ip"))
            for item in deployment.get("replicas") or ()
        ),
        fingerprint=next(
            (item["user_config"]["fingerprint"] for item in config.get("deployments") or () if item.get("user_config")),
            "",
        ),
    )
