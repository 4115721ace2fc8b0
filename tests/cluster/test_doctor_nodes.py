"""`detectctl doctor --address` on real nodes: what each has. Looking changes nothing."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import openvino
import pytest

from detectctl.doctor.checkup import OF_CLUSTER, examine
from detectctl.doctor.finding import Subject
from detectctl.settings import UpSettings

if TYPE_CHECKING:
    from detectctl.doctor.finding import Finding
    from ray_nodes import RayNodes

pytestmark = [pytest.mark.cluster, pytest.mark.slow]  # two jobs, each of which imports OpenVINO on every node
# A package that is there and does not load: as where a library of the system is missing.
_BREAK = """
echo 'raise ImportError("libtbb.so.12: cannot open shared object file")' > /tmp/broken.py
mount --bind /tmp/broken.py {0}
"""


def _examined(nodes: RayNodes) -> list[Finding]:
    """What is found of the cluster; the checks' threads are in the lan, as whoever starts them."""
    subject = Subject(UpSettings(address=nodes.address, ray_token_file=nodes.token_file), os.environ)
    checks = [check for check in OF_CLUSTER if check.name in {"cluster", "nodes", "service"}]
    return nodes.inside(list, examine(subject, checks))


def test_a_node_that_lacks_something_is_named_with_the_command_that_mends_it(nodes: RayNodes) -> None:
    """Before that, all is well."""
    served = nodes.get("/api/serve/applications/").json()
    findings = _examined(nodes)
    said = [finding.message for finding in findings]
    assert [finding for finding in findings if finding.level != "ok"] == []
    assert f"that of the file {nodes.token_file} is accepted" in said
    for node in (1, 2, 3):
        assert f"10.77.0.{node} has what replicas need; 2 of 2 CPUs free" in said
    assert "HAProxy takes the requests; it waits 30 s for a replica that leaves, 1 s for one of detectctl's" in said
    assert nodes.get("/api/serve/applications/").json() == served
    file = str(openvino.__file__)
    assert nodes.on_node(3, ["sh", "-ec", _BREAK.format(file)]).stderr == ""
    try:
        findings = _examined(nodes)
    finally:
        nodes.on_node(3, ["umount", file])
    [found] = [finding for finding in findings if finding.level == "failure"]
    assert found.message.startswith("10.77.0.3 lacks what replicas need: openvino (ImportError: libtbb.so.12")
    assert "`pip install 'openvino" in str(found.fix)
