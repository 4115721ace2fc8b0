"""Ray Serve's REST interface on the head's dashboard, read loosely: fields differ between versions."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Self

import httpx

from detectctl.serving.service_config import APPLICATION, DEPLOYMENT

_PATH = "/api/serve/applications/"
_PATIENCE_S = 60.0  # the first PUT starts Serve's controller


class ServeApiError(Exception):
    """The dashboard did not answer, or not with success."""


@dataclass(frozen=True, slots=True)
class Replica:
    """One replica, as Serve sees it; `state` is Ray's own word (STARTING, RUNNING, STOPPING, …)."""

    replica_id: str
    state: str
    pid: int | None
    node_ip: str | None
    log_file: str | None
    started_at: float | None


@dataclass(frozen=True, slots=True)
class ServeStatus:
    """The application and its one deployment, in Ray's words.

    Attributes:
        application: NOT_STARTED, DEPLOYING, RUNNING, DEPLOY_FAILED, UNHEALTHY, DELETING; or "" if there is none.
        deployment: UPDATING, HEALTHY, UNHEALTHY, DEPLOY_FAILED, UPSCALING, DOWNSCALING; or "".
        message: Serve's own message, of the deployment if it has one, else of the application.
        target_replicas: how many Serve wants now.
        replicas: those it has.
        dead_replicas: log files of those that died recently.
        fingerprint: of the deployment that was last PUT.
    """

    application: str = ""
    deployment: str = ""
    message: str = ""
    target_replicas: int = 0
    replicas: tuple[Replica, ...] = ()
    dead_replicas: tuple[str, ...] = ()
    fingerprint: str = ""

    @property
    def ready(self) -> int:
        """Replicas that take requests."""
        return sum(replica.state == "RUNNING" for replica in self.replicas)


class ServeApi:
    """A client of the dashboard of one head; close it, or use it as a context manager.

    Args:
        dashboard_url: on loopback.
        token: for the dashboard.
        deadline: monotonic seconds; a dashboard that hangs is not waited for beyond it.
    """

    def __init__(self, dashboard_url: str, token: str, deadline: float | None = None) -> None:
        self._deadline = deadline
        self._client = httpx.Client(
            base_url=dashboard_url,
            headers={"Authorization": f"Bearer {token}"},
            trust_env=False,  # a proxy of the environment must not see the token
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def status(self) -> ServeStatus:
        """What runs now.

        Raises:
            ServeApiError: the dashboard did not answer, or not with success.
        """
        data = self._request("GET").json()
        return _parse(data.get("applications", {}).get(APPLICATION) or {})

    def put(self, config: dict[str, Any]) -> None:
        """Declare what should run; applications left out are deleted.

        Raises:
            ServeApiError: as for `status`; its text has Serve's own words.
        """
        self._request("PUT", json=config)

    def _request(self, method: str, **kwargs: Any) -> httpx.Response:
        left = _PATIENCE_S if self._deadline is None else max(0.1, self._deadline - time.monotonic())
        timeout = httpx.Timeout(min(10.0, left), read=min(_PATIENCE_S, left))
        try:
            response = self._client.request(method, _PATH, timeout=timeout, **kwargs)
        except httpx.HTTPError as error:
            raise ServeApiError(f"{type(error).__name__}: {error}") from error
        if not response.is_success:
            raise ServeApiError(f"HTTP {response.status_code}: {response.text.strip()[-500:]}")
        return response


def _parse(application: dict[str, Any]) -> ServeStatus:
    deployment = (application.get("deployments") or {}).get(DEPLOYMENT) or {}
    config = application.get("deployed_app_config") or {}
    return ServeStatus(
        application=application.get("status") or "",
        deployment=deployment.get("status") or "",
        message=deployment.get("message") or application.get("message") or "",
        target_replicas=deployment.get("target_num_replicas") or 0,
        replicas=tuple(_replica(item) for item in deployment.get("replicas") or ()),
        dead_replicas=tuple(
            item["log_file_path"] for item in deployment.get("recent_dead_replicas") or () if item.get("log_file_path")
        ),
        fingerprint=next(
            (item["user_config"]["fingerprint"] for item in config.get("deployments") or () if item.get("user_config")),
            "",
        ),
    )


def _replica(data: dict[str, Any]) -> Replica:
    return Replica(
        replica_id=str(data.get("replica_id", "")),
        state=str(data.get("state", "")),
        pid=data.get("pid"),
        node_ip=data.get("node_ip"),
        log_file=data.get("log_file_path"),
        started_at=data.get("start_time_s"),
    )
