"""Where a service runs, as the state file records it, and the host that each kind of place needs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detectctl.hosts.cluster.place import ClusterPlace
from detectctl.hosts.local.ray_head import HeadRecord
from detectctl.processes import Process

if TYPE_CHECKING:
    from detectctl.hosts.host import Host

Place = HeadRecord | ClusterPlace

# Enough to find an instance, to roll it to what this version deploys, and to stop it: every schema has these.
_HEAD = ("instance_id", "head", "temp_dir", "dashboard_url", "host", "port")


def to_json(place: Place) -> dict[str, Any]:
    """For the state file."""
    data = asdict(place)
    return data if isinstance(place, ClusterPlace) else {**data, "temp_dir": str(place.temp_dir)}


def from_json(data: dict[str, Any]) -> Place:
    """The inverse of `to_json`, of whatever else a state file says, too; KeyError or TypeError on another shape."""
    if "address" in data:
        return ClusterPlace(data["address"], data["application"], data["token_file"])
    place = {key: data[key] for key in _HEAD}
    place["head"] = None if place["head"] is None else Process(**place["head"])
    place["temp_dir"] = Path(place["temp_dir"])
    place["haproxy"] = data.get("haproxy", True)  # earlier versions had no other ingress
    return HeadRecord(**place)


def described(place: Place) -> str:
    """Where a service is, for people."""
    return f"the cluster {place.address}" if isinstance(place, ClusterPlace) else f"{place.host}:{place.port}"


def open_host(place: Place) -> Host:
    """A context manager; it may have to be started."""
    if isinstance(place, ClusterPlace):
        from detectctl.hosts.cluster.cluster_host import ClusterHost

        return ClusterHost(place)
    from detectctl.hosts.local.local_host import LocalHost

    return LocalHost(place)
