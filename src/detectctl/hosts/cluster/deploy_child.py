"""A job on a cluster: what Serve can only be asked by a program there. It comes with our code, and runs on the head.

`python -m detectctl.hosts.cluster.deploy_child deploy|delete|survey SPEC`, where SPEC is JSON, compressed, in base64.
What fails is the last line, after the name of what failed. It starts on Pythons too old for the rest, to say so.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shlex
import sys
import zlib
from typing import Any

from detectctl.hosts.cluster.probe import FAILED, FOUND, LACKING, Lacking, probe, require_python, survey

_LOGGING = {"encoding": "JSON", "enable_access_log": False}  # we log each request ourselves


def main() -> int:
    """What the job does; exit code 1 if that failed."""
    import ray

    command, packed = sys.argv[1:]
    spec = json.loads(zlib.decompress(base64.urlsafe_b64decode(packed)))
    ray.init(address="auto", namespace="serve", log_to_driver=False)
    try:
        if command == "survey":
            sys.stdout.write(f"{FOUND}: {json.dumps(survey(spec['needs'], spec['environment']))}\n")
        elif command == "deploy":
            require_python()
            deploy(spec)
        else:
            delete(spec["name"])
    except Exception as error:  # noqa: BLE001 - whoever waits for the job reads its last line
        named = LACKING if isinstance(error, Lacking) else f"{FAILED}: {type(error).__name__}"
        sys.stdout.write(f"{named}: {' '.join(str(error).split())[-2000:]}\n")
        return 1
    return 0


def deploy(spec: dict[str, Any]) -> None:
    """Hand Serve the application, in place of an older version; returns when it has begun to.

    Raises:
        Lacking: a node has not what replicas need; nothing was changed.
    """
    from ray import serve
    from ray.serve.config import DeploymentActorConfig

    from detectctl.hosts.cluster.runtime_environment import PYTHON, of_replicas
    from detectctl.serving.app import Replica
    from detectctl.serving.package_keeper import KEEPER, keeper_class
    from detectctl.serving.service_config import ServiceConfig

    asked = spec["deployment"]["ray_actor_options"]
    theirs = asked.pop("runtime_env", {})
    rooms = probe(
        spec["needs"],
        theirs,
        cpus=asked["num_cpus"],
        gpus=asked.get("num_gpus", 0),
        replicas=spec["room"],
        look_s=spec["look_s"],
    )
    asked["runtime_env"] = of_replicas(theirs)
    options = {key: value for key, value in spec["deployment"].items() if key != "spread"}
    version = _version(spec["args"], asked)
    if spec["deployment"].get("spread"):
        version = _spread(options, rooms, spec["running"], f"{spec['name']}:{version}")
    # On the head: Serve's state ends with it anyway, and it may stand without a replica, and without what they need.
    alone: dict[str, Any] = {"num_cpus": 0, "resources": {"node:__internal_head__": 0.001}}
    if PYTHON in theirs:
        alone["runtime_env"] = {PYTHON: shlex.quote(sys.executable)}
    keeper = DeploymentActorConfig(name=KEEPER, actor_class=keeper_class(), actor_options=alone)
    deployment = serve.deployment(deployment_actors=[keeper], **options)(serve.ingress()(Replica))
    # Otherwise each call replaces all replicas, whatever has changed.
    deployment._version = version
    application = deployment.bind(ServiceConfig.from_json(spec["args"]))
    target = serve.RunTarget(application, spec["name"], spec["route_prefix"], logging_config=_LOGGING)
    serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)


def _spread(options: dict[str, Any], rooms: list[int], running: int, version: str) -> str:
    """Give each node its share of the replicas of this version, and no more; returns the version with that.

    Serve's own `max_replicas_per_node` counts old and new ones together: with as many replicas as nodes, new ones would
    wait for ever for room beside the old. So each version has a limit of its own, made as Serve makes that one.
    """
    from ray import _raylet

    most = options.get("num_replicas") or options["autoscaling_config"]["max_replicas"]
    share = -(-most // len(rooms))
    limited = f"{version}-{share}"
    prefix: str = _raylet.IMPLICIT_RESOURCE_PREFIX  # type: ignore[attr-defined]  # compiled, without a description
    options["ray_actor_options"]["resources"] = {f"{prefix}{limited}": 1 / share}
    if sum(min(room, share) for room in rooms) < running:
        options["max_surge_percent"] = 0  # an old one makes room
    return limited


def _version(args: dict[str, Any], asked: dict[str, Any]) -> str:
    """Equal for what need not replace replicas."""
    told = json.dumps([args, asked], sort_keys=True, default=str)
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def delete(name: str) -> None:
    """Take the application down; returns when its replicas have answered what they had accepted."""
    from ray import serve

    from detectctl.serving.collected import forget

    serve.delete(name)
    forget(name)


if __name__ == "__main__":
    sys.exit(main())
