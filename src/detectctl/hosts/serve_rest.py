"""Ray Serve's REST interface on a head's dashboard, read loosely: its fields differ between versions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from detectctl.colours import without_colours
from detectctl.serving.service_config import APPLICATION, DEPLOYMENT

if TYPE_CHECKING:
    from detectctl.hosts.dashboard import Dashboard
    from detectctl.waiting import Deadline

_PATH = "/api/serve/applications/"


@dataclass(frozen=True, slots=True)
class Replica:
    """One replica, as Serve sees it.

    Attributes:
        state: Ray's own word (STARTING, RUNNING, STOPPING, …).
        requests: that it has answered; Serve does not know, its counters do. None if nobody does.
        version: of the model that it serves, or the digest of one without; None if nobody knows.
    """

    replica_id: str
    state: str
    pid: int | None
    node_ip: str | None
    requests: int | None = None
    version: str | None = None


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
        waits_for: what keeps it from becoming ready, where the host knows; empty where it does not.
    """

    application: str = ""
    deployment: str = ""
    message: str = ""
    target_replicas: int = 0
    replicas: tuple[Replica, ...] = ()
    fingerprint: str = ""
    waits_for: str = ""

    def __str__(self) -> str:
        states = ", ".join(sorted(replica.state for replica in self.replicas)) or "no replica yet"
        waits = f", waiting for {self.waits_for}" if self.waits_for else ""
        return f"{self.application or 'NOT_STARTED'} ({states}){waits}"

    @property
    def ready(self) -> int:
        """Replicas that take requests."""
        return sum(replica.state == "RUNNING" for replica in self.replicas)

    @property
    def reason(self) -> str:
        """The line of the message that names the cause: the last of a traceback."""
        return (without_colours(self.message).strip() or "Serve gives no reason").splitlines()[-1].strip()


class ServeApi:
    """A client of Serve on one head; close it. Its methods raise ServeApiError.

    Args:
        application: the one that `status` is about.
    """

    def __init__(self, dashboard: Dashboard, application: str = APPLICATION) -> None:
        self._dashboard = dashboard
        self._application = application

    def details(self, deadline: Deadline | None = None) -> dict[str, Any]:
        """All that Serve says."""
        return self._dashboard.json("GET", _PATH, deadline)

    def status(self, deadline: Deadline | None = None) -> ServeStatus:
        """What runs now."""
        return parse((self.details(deadline).get("applications") or {}).get(self._application) or {})

    def put(self, config: dict[str, Any], deadline: Deadline | None = None) -> None:
        """Declare what should run; applications left out are deleted."""
        self._dashboard.json("PUT", _PATH, deadline, config)


def user_config(application: dict[str, Any]) -> dict[str, Any]:
    """What its deployment was last given; empty if there is none."""
    declared = (application.get("deployed_app_config") or {}).get("deployments") or ()
    # Of an application that a program has deployed, Serve keeps no declaration.
    found = (application.get("deployments") or {}).get(DEPLOYMENT) or {}
    configs = [*declared, found.get("deployment_config") or {}]
    return next((one["user_config"] for one in configs if isinstance(one.get("user_config"), dict)), {})


def parse(application: dict[str, Any]) -> ServeStatus:
    """What Serve says of one application; {} if there is none."""
    deployment = (application.get("deployments") or {}).get(DEPLOYMENT) or {}
    return ServeStatus(
        application=application.get("status") or "",
        deployment=deployment.get("status") or "",
        message=deployment.get("message") or application.get("message") or "",
        target_replicas=deployment.get("target_num_replicas") or 0,
        replicas=tuple(
            Replica(str(item.get("replica_id", "")), str(item.get("state", "")), item.get("pid"), item.get("node_ip"))
            for item in deployment.get("replicas") or ()
        ),
        fingerprint=user_config(application).get("fingerprint", ""),
    )
