"""`up --address`: a service on somebody's cluster, from the first `up` to `down`, as its callers see it."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

import tiers
from cluster_client import KEY, Client
from detectctl.annotate import annotated
from detectctl.engine.detector import Detector
from detectctl.engine.detector_settings import DetectorSettings
from detectctl.hosts.cluster import carrier
from detectctl.upright import open_upright
from detectctl.wire import DetectionResult, DrawOptions
from installed import Home
from ray_nodes import NODES, UNPACKED

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from neighbours import Neighbours
    from ray_cluster import RayCluster

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(600)]

NAME = "yolo"


@pytest.fixture(scope="module")
def client(nodes: RayCluster, neighbours: Neighbours, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """With a service of three replicas, spread; its neighbours notice nothing until it is gone."""
    nodes.url("", NODES[-1])  # skips where there are not three
    made = Client(nodes, Home(tmp_path_factory.mktemp("client")))
    with neighbours.untouched():
        try:
            made.up()
            yield made
        finally:
            done = made.run("down", "--name", NAME, "--address", made.nodes.address)
        assert done.returncode == 0, done.stderr


def test_each_node_answers_the_same_below_the_prefix_and_only_with_a_key(client: Client) -> None:
    """The nodes have nothing of ours but what `up` carried there, and find what this machine does."""
    assert set(client.pids()) == {"10.77.0.1", "10.77.0.2", "10.77.0.3"}
    answers = [client.detect(node) for node in NODES]
    assert answers[0]["objects"]
    assert all(answer == answers[0] for answer in answers)
    state = json.loads((client.home.state / NAME / "instance.json").read_text())
    here = Detector.load(DetectorSettings(**state["deployed"]["config"]["detector"]))
    _, found = here.detect(client.picture.read_bytes())
    assert [one.to_json() for one in found.detections] == answers[0]["objects"]
    assert client.nodes.get("/yolo/info", port=8000).status_code == 401
    for path in ("/yolo", "/yolo/", "/yolo/page/app.js", "/yolo/readyz"):
        assert client.nodes.get(path, port=8000, follow_redirects=True).status_code == 200, path


@pytest.mark.parametrize("node", [1, 2])
def test_a_replica_keeps_the_promises_of_the_edge_behind_an_ingress_that_is_not_ours(client: Client, node: int) -> None:
    """At the head's address and a worker's; behind Serve's own proxy, see test_cluster_updates.py."""
    client.assert_promises_kept(node)


def test_annotate_draws_what_detect_finds_at_a_workers_address(client: Client, tmp_path: Path) -> None:
    """The command's picture, the service's, and one that is drawn here from the answer are the same."""
    there = ("--url", client.nodes.url(f"/{NAME}", 2), "--api-key-file", client.keys)
    done = client.run("annotate", *there, client.picture, "-o", tmp_path / "drawn.png")
    assert done.returncode == 0, done.stderr
    sent, headers = client.picture.read_bytes(), {"X-API-Key": KEY, "Accept": "image/png"}
    answer = client.nodes.request("POST", f"/{NAME}/annotate", node=2, port=8000, content=sent, headers=headers)
    assert answer.headers["content-type"] == "image/png"
    found = DetectionResult.from_json(client.detect(2))
    here = annotated(open_upright(sent), found, "png", DrawOptions())
    assert here != annotated(open_upright(sent), replace(found, detections=()), "png", DrawOptions())
    assert answer.content == here
    assert (tmp_path / "drawn.png").read_bytes() == here


def test_the_same_again_changes_nothing(client: Client) -> None:
    pids = client.pids()
    assert client.up()["action"] == "unchanged"
    assert client.pids() == pids


def test_keys_are_changed_as_replicas_run_and_the_dashboard_shows_none(client: Client) -> None:
    """Their digests travel, and who has an old one is refused from then on; neighbours' owners read no key."""
    pids, other = client.pids(), "another-key-of-the-cluster"
    client.keys.write_text(f"{other}\n")
    try:
        assert client.up()["action"] == "updated"
        assert [client.detect(node) for node in NODES] == [401, 401, 401]
        asked = client.nodes.get(f"/{NAME}/info", port=8000, headers={"X-API-Key": other})
        assert asked.status_code == 200
        for path in ("/api/serve/applications/", "/api/jobs/", "/api/v0/actors?detail=1"):
            shown = client.nodes.get(path).text
            assert NAME in shown
            assert KEY not in shown
            assert other not in shown
    finally:
        client.keys.write_text(f"{KEY}\n")
        client.up()
    assert client.detect(1)["objects"]
    assert client.pids() == pids


def test_updates_under_load_close_no_nodes_address(client: Client) -> None:
    """Thresholds and keys reach replicas as they run; another size of picture takes other ones, on each node again."""
    pids = client.pids()
    if tiers.ALL:  # keys, above, reach them by the same way
        with client.asking(*NODES):
            assert client.up("--conf", "0.5")["action"] == "updated"
        assert client.pids() == pids
    with client.asking(*NODES):
        assert client.up("--conf", "0.5", "--imgsz", "96")["action"] == "updated"
    assert client.pids().keys() == pids.keys()
    assert set(client.pids().values()).isdisjoint(pids.values())


@pytest.mark.long  # a minute; that other bytes are refused is shown in test_hosts_cluster_carrier.py
def test_a_model_that_was_changed_on_its_nodes_is_fetched_anew_and_never_served(client: Client) -> None:
    """An update needs the same bytes again: replicas take them from the package that the cluster keeps."""
    before = client.detect(1)
    weights, _ = _carried(client)
    with _changed(client, weights):
        assert client.up("--conf", "0.5", "--imgsz", "64")["action"] == "updated"
        for node in NODES:
            same = client.nodes.on_node(node, ["sh", "-c", f"cmp {weights} {weights}.whole"])
            assert same.returncode == 0, same.stdout
    assert client.up("--conf", "0.5", "--imgsz", "96")["action"] == "updated"
    assert client.detect(1) == before


@pytest.mark.long  # a minute
def test_an_update_whose_replicas_cannot_load_the_model_costs_nothing(client: Client) -> None:
    """It has other bytes on the nodes, and the cluster none; all replicas that loaded it before go on."""
    before, pids = client.detect(1), client.pids()
    weights, uris = _carried(client)
    [compiled] = client.home.cache.glob("compiled/*/")
    [package] = carrier.model(compiled)[1]
    assert package.uri in uris
    kept = f"/api/packages/gcs/{package.file_name}"
    client.nodes.request("PUT", kept, content=b"nothing").raise_for_status()
    try:
        with _changed(client, weights), client.asking(*NODES):
            failed = client.run(*client.up_command("--conf", "0.5", "--imgsz", "64"))
    finally:
        client.nodes.request("PUT", kept, content=package.data).raise_for_status()
    assert failed.returncode == 5, failed.stderr
    assert "is not what was sent, and could not be fetched anew" in failed.stderr
    assert client.detect(1) == before
    assert client.pids() == pids
    assert client.status(code=4)["state"] == "failed update"
    client.up("--conf", "0.5", "--imgsz", "96")  # also what a failure has left behind is mended by `up`


def _carried(client: Client) -> tuple[str, set[str]]:
    """Where the model's weights lie on each node, as a pattern, and what was sent to the cluster for it."""
    application = client.nodes.get("/api/serve/applications/").json()["applications"][f"detectctl-{NAME}"]
    told = application["deployments"]["Detector"]["deployment_config"]["user_config"]["detectctl"]["packages"].values()
    [module] = {module for one in told for module in one["carried"]["modules"]}
    return f"{UNPACKED}/*/{module}/model.bin", {uri for one in told for uri in one["uris"]}


@contextlib.contextmanager
def _changed(client: Client, weights: str) -> Iterator[None]:
    """Another file in the place of this one on each node, until the block ends; what has mapped it has it still."""
    change = f"for file in {weights}; do cp $file $file.whole; cp $file $file.other; printf x >> $file.other; done; "
    change += f"for file in {weights}; do mv $file.other $file; done"
    for node in NODES:
        client.nodes.on_node(node, ["sh", "-ec", change], check=True)
    try:
        yield
    finally:
        for node in NODES:
            mend = f"for file in {weights}; do mv $file.whole $file; done"
            client.nodes.on_node(node, ["sh", "-ec", mend], check=True)


def test_what_does_not_fit_is_refused_before_anything_changes(client: Client) -> None:
    """Serve would wait for room without a word."""
    pids = client.pids()
    failed = client.run(*client.up_command("--cpus", "3"))
    assert failed.returncode == 4, failed.stderr
    assert "no node of the cluster has 3 CPUs for a replica" in failed.stderr
    assert "what ran before goes on serving" in failed.stderr
    assert client.pids() == pids
    assert client.status(code=4)["state"] == "failed update"


def test_another_machine_sees_and_changes_it_by_the_address_alone(client: Client, tmp_path: Path) -> None:
    """Nothing of who ran `up` is needed: what runs is told by the application."""
    other = Client(client.nodes, Home(tmp_path))
    seen = other.json("status", "--name", NAME, "--address", client.nodes.address)
    mine = client.status(code=4)
    told = {"state": "running", "message": "", "uptime_s": seen["uptime_s"]}  # of what only this machine has tried
    assert seen == {**mine, **told}
    assert not (tmp_path / ".local").exists()
    updated = other.up("--conf", "0.4", "--imgsz", "96")  # of another size, its replicas would be others
    assert updated["action"] == "updated"
    assert updated["endpoint"] == seen["endpoint"] == "http://10.77.0.1:8000/yolo"
    assert client.status()["state"] == "running"
    logs = other.run("logs", "--name", NAME, "--address", client.nodes.address, "--json")
    said = [json.loads(line) for line in logs.stdout.splitlines()]
    assert any(line["message"] == "/detect" for line in said), logs.stderr


def test_detect_asks_it_by_its_name(client: Client) -> None:
    done = client.run("detect", "--name", NAME, client.picture, "--format", "json")
    assert json.loads(done.stdout)[0]["objects"], done.stderr
