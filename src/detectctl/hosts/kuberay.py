"""A service as KubeRay's RayService: the cluster that Kubernetes makes for it, and the application that runs there.

The promises of `up` are kept by these choices:

- A replica has a worker pod of its own: what Ray counts fits exactly one. So replicas are spread as their pods are, a
  pod that comes back gets its replica back, and the pod's limits are the replica's.
- What replaces replicas is in the pods' template, which then differs. KubeRay makes a second cluster, and hands it the
  traffic when it serves. Only what running replicas can change, and their number, is changed in the running cluster,
  which has no room for two versions.
- The head computes nothing: what a picture does to a replica's pod does not reach it.
- The probes ask by HTTP. Those that KubeRay sets for itself need `wget`, which the image lacks.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from detectctl.hosts.local.ray_head import MALLOC, OBJECT_STORE_BYTES, PROXY

if TYPE_CHECKING:
    from collections.abc import Mapping

PORT = 8000
"""Of the service, in each pod and of Kubernetes' Service."""
USER_ID = 10001
"""Of the image's user and its group."""
CACHE = Path("/var/cache/detectctl")
"""In the image: the folder of models, which a volume replaces."""
KEYS = Path("/run/secrets/detectctl/keys")
"""In a pod: the file of accepted keys."""
_WANDB_KEY = Path("/run/secrets/wandb_api_key")  # in a pod: where the image's entry point looks for it
_DASHBOARD_PORT, _AGENT_PORT, _GCS_PORT = 8265, 52365, 6379  # KubeRay's own
_HEAD = {"cpu": "1", "memory": "3Gi"}  # measured: 2.3 GB with Serve's controller and proxy
_GROUP = "replicas"


@dataclass(frozen=True, slots=True)
class Pods:
    """What the pods are made of.

    Attributes:
        name: of the RayService.
        image: of detectctl.
        ray: its version in the image.
        cpus: of a replica's pod.
        gpus: of a replica's pod.
        memory: of a replica's pod, bytes.
        minimum: number of replicas, and of their pods.
        maximum: up to so many.
        spread: whether two replicas may never be on one node, instead of seldom.
        prepare: the arguments of detectctl that put the model into `CACHE`, before a replica starts.
        prepare_env: what they need of the environment.
        key_secret: name of the Secret whose `keys` are accepted; None accepts every caller.
        wandb_secret: name of the Secret whose `wandb_api_key` is W&B's.
        token_secret: name of the Secret whose `auth_token` is Ray's; None lets KubeRay make one.
        redis: address of the Redis that lets the head be replaced; None has none.
        redis_secret: name of the Secret whose `password` is that of Redis.
    """

    name: str
    image: str
    ray: str
    cpus: int
    gpus: int
    memory: int
    minimum: int
    maximum: int
    spread: bool
    prepare: tuple[str, ...]
    prepare_env: Mapping[str, str]
    key_secret: str | None = None
    wandb_secret: str | None = None
    token_secret: str | None = None
    redis: str | None = None
    redis_secret: str | None = None

    @property
    def scales(self) -> bool:
        """Whether their number follows the load."""
        return self.minimum != self.maximum


def ray_service(application: Mapping[str, Any], pods: Pods) -> str:
    """The manifest, as YAML: equal for equal arguments.

    `application` is as `Deployment.application` gives it; its model is at a path below `CACHE`, its keys at `KEYS`.
    """
    serve = {
        "proxy_location": "EveryNode",
        "http_options": {"host": "0.0.0.0", "port": PORT},  # noqa: S104 - of a pod
        "logging_config": {"encoding": "JSON", "enable_access_log": False},
        "applications": [application],
    }
    cluster: dict[str, Any] = {"rayVersion": pods.ray, "authOptions": {"mode": "token"}}
    if pods.token_secret is not None:
        cluster["authOptions"]["secretName"] = pods.token_secret
    if pods.redis is not None:
        cluster["gcsFaultToleranceOptions"] = {"redisAddress": pods.redis}
        if pods.redis_secret is not None:
            password = {"secretKeyRef": {"name": pods.redis_secret, "key": "password"}}
            cluster["gcsFaultToleranceOptions"]["redisPassword"] = {"valueFrom": password}
    if pods.scales:
        cluster["enableInTreeAutoscaling"] = True
        cluster["autoscalerOptions"] = {"securityContext": _locked(), "volumeMounts": [_mount("tmp", "/tmp")]}  # noqa: S108
    manifest = {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "metadata": {"name": pods.name, "labels": _labels(pods)},
        "spec": {
            "upgradeStrategy": {"type": "NewCluster"},
            # While there is no replica, nobody but the head can take the request that wakes one.
            "excludeHeadPodFromServeSvc": pods.minimum > 0,
            "serveConfigV2": _yaml(serve),
            "rayClusterConfig": {
                **cluster,
                "headGroupSpec": _head(pods),
                "workerGroupSpecs": [_workers(application, pods)],
            },
        },
    }
    return _yaml(manifest)


def _head(pods: Pods) -> dict[str, Any]:
    container = {
        "name": "ray-head",
        "image": pods.image,
        "env": _env(),
        "ports": [
            {"name": "gcs-server", "containerPort": _GCS_PORT},
            {"name": "dashboard", "containerPort": _DASHBOARD_PORT},
            {"name": "serve", "containerPort": PORT},
        ],
        "resources": {"requests": _HEAD, "limits": _HEAD},
        **_probes(ready=("/api/gcs_healthz", _DASHBOARD_PORT), alive=("/api/gcs_healthz", _DASHBOARD_PORT)),
        "securityContext": _locked(),
        "volumeMounts": [_mount("tmp", "/tmp")],  # noqa: S108
    }
    spec = {
        # The autoscaler beside it asks Kubernetes for pods; else nothing here does.
        **({} if pods.scales else {"automountServiceAccountToken": False}),
        "securityContext": _unprivileged(),
        "containers": [container],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
    }
    return {
        "rayStartParams": {"num-cpus": "0", "object-store-memory": str(OBJECT_STORE_BYTES)},
        "template": {"metadata": {"labels": _labels(pods)}, "spec": spec},
    }


def _workers(application: Mapping[str, Any], pods: Pods) -> dict[str, Any]:
    amounts = {"cpu": str(pods.cpus), "memory": _quantity(pods.memory)}
    gpus = {"nvidia.com/gpu": str(pods.gpus)} if pods.gpus else {}
    secrets = {}
    if pods.key_secret is not None:
        secrets["keys"] = _secret(pods.key_secret, KEYS)
    if pods.wandb_secret is not None:
        secrets["wandb"] = _secret(pods.wandb_secret, _WANDB_KEY)
    container = {
        "name": "ray-worker",
        "image": pods.image,
        "env": _env(),
        "ports": [{"name": "serve", "containerPort": PORT}],
        "resources": {"requests": {**amounts, **gpus}, "limits": {**amounts, **gpus}},
        **_probes(ready=("/-/healthz", PORT), alive=("/api/local_raylet_healthz", _AGENT_PORT)),
        "securityContext": _locked(),
        "volumeMounts": [
            _mount("tmp", "/tmp"),  # noqa: S108
            {**_mount("cache", str(CACHE)), "readOnly": True},
            *([] if pods.key_secret is None else [{**_mount("keys", str(KEYS.parent)), "readOnly": True}]),
        ],
    }
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "DoNotSchedule" if pods.spread else "ScheduleAnyway",
        "labelSelector": {"matchLabels": {"ray.io/group": _GROUP, **_labels(pods)}},
        "matchLabelKeys": ["ray.io/cluster"],  # the next version's pods count for themselves
    }
    spec = {
        "automountServiceAccountToken": False,
        "securityContext": _unprivileged(),
        "topologySpreadConstraints": [spread],
        "initContainers": [_preparation(pods, amounts)],
        "containers": [container],
        "volumes": [
            {"name": "tmp", "emptyDir": {}},
            {"name": "cache", "emptyDir": {}},
            *({"name": name, "secret": secret} for name, secret in secrets.items()),
        ],
    }
    annotations = {"detectctl/replaces-replicas": _fixed(application)}
    return {
        "groupName": _GROUP,
        # Where they scale, this number is the autoscaler's: to apply a manifest again must not end pods.
        **({} if pods.scales else {"replicas": pods.minimum}),
        "minReplicas": pods.minimum,
        "maxReplicas": pods.maximum,
        "rayStartParams": {"num-cpus": str(pods.cpus), "object-store-memory": str(OBJECT_STORE_BYTES)},
        "template": {"metadata": {"labels": _labels(pods), "annotations": annotations}, "spec": spec},
    }


def _preparation(pods: Pods, amounts: Mapping[str, str]) -> dict[str, Any]:
    """The container that puts the model where its pod's replica finds it."""
    return {
        "name": "model",
        "image": pods.image,
        "args": list(pods.prepare),
        "env": [{"name": name, "value": value} for name, value in sorted(pods.prepare_env.items())],
        "resources": {"requests": amounts, "limits": amounts},
        "securityContext": _locked(),
        "volumeMounts": [
            _mount("tmp", "/tmp"),  # noqa: S108
            _mount("cache", str(CACHE)),
            *([] if pods.wandb_secret is None else [_file("wandb", _WANDB_KEY)]),
        ],
    }


def _fixed(application: Mapping[str, Any]) -> str:
    """Equal for applications between which replicas need not be replaced."""
    changing = {"user_config", "num_replicas", "autoscaling_config"}
    deployments = [
        {key: value for key, value in deployment.items() if key not in changing}
        for deployment in application["deployments"]
    ]
    text = json.dumps({**application, "deployments": deployments}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _env() -> list[dict[str, str]]:
    env = {**MALLOC, **PROXY, "RAY_USAGE_STATS_ENABLED": "0"}
    return [{"name": name, "value": value} for name, value in env.items()]


def _probes(*, ready: tuple[str, int], alive: tuple[str, int]) -> dict[str, Any]:
    """Routes that need no token. Ray may be busy for long before it has to be started again."""

    def ask(route: tuple[str, int]) -> dict[str, Any]:
        path, port = route
        return {"httpGet": {"path": path, "port": port}, "timeoutSeconds": 5, "periodSeconds": 5}

    return {
        "startupProbe": {**ask(alive), "failureThreshold": 60},
        "livenessProbe": {**ask(alive), "failureThreshold": 24},
        "readinessProbe": {**ask(ready), "failureThreshold": 2},
    }


def _labels(pods: Pods) -> dict[str, str]:
    return {"app.kubernetes.io/part-of": "detectctl", "app.kubernetes.io/instance": pods.name}


def _unprivileged() -> dict[str, Any]:
    ids = dict.fromkeys(("runAsUser", "runAsGroup", "fsGroup"), USER_ID)
    return {"runAsNonRoot": True, **ids, "seccompProfile": {"type": "RuntimeDefault"}}


def _locked() -> dict[str, Any]:
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def _mount(volume: str, path: str) -> dict[str, Any]:
    return {"name": volume, "mountPath": path}


def _file(volume: str, path: Path) -> dict[str, Any]:
    return {**_mount(volume, str(path)), "subPath": path.name, "readOnly": True}


def _secret(name: str, file: Path) -> dict[str, Any]:
    # Read by the image's group, which `fsGroup` is.
    return {"secretName": name, "items": [{"key": file.name, "path": file.name}], "defaultMode": 0o440}


def _quantity(size: int) -> str:
    """Kubernetes' own way to write a number of bytes, rounded up."""
    mebibytes = math.ceil(size / 2**20)
    return f"{mebibytes}Mi" if mebibytes % 1024 else f"{mebibytes // 1024}Gi"


class _Dumper(yaml.SafeDumper):
    """Writes text of several lines as it is, and what occurs twice out twice."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)
_Dumper.add_representer(tuple, yaml.SafeDumper.represent_list)


def _yaml(data: Any) -> str:
    # No line is broken: what is in `serveConfigV2` stands in one that is.
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, width=math.inf)
