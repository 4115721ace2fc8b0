"""`detectctl doctor --address` on real nodes: what each has, and that nothing is changed by looking."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import openvino
import pytest

from installed import DETECTCTL, Home

if TYPE_CHECKING:
    from pathlib import Path

    from ray_nodes import RayNodes

pytestmark = pytest.mark.cluster
_OF_CLUSTER = {"cluster", "token", "nodes", "applications", "ingress", "clocks", "service"}
# A package that is there and does not load: as where a library of the system is missing.
_BREAK = """
echo 'raise ImportError("libtbb.so.12: cannot open shared object file")' > /tmp/broken.py
mount --bind /tmp/broken.py {0}
"""


def _examined(nodes: RayNodes, home: Home) -> tuple[int, list[dict[str, Any]]]:
    env = {**home.env, "RAY_AUTH_TOKEN_PATH": str(nodes.token_file)}
    done = nodes.run([DETECTCTL, "doctor", "--address", nodes.address, "--json"], env=env)
    assert done.stderr == ""
    findings = json.loads(done.stdout)["findings"]
    return done.returncode, [finding for finding in findings if finding["check"] in _OF_CLUSTER]


def test_a_node_that_lacks_something_is_named_with_the_command_that_mends_it(nodes: RayNodes, tmp_path: Path) -> None:
    """Before that, all is well."""
    home = Home(tmp_path)
    _, findings = _examined(nodes, home)
    said = [finding["message"] for finding in findings]
    assert [finding for finding in findings if finding["level"] != "ok"] == []
    assert f"that of the file {nodes.token_file} (RAY_AUTH_TOKEN_PATH) is accepted" in said
    for node in (1, 2, 3):
        assert f"10.77.0.{node} has what replicas need; 2 of 2 CPUs free" in said
    assert "HAProxy takes the requests; it waits 30 s for a replica that leaves, 1 s for one of detectctl's" in said
    assert nodes.get("/api/serve/applications/").json()["controller_info"] == {}
    file = str(openvino.__file__)
    assert nodes.on_node(3, ["sh", "-ec", _BREAK.format(file)]).stderr == ""
    try:
        code, findings = _examined(nodes, home)
    finally:
        nodes.on_node(3, ["umount", file])
    assert code == 4
    [found] = [finding for finding in findings if finding["level"] == "failure"]
    assert found["message"].startswith("10.77.0.3 lacks what replicas need: openvino (ImportError: libtbb.so.12")
    assert "`pip install 'openvino" in found["fix"]
