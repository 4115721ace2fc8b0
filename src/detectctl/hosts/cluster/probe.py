"""What each node of a cluster has of what replicas need: looked at before anything changes, from a job there."""

from __future__ import annotations

from importlib import import_module, metadata
from typing import Any

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
# Any of them is as good: what differs is what they bring along.
_SAME = {
    "opencv-python-headless": ("opencv-python", "opencv-contrib-python-headless", "opencv-contrib-python"),
    "ultralytics-opencv-headless": ("ultralytics",),
}
_LOOK_S = 60.0


LACKING = "detectctl lacks"
"""How the line of a job begins that failed for that, before anything changed."""


class Lacking(Exception):
    """A node has not what replicas need, or the cluster has no room for them; its text says which and what."""


def needs(*, on_gpu: bool) -> dict[str, str]:
    """What this installation says that replicas need: name of a package → versions, as pip writes them."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    wanted = {**_MODULES, **(_MODULES_ON_GPU if on_gpu else {})}
    found = {str(canonicalize_name(each.name)): each for each in map(Requirement, metadata.requires("detectctl") or [])}
    return {name: str(found[name].specifier) for name in wanted}


def probe(needed: dict[str, str], *, cpus: float, gpus: float, replicas: int) -> int:
    """Look at every node that could have a replica, from a driver that is connected; returns how many there are.

    Args:
        needed: as from `needs`.
        cpus: that a replica reserves.
        gpus: that a replica reserves.
        replicas: that must find room at once.

    Raises:
        Lacking: some node lacks a package, or there is not the room.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = [
        node
        for node in ray.nodes()
        if node["Alive"] and node["Resources"].get("CPU", 0) >= cpus and node["Resources"].get("GPU", 0) >= gpus
    ]
    if not nodes:
        raise Lacking(f"no node of the cluster has {_reserved(cpus, gpus)} for a replica")
    remote_look = ray.remote(num_cpus=0, max_retries=0)(look)
    asked = {
        node["NodeManagerAddress"]: remote_look.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(needed)
        for node in nodes
    }
    lacking = {}
    for address, answer in asked.items():
        try:
            if missing := ray.get(answer, timeout=_LOOK_S):
                lacking[address] = missing
        except ray.exceptions.RayError as error:
            lacking[address] = [f"{type(error).__name__}: {str(error).strip().splitlines()[-1]}"]
    if lacking:
        where = "; ".join(f"{address}: {', '.join(missing)}" for address, missing in sorted(lacking.items()))
        mends = " ".join(sorted({f"'{name}{needed[name]}'" for name in needed if name in where}))
        raise Lacking(f"nodes lack what replicas need: {where}" + (f"; on each: pip install {mends}" if mends else ""))
    _require_room(nodes, cpus, gpus, replicas)
    return len(nodes)


def _require_room(nodes: list[dict[str, Any]], cpus: float, gpus: float, replicas: int) -> None:
    from ray._private.state import available_resources_per_node

    free = available_resources_per_node()
    room = 0
    for node in nodes:
        left = free.get(node["NodeID"], {})
        rooms = [left.get("CPU", 0.0) / cpus] + ([left.get("GPU", 0.0) / gpus] if gpus else [])
        room += int(min(rooms) + 1e-6)
    if room < replicas:
        raise Lacking(
            f"there is room for {room} of the {replicas} replicas to start, with {_reserved(cpus, gpus)} each: "
            "free some, add nodes, or lower --cpus or --replicas"
        )


def _reserved(cpus: float, gpus: float) -> str:
    words = f"{cpus:g} CPU{'' if cpus == 1 else 's'}"
    return words + (f" and {gpus:g} GPU{'' if gpus == 1 else 's'}" if gpus else "")


def look(needed: dict[str, str]) -> list[str]:
    """What this node lacks of what is needed, in words; empty if nothing."""
    from packaging.specifiers import SpecifierSet

    lacking = []
    for name, versions in needed.items():
        try:
            import_module({**_MODULES, **_MODULES_ON_GPU}[name])
        except Exception as error:  # noqa: BLE001 - whatever a broken package raises
            lacking.append(f"{name} ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})")
            continue
        found = _version(name)
        if found is not None and not SpecifierSet(versions).contains(found, prereleases=True):
            lacking.append(f"{name} ({found} instead of {versions})")
    return lacking


def _version(name: str) -> str | None:
    for each in (name, *_SAME.get(name, ())):
        try:
            return metadata.version(each)
        except metadata.PackageNotFoundError:
            continue
    return None
