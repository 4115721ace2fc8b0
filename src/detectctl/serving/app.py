"""The Serve application: the one place where Ray meets the service."""

from __future__ import annotations

import asyncio
import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detectctl.serving.service_config import DEPLOYMENT, ServiceConfig

if TYPE_CHECKING:
    from detectctl.serving.admission import Service
    from detectctl.serving.guard import KeyDigests

_CONTROLLER_S = 1.0


def build(args: dict[str, Any]) -> Any:
    """Serve's import path `detectctl.serving.app:build`; `args` is a `ServiceConfig` as JSON."""
    from ray import serve

    config = ServiceConfig.from_json(args)
    # No Ray options here: `up` sends them all with the application, where `status` can read them.
    return serve.deployment(name=DEPLOYMENT)(serve.ingress()(Replica)).bind(config)


class Replica:
    """What Serve constructs in each replica; requests come only after the constructor has returned."""

    def __init__(self, config: ServiceConfig) -> None:
        from detectctl.engine.detector import Detector

        if config.carried is not None:
            config = replace(config, detector=replace(config.detector, model=str(config.carried.unpack())))
        self._config = config
        self._detector = Detector.load(config.detector)
        self._detector.warm_up()
        self._service: Service | None = None
        self._keys: KeyDigests | None = None

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Serve calls it once after the constructor, and again when `up` changes what a running replica can change."""
        self._config = self._config.updated(user_config)
        self._detector.settings = self._config.detector
        if self._service is not None:
            self._service.reconfigure(self._config)
        if self._keys is not None and self._config.carried is not None:
            self._keys.replace(self._config.key_digests)

    def __serve_build_asgi_app__(self) -> Any:
        """The FastAPI application around the loaded detector, behind its guard."""
        from ray import serve

        from detectctl.serving.admission import Service
        from detectctl.serving.fetch import Fetcher
        from detectctl.serving.guard import KeyDigests, KeyRing
        from detectctl.serving.reporter import Reporter
        from detectctl.serving.request_log import open_request_log
        from detectctl.serving.routes import create_app
        from detectctl.serving.tally import SUFFIX
        from detectctl.serving.tracing import open_spans
        from detectctl.serving.url_policy import UrlPolicy

        # Serve's setting drops its line about each request only after it has made it.
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        context = serve.get_replica_context()
        name, stats_file = context.replica_id.unique_id, None
        if self._config.stats_dir is not None:
            stats_file = Path(self._config.stats_dir) / f"{name}{SUFFIX}"
            open_request_log(stats_file.with_suffix(".log"))
        elif (folder := _serves_logs()) is not None:
            open_request_log(folder / f"replica_{context.app_name}_requests_{name}.log")
        policy = UrlPolicy(self._config.allow_url, self._config.url_input)
        fetcher = Fetcher(policy, max_bytes=self._config.detector.max_image_bytes)
        self._service = Service(
            self._config,
            self._detector,
            fetcher,
            request_id=_request_id,
            stats_file=stats_file,
            replicas=_replicas,
            spans=open_spans(os.environ, name),
            reporter=None if self._config.carried is None else Reporter(name),
        )
        keys = self._config.api_key_file
        if keys is not None:
            # Where the file is not: until Serve has called `reconfigure` with the digests, no key is accepted.
            there = self._config.carried is None
            self._keys = KeyRing(Path(keys)) if there else KeyDigests(self._config.key_digests)
        return create_app(self._service, self._keys)

    def check_health(self) -> None:
        """Serve replaces the replica if this raises."""
        if self._service is not None:
            self._service.check()


def _request_id() -> str:
    from ray.serve.context import _get_serve_request_context

    return str(_get_serve_request_context().request_id)


def _serves_logs() -> Path | None:
    """The folder on this node whose files Ray's dashboard shows; None if Serve does not log to files."""
    for handler in logging.getLogger("ray.serve").handlers:
        # Serve collects lines in memory before they go into its file.
        file = getattr(getattr(handler, "target", handler), "baseFilename", None)
        if file is not None:
            return Path(file).parent
    return None


async def _replicas() -> tuple[int, int] | None:
    """How many replicas Serve's controller wants, and how many run; None if it does not say so at once."""
    import ray
    from ray import serve
    from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

    try:
        controller = ray.get_actor(SERVE_CONTROLLER_NAME, SERVE_NAMESPACE)
        details = await asyncio.wait_for(controller.get_serve_instance_details.remote(), _CONTROLLER_S)
        application = serve.get_replica_context().app_name
        deployment = details["applications"][application]["deployments"][DEPLOYMENT]
        ready = sum(one["state"] == "RUNNING" for one in deployment["replicas"])
        return deployment["target_num_replicas"], ready
    except (ray.exceptions.RayError, ValueError, TimeoutError, LookupError, TypeError):
        return None  # the controller may be starting again; its figures are left out meanwhile
