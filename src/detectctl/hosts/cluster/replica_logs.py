"""The logs of replicas on a cluster's nodes, read through its dashboard."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from detectctl.hosts.dashboard import ServeApiError
from detectctl.hosts.host import NewLines

if TYPE_CHECKING:
    from collections.abc import Iterator

    from detectctl.hosts.dashboard import Dashboard

_TAIL = 2000
"""Lines that are asked for of each file: the dashboard tells no positions in it, so an overlap is what is known."""


def new_lines(dashboard: Dashboard, application: str, reached: dict[Any, Any]) -> Iterator[NewLines]:
    """See `Host.new_log_lines`; of the application's replicas only, for the rest of the log is others' too.

    `reached` keeps the last line of each file.
    """
    for node in _nodes(dashboard):
        for file in _files(dashboard, node, application):
            query = urlencode({"node_id": node, "filename": file, "lines": _TAIL})
            try:
                lines = dashboard.ask("GET", f"/api/v0/logs/file?{query}").body.splitlines()
            except ServeApiError:  # the node went away, or the file was rotated
                continue
            seen = reached.get((node, file))
            if seen in lines:
                lines = lines[len(lines) - lines[::-1].index(seen) :]
            if lines:
                reached[node, file] = lines[-1]
            yield NewLines(file.rpartition("/")[2], time.time(), lines)


def _nodes(dashboard: Dashboard) -> list[str]:
    found = dashboard.json("GET", "/api/v0/nodes?detail=1").get("data", {}).get("result", {}).get("result") or ()
    return [str(node["node_id"]) for node in found if node.get("state") == "ALIVE" and node.get("node_id")]


def _files(dashboard: Dashboard, node: str, application: str) -> list[str]:
    query = urlencode({"node_id": node, "glob": f"serve/replica_{application}_*"})
    try:
        found = dashboard.json("GET", f"/api/v0/logs?{query}").get("data", {}).get("result") or {}
    except ServeApiError:  # a node that has just died
        return []
    return sorted({str(file) for files in found.values() for file in files})
