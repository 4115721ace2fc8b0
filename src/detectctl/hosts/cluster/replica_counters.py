"""What the replicas on a cluster's nodes have counted, read through its dashboard."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlencode

from detectctl.hosts.dashboard import ServeApiError
from detectctl.serving.collected import DAMAGED, Collected, file_name
from detectctl.serving.request_stats import RequestStats
from detectctl.waiting import Deadline

if TYPE_CHECKING:
    from detectctl.hosts.dashboard import Dashboard

_ASK_S = 10.0


def stats(dashboard: Dashboard, application: str) -> RequestStats:
    """The sum over all that the application has had, as it was a second or two ago; ServeApiError if nobody says."""
    deadline = Deadline.after(_ASK_S)
    told = dashboard.json("GET", "/api/v0/nodes?detail=1&limit=10000", deadline)
    nodes = ((told.get("data") or {}).get("result") or {}).get("result") or ()
    heads = (node["node_id"] for node in nodes if node.get("is_head_node") and node.get("state") == "ALIVE")
    query = urlencode({"node_id": next(heads, ""), "filename": f"serve/{file_name(application)}"})
    text = dashboard.ask("GET", f"/api/v0/logs/file?{query}", deadline).body
    try:
        return RequestStats.of_all(Collected.parse(text).contents())
    except DAMAGED as error:
        raise ServeApiError("its counters cannot be read") from error
