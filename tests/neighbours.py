"""Two applications of other people on a cluster, and what they would notice of what is done beside them."""

from __future__ import annotations

import contextlib
import hashlib
import io
import zipfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from installed import wait_until
from ray_cluster import INGRESS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ray_cluster import Asked, RayCluster

DECLARED = "declared"
"""Its owner keeps its configuration in a file, which he puts into Serve's REST interface."""
IMPERATIVE = "imperative"
"""Its owner runs a program that calls `serve.run`."""
NAMES = (DECLARED, IMPERATIVE)

_PROGRAM = f"""
import os, socket
from ray import serve

@serve.deployment(ray_actor_options={{"num_cpus": 0, "resources": {{"node:__internal_head__": 0.001}}}})
class Neighbour:
    def __call__(self, request) -> str:
        return f"{{socket.gethostname()}} {{os.getpid()}}"

application = Neighbour.bind()
if __name__ == "__main__":
    serve.run(application, name="{IMPERATIVE}", route_prefix="/{IMPERATIVE}")
"""
_SERVE = "/api/serve/applications/"
_SETTINGS = ("target_capacity", "proxy_location", "http_options", "grpc_options")


@dataclass(frozen=True)
class Record:
    """The neighbours, and what Serve is set to, at one moment.

    Attributes:
        answers: by application, the host and process that answers its requests.
        configured: by application, all that Serve knows of how it was deployed.
        settings: Serve's own.
    """

    answers: dict[str, str]
    configured: dict[str, dict[str, Any]]
    settings: dict[str, Any]


@dataclass
class Neighbours:
    """One application of each kind on a cluster, on its head, since other nodes are killed."""

    nodes: RayCluster
    _package: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as package:
            package.writestr("neighbour.py", _PROGRAM)
        name = f"_ray_pkg_{hashlib.sha256(archive.getvalue()).hexdigest()[:32]}.zip"
        self.nodes.request("PUT", f"/api/packages/gcs/{name}", content=archive.getvalue()).raise_for_status()
        self._package = {"py_modules": [f"gcs://{name}"]}

    def deploy(self) -> None:
        """Have both owners deploy, and wait until both applications answer."""
        self.declare()
        job = {"entrypoint": "python -m neighbour", "entrypoint_num_cpus": 0, "runtime_env": self._package}
        started = self.nodes.request("POST", "/api/jobs/", json=job).raise_for_status().json()["submission_id"]

        def done() -> bool:
            state = self.nodes.get(f"/api/jobs/{started}").json()
            assert state["status"] in {"PENDING", "RUNNING", "SUCCEEDED"}, state["message"]
            return bool(state["status"] == "SUCCEEDED")

        wait_until(done, 60)
        wait_until(lambda: all(self.nodes.get(f"/{name}", port=INGRESS).status_code == 200 for name in NAMES), 60)

    def declare(self) -> None:
        """Have the owner of the declared application put his file into Serve, who knows of no others."""
        application = {
            "name": DECLARED,
            "route_prefix": f"/{DECLARED}",
            "import_path": "neighbour:application",
            "runtime_env": self._package,
        }
        self.put([application])

    def put(self, applications: list[dict[str, Any]]) -> None:
        """Declare these applications, and no others."""
        config = {
            "target_capacity": 100,
            "proxy_location": "EveryNode",
            "http_options": {"host": "0.0.0.0"},  # noqa: S104 - the lan's
            "applications": applications,
        }
        self.nodes.request("PUT", _SERVE, json=config).raise_for_status()

    def record(self) -> Record:
        """What there is now."""
        told = self.nodes.get(_SERVE).raise_for_status().json()
        return Record(
            {name: self.nodes.get(f"/{name}", port=INGRESS).text for name in NAMES},
            {name: _configured(told["applications"][name]) for name in NAMES if name in told["applications"]},
            {key: told.get(key) for key in _SETTINGS},
        )

    @contextlib.contextmanager
    def untouched(self) -> Iterator[list[Asked]]:
        """Assert that the neighbours notice nothing of what is done in the block; yields their own requests in it."""
        before = self.record()
        with self.nodes.load([self.nodes.url(f"/{name}") for name in NAMES], clients=1, pause_s=0.05) as asked:
            yield asked
        assert self.record() == before
        assert [one for one in asked if one.outcome != 200] == []


def _configured(application: dict[str, Any]) -> dict[str, Any]:
    """Without what is otherwise at each look."""
    deployments = {
        name: {
            "config": deployment["deployment_config"],
            "replicas": sorted(
                (one["replica_id"], one.get("node_ip"), one.get("pid")) for one in deployment["replicas"]
            ),
        }
        for name, deployment in application["deployments"].items()
    }
    kept = ("source", "status", "route_prefix", "deployed_app_config")
    return {key: application[key] for key in kept} | {"deployments": deployments}
