"""What each node of a cluster has of what replicas need: looked at before anything changes, from a job there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
import uuid
from dataclasses import asdict, dataclass, field
from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_MODULES = {
    "aiohttp": "aiohttp",
    "idna": "idna",
    "numpy": "numpy",
    "opencv-python-headless": "cv2",
    "openvino": "openvino",
    "pillow": "PIL",
    "prometheus-client": "prometheus_client",
    "psutil": "psutil",
    "python-multipart": "python_multipart",
}
_MODULES_ON_GPU = {"ultralytics-opencv-headless": "ultralytics"}
GPU = "a GPU that computes"
"""Among what a node may lack; no package mends it."""
_FEATURES = ("max_surge_percent", "deployment_actors")
# Any of them is as good: what differs is what they bring along.
_SAME = {
    "opencv-python-headless": ("opencv-python", "opencv-contrib-python-headless", "opencv-contrib-python"),
    "ultralytics-opencv-headless": ("ultralytics",),
}
_LOOK_S = 60.0
_START_S = 30.0
_VERSIONS = "import importlib.metadata as m, platform; print(platform.python_version(), m.version('ray'))"

OLDEST_PYTHON = (3, 11)
FAILED = "detectctl"
"""How the line of a job begins that failed."""
LACKING = "detectctl lacks"
"""How it begins if a node or the cluster lacks something, before anything changed."""
FOUND = "detectctl found"
"""How the line begins that has what was looked for, as JSON."""


class Lacking(Exception):
    """A node has not what replicas need, or the cluster has no room for them; its text says which and what."""


def needs(*, on_gpu: bool) -> dict[str, str]:
    """What this installation says that replicas need: name of a package → versions, as pip writes them."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    wanted = {**_MODULES, **(_MODULES_ON_GPU if on_gpu else {})}
    found = {str(canonicalize_name(each.name)): each for each in map(Requirement, metadata.requires("detectctl") or [])}
    return {name: str(found[name].specifier) for name in wanted}


@dataclass
class Seen:
    """What a node has; this runs on Pythons that are too old for the rest of us.

    Attributes:
        lacks: name of a package, or `GPU` → what is wrong with it.
        clock: seconds since the epoch, as the node has it.
        trouble: why nothing could be looked at there; empty if it could.
    """

    lacks: dict[str, str] = field(default_factory=dict)
    clock: float = 0.0
    trouble: str = ""

    @property
    def words(self) -> str:
        """What a replica would miss; empty if nothing."""
        return self.trouble or ", ".join(f"{name} ({wrong})" for name, wrong in self.lacks.items())


def mend(needed: dict[str, str], lacking: Iterable[str], theirs: dict[str, Any]) -> str:
    """The command that installs these packages on a node, for the Python that replicas run on there."""
    pip = f"{theirs['py_executable']} -m pip" if "py_executable" in theirs else "pip"
    return f"{pip} install " + " ".join(f"'{name}{needed[name]}'" for name in sorted(lacking))


def require_python() -> None:
    """Raise Lacking if this one is too old for detectctl."""
    if sys.version_info < OLDEST_PYTHON:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        raise Lacking(f"the cluster runs Python {_python()}, and detectctl needs {oldest} or later")


def _python() -> str:
    return ".".join(map(str, sys.version_info[:3]))


def probe(
    needed: dict[str, str], theirs: dict[str, Any], *, cpus: float, gpus: float, replicas: int, look_s: float
) -> list[int]:
    """Look at every node that could have a replica, from a driver that is connected.

    Returns how many find room beside what is there, on each of them.

    Args:
        needed: as from `needs`.
        theirs: what an operator adds to Ray's runtime environment of replicas.
        cpus: that a replica reserves.
        gpus: that a replica reserves.
        replicas: that must find room at once.
        look_s: how long the nodes may take, which prepare that environment first.

    Raises:
        Lacking: some node lacks a package, or there is not the room.
    """
    seen = _seen([node for node in _alive() if _fits(node["Resources"], cpus, gpus)], needed, theirs, look_s)
    # One that was lost shortly before that has been missed by now.
    nodes = [node for node in _alive() if node["NodeManagerAddress"] in seen]
    if not nodes:
        raise Lacking(f"no node of the cluster has {reserved(cpus, gpus)} for a replica")
    lacking = {address: seen[address] for node in nodes if seen[address := node["NodeManagerAddress"]].words}
    if lacking:
        alike: dict[str, list[str]] = {}
        for address, one in sorted(lacking.items()):
            alike.setdefault(one.words, []).append(address)
        where = "; ".join(f"{', '.join(addresses)}: {words}" for words, addresses in alike.items())
        missing = {name for one in lacking.values() for name in one.lacks if name != GPU}
        mends = f"; on each: {mend(needed, missing, theirs)}" if missing else ""
        raise Lacking(f"nodes lack what replicas need: {where}{mends}")
    return _rooms(nodes, cpus, gpus, replicas)


def survey(needed: dict[str, str], theirs: dict[str, Any]) -> dict[str, Any]:
    """What there is for whoever asks, as JSON: each living node, and what Serve is on this cluster."""
    import inspect

    from ray import serve
    from ray._private.state import available_resources_per_node
    from ray.serve._private import constants

    nodes, free = sorted(_alive(), key=lambda node: str(node["NodeManagerAddress"])), available_resources_per_node()
    seen = _seen([node for node in nodes if node["Resources"].get("CPU")], needed, theirs, _LOOK_S)
    known = inspect.signature(serve.deployment).parameters
    return {
        "python": _python(),
        "lacks": [name for name in _FEATURES if name not in known],
        "haproxy": constants.RAY_SERVE_ENABLE_HA_PROXY,
        "drain_s": constants.RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S,
        "nodes": [
            {
                "address": address,
                "whole": {name: node["Resources"].get(name, 0.0) for name in ("CPU", "GPU")},
                "free": {name: free.get(node["NodeID"], {}).get(name, 0.0) for name in ("CPU", "GPU")},
                "seen": asdict(seen[address]) if address in seen else None,
            }
            for node in nodes
            for address in (node["NodeManagerAddress"],)
        ],
    }


def _alive() -> list[dict[str, Any]]:
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def _fits(resources: dict[str, float], cpus: float, gpus: float) -> bool:
    return resources.get("CPU", 0) >= cpus and resources.get("GPU", 0) >= gpus


def _seen(
    nodes: list[dict[str, Any]], needed: dict[str, str], theirs: dict[str, Any], look_s: float
) -> dict[str, Seen]:
    """Each node's address → what it has, with what an operator adds to the runtime environment.

    Another Python is looked at from Ray's own first: one that is not there Ray would try to start for minutes, and
    nothing else on that node meanwhile.
    """
    late = time.monotonic() + look_s
    if not theirs:
        return _asked(nodes, look, needed, {}, late)
    from detectctl.hosts.cluster.runtime_environment import ATTEMPT, PYTHON, of_replicas

    seen = _asked(nodes, look_at_python, theirs[PYTHON], {}, late) if PYTHON in theirs else {}
    sound = [node for node in nodes if not (one := seen.get(node["NodeManagerAddress"])) or not one.words]
    environment = of_replicas(theirs)
    # Nodes remember for minutes that an environment failed, whatever was mended meanwhile.
    environment["env_vars"][ATTEMPT] = uuid.uuid4().hex
    return {**seen, **_asked(sound, look, needed, environment, late)}


def _asked(
    nodes: list[dict[str, Any]], question: Callable[[Any], Seen], about: Any, environment: dict[str, Any], late: float
) -> dict[str, Seen]:
    """Each node's address → its answer; all are asked at once."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    remote = ray.remote(num_cpus=0, max_retries=0)(question)
    options = {"runtime_env": environment} if environment else {}
    asked = {
        node["NodeManagerAddress"]: remote.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False), **options
        ).remote(about)
        for node in nodes
    }
    seen = {}
    for address, answer in asked.items():
        try:
            seen[address] = ray.get(answer, timeout=max(0.0, late - time.monotonic()))
        except ray.exceptions.RayError as error:
            seen[address] = Seen(trouble=trouble(error, environment))
    return seen


def trouble(error: Exception, environment: dict[str, Any]) -> str:
    """Why Ray could not look at a node, with this environment, in words; `error` is Ray's."""
    import ray

    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    builder = next((key for key in ("conda", "pip", "uv") if key in environment), None)
    if isinstance(error, ray.exceptions.GetTimeoutError):
        if builder is not None:
            return f"{builder} has not finished its environment in time; `--timeout` allows more"
        return "it does not answer, although Ray has not missed it yet"
    if not isinstance(error, ray.exceptions.RuntimeEnvSetupError):
        return f"{type(error).__name__}: {lines[-1]}"
    # Ray ends with what the installer printed, which seldom repeats at its end that it reached nobody.
    unreached = [line.partition(" connection broken by ")[2] for line in lines if " connection broken by " in line]
    unreached = [re.sub("<[^>]*>: ", "", line) for line in unreached[-1:]]  # an object in pip's memory, by its address
    words = "; ".join([f"Ray cannot prepare its environment: {lines[-1]}", *unreached])
    return words if builder is None else f"{words}; mend that, or install it there and use `--node-python`"


def _rooms(nodes: list[dict[str, Any]], cpus: float, gpus: float, replicas: int) -> list[int]:
    from ray._private.state import available_resources_per_node

    free = available_resources_per_node()
    rooms = [fitting(free.get(node["NodeID"], {}), cpus, gpus) for node in nodes]
    if sum(rooms) < replicas:
        raise Lacking(
            f"there is room for {sum(rooms)} of the {replicas} replicas to start, with {reserved(cpus, gpus)} each: "
            "free some, add nodes, or lower --cpus or --replicas"
        )
    return rooms


def fitting(free: dict[str, float], cpus: float, gpus: float) -> int:
    """How many replicas find room in what a node has free."""
    rooms = [free.get("CPU", 0.0) / cpus] + ([free.get("GPU", 0.0) / gpus] if gpus else [])
    return int(min(rooms) + 1e-6)


def reserved(cpus: float, gpus: float) -> str:
    """What a replica takes, in words."""
    words = f"{cpus:g} CPU{'' if cpus == 1 else 's'}"
    return words + (f" and {gpus:g} GPU{'' if gpus == 1 else 's'}" if gpus else "")


def look(needed: dict[str, str]) -> Seen:
    """What this node has of what is needed."""
    from packaging.specifiers import SpecifierSet

    lacks = {}
    for name, versions in needed.items():
        try:
            module = import_module({**_MODULES, **_MODULES_ON_GPU}[name])
        except Exception as error:  # noqa: BLE001 - whatever a broken package raises
            lacks[name] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            continue
        if module.__file__ is None:  # imported without a word
            lacks[name] = "only a folder is left of it"
            continue
        found = _version(name)
        if found is not None and not SpecifierSet(versions).contains(found, prereleases=True):
            lacks[name] = f"{found} instead of {versions}"
    if not lacks and needed.keys() & _MODULES_ON_GPU.keys() and (wrong := _wrong_with_gpu()) is not None:
        lacks[GPU] = wrong
    return Seen(lacks, time.time())


def look_at_python(command: str) -> Seen:
    """What is wrong on this node with a Python that replicas are to run on: Ray wants the same as its own."""
    import ray

    # As Ray starts it.
    shell = ["bash", "-c", f"exec {command} -c {shlex.quote(_VERSIONS)}"]
    try:
        done = subprocess.run(shell, capture_output=True, text=True, timeout=_START_S, check=False)
    except subprocess.TimeoutExpired:
        return Seen(trouble=f"the Python {command} does not start within {_START_S:g} s")
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return Seen(trouble=f"the Python {command} cannot be used: {said}")
    found, own = done.stdout.split(), [_python(), ray.__version__]
    if found != own:
        words = "Python {} with Ray {}".format
        return Seen(trouble=f"{command} is {words(*found)}, and must be {words(*own)}, as Ray is there")
    return Seen()


def _wrong_with_gpu() -> str | None:
    """Ray counts GPUs that somebody told it of, and those that no library can use."""
    if sys.version_info < OLDEST_PYTHON:
        return None  # which is told by itself
    from detectctl.engine.devices import lack_of_gpu

    # Who reserves no GPU is shown none.
    return lack_of_gpu({name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"})


def _version(name: str) -> str | None:
    for each in (name, *_SAME.get(name, ())):
        try:
            return metadata.version(each)
        except metadata.PackageNotFoundError:
            continue
    return None
