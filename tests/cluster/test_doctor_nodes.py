"""`detectctl doctor --address` on real nodes: what each has. Looking changes nothing."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import openvino
import pytest

from detectctl.doctor.checkup import OF_CLUSTER, examine
from detectctl.doctor.finding import Subject
from detectctl.settings import UpSettings
from ray_nodes import NODES

if TYPE_CHECKING:
    from detectctl.doctor.finding import Finding
    from ray_cluster import RayCluster

pytestmark = [pytest.mark.cluster, pytest.mark.slow]  # two jobs, each of which imports OpenVINO on every node
# A package that is there and does not load: as where a library of the system is missing.
_BREAK = """
echo 'raise ImportError("libtbb.so.12: cannot open shared object file")' > /tmp/broken.py
mount --bind /tmp/broken.py {0}
"""


def _examined(nodes: RayCluster) -> list[Finding]:
    """What is found of the cluster; the checks' threads are in the lan, as whoever starts them."""
    subject = Subject(UpSettings(address=nodes.address, ray_token_file=nodes.token_file), os.environ)
    checks = [check for check in OF_CLUSTER if check.name in {"cluster", "nodes", "service"}]
    return nodes.inside(list, examine(subject, checks))


def _deployed(nodes: RayCluster) -> dict[str, float]:
    """The applications, and when each of them was deployed."""
    details = nodes.get("/api/serve/applications/").json()
    return {name: one["last_deployed_time_s"] for name, one in details["applications"].items()}


def test_a_node_that_lacks_something_is_named_with_the_command_that_mends_it(nodes: RayCluster) -> None:
    """Before that, all is well."""
    addresses = [urlsplit(nodes.url("", node)).hostname for node in NODES]
    served = _deployed(nodes)
    findings = _examined(nodes)
    said = [finding.message for finding in findings]
    assert [finding for finding in findings if finding.level != "ok"] == []
    assert f"that of the file {nodes.token_file} is accepted" in said
    assert {f"{address} has what replicas need; 2 of 2 CPUs free" for address in addresses} <= set(said)
    assert "HAProxy takes the requests; it waits 30 s for a replica that leaves, 5 s for one of detectctl's" in said
    assert _deployed(nodes) == served
    file = str(openvino.__file__)
    assert nodes.on_node(3, ["sh", "-ec", _BREAK.format(file)]).stderr == ""
    try:
        findings = _examined(nodes)
    finally:
        nodes.on_node(3, ["umount", file])
    [found] = [finding for finding in findings if finding.level == "failure"]
    assert found.message.startswith(f"{addresses[-1]} lacks what replicas need: openvino (ImportError: libtbb")
    assert "`pip install 'openvino" in str(found.fix)
