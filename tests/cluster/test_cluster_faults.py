"""What a service on a cluster costs its callers when something there fails; in the order of how much is left."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import pytest

from cluster_client import Client
from installed import DETECTCTL, Home, wait_until
from neighbours import Neighbours
from ray_nodes import NODES, UNPACKED, RayNodes
from train_checkpoints import FOLDER

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    import psutil

    from ray_cluster import RayCluster

# Long because each fault takes Ray's own time to be noticed, and the last one takes the cluster away.
pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(900)]
IMAGES = 300


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """On a cluster of its own; packages that nothing needs are gone there after 5 s, and no node keeps them."""
    folder = tmp_path_factory.mktemp("faults")
    expiry = {
        "RAY_RUNTIME_ENV_TEMPORARY_REFERENCE_EXPIRATION_S": "5",
        "RAY_RUNTIME_ENV_PY_MODULES_CACHE_SIZE_GB": "0",
    }
    with RayNodes(folder, env={"RAY_SERVE_ENABLE_HA_PROXY": "1", **expiry}) as nodes:
        made = Client(nodes, Home(tmp_path_factory.mktemp("client")))
        made.up()
        yield made


def _note(cost: str) -> None:
    """For `pytest -rP`, and `-s`."""
    sys.stdout.write(f"{cost}\n")


def _process(nodes: RayNodes, node: int, name: str) -> psutil.Process:
    [found] = [one for one in nodes.processes(node) if one.cmdline()[:1] == [name]]
    return found


def test_a_killed_controller_costs_nothing(client: Client) -> None:
    assert isinstance(client.nodes, RayNodes)
    before = client.pids()
    with client.asking(*NODES):
        first = _process(client.nodes, 1, "ray::ServeController")
        first.kill()
        wait_until(lambda: client.run("status", "--name", client.name).returncode == 0, 60)
    assert client.pids() == before
    assert client.up()["action"] == "unchanged"


def test_a_killed_worker_costs_what_it_had_in_hand_and_detect_nothing(client: Client, tmp_path: Path) -> None:
    """Callers with one address each are at the others; `detect` has all three. The replica comes back with its node."""
    assert isinstance(client.nodes, RayNodes)
    for number in range(IMAGES):
        (tmp_path / f"{number}.png").write_bytes(client.picture.read_bytes())
    urls = [option for node in (3, 1, 2) for option in ("--url", client.nodes.url("/yolo", node))]
    command: list[str | Path] = [
        DETECTCTL,
        "detect",
        *urls,
        "--api-key-file",
        client.keys,
        "--format",
        "jsonl",
        tmp_path,
    ]
    with client.asking(1, 2, failing=2) as asked, (tmp_path / "found").open("w") as out:
        detecting = client.nodes.popen(command, env=client.home.env, stdout=out)
        wait_until(lambda: (tmp_path / "found").stat().st_size > 10_000)
        client.nodes.kill(3)
        assert detecting.wait(120) == 0
        wait_until(lambda: set(client.pids()) == {"10.77.0.1", "10.77.0.2"}, 60)
        failed = [one for one in asked if one.outcome != 200]
    assert len((tmp_path / "found").read_text().splitlines()) == IMAGES
    assert client.status(code=4)["state"] == "degraded"
    begun = time.monotonic()
    client.nodes.start_node(3)
    wait_until(lambda: set(client.pids()) == {"10.77.0.1", "10.77.0.2", "10.77.0.3"}, 90)
    _note(f"killed worker: {len(failed)} of {len(asked)} failed; spread again {time.monotonic() - begun:.1f} s later")
    wait_until(lambda: client.run("status", "--name", client.name).returncode == 0, 60)


def test_an_update_right_after_a_worker_was_lost_goes_on_without_it(client: Client) -> None:
    """Ray calls it alive for some seconds more. The next update after its return takes it in again."""
    assert isinstance(client.nodes, RayNodes)
    client.nodes.kill(3)
    begun = time.monotonic()
    assert client.up("--imgsz", "96")["action"] == "updated"
    _note(f"an update right after a worker was killed took {time.monotonic() - begun:.0f} s")
    assert set(client.pids()) == {"10.77.0.1", "10.77.0.2"}
    client.nodes.start_node(3)
    assert client.up()["action"] == "updated"
    assert set(client.pids()) == {"10.77.0.1", "10.77.0.2", "10.77.0.3"}


def test_a_drained_worker_costs_nothing(client: Client) -> None:
    assert isinstance(client.nodes, RayNodes)
    known = client.nodes.get("/api/v0/nodes?detail=1").json()["data"]["result"]["result"]
    [node_id] = [one["node_id"] for one in known if one["node_ip"] == "10.77.0.3" and one["state"] == "ALIVE"]
    drain = ["python", "-m", "ray.scripts.scripts", "drain-node", "--address=10.77.0.1:6379", f"--node-id={node_id}"]
    drain += ["--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=test", "--deadline-remaining-seconds=30"]
    with client.asking(1, 2) as asked:
        done = client.nodes.on_node(1, drain)
        assert done.returncode == 0, done.stderr
        wait_until(lambda: "10.77.0.3" not in client.pids(), 120)
    _note(f"drained worker: 0 of {len(asked)} failed")
    client.nodes.kill(3)
    client.nodes.start_node(3)
    wait_until(lambda: len(client.pids()) == 3, 120)


def test_a_service_that_sleeps_wakes_although_its_packages_have_expired(client: Client) -> None:
    """Also after the controller was killed meanwhile: the keeper has kept them."""
    assert isinstance(client.nodes, RayNodes)
    sleeping = ("up", "--name", "sleeper", "--address", client.nodes.address, "--route-prefix", "/sleeper")
    model = client.up_command()[client.up_command().index("--model") + 1]
    client.json(*sleeping, "--model", model, "--replicas", "0..1", "--no-auth")
    wait_until(lambda: client.json("status", "--name", "sleeper")["replicas"] == [], 180)
    time.sleep(25)  # five times the expiry
    _process(client.nodes, 1, "ray::ServeController").kill()
    time.sleep(5)
    done = client.run("detect", "--name", "sleeper", client.picture, "--format", "json", "--timeout", "120")
    assert done.returncode == 0, done.stderr
    assert client.run("down", "--name", "sleeper").returncode == 0


def test_packages_go_when_nothing_needs_them(client: Client) -> None:
    """From the head's memory and the nodes' disks: a model's after an update to another, all of them after `down`."""
    nodes = client.nodes
    before = _deployed(client)
    assert client.up("--model", str(FOLDER / "v5.pt"))["action"] == "updated"
    after = _deployed(client)
    assert len(before - after) == len(after - before) == 1, "the model's; that of the code is the same"
    for left in (after, set[str]()):
        if not left:
            assert client.run("down", "--name", client.name).returncode == 0
        wait_until(lambda wanted=left: _stored(nodes) == wanted, 120)
        for node in NODES:
            wait_until(lambda at=node, wanted=left: _unpacked(nodes, at) == wanted, 120)
    assert client.up()["action"] == "started"


def _deployed(client: Client) -> set[str]:
    """The packages of what runs."""
    application = client.nodes.get("/api/serve/applications/").json()["applications"][f"detectctl-{client.name}"]
    told = application["deployments"]["Detector"]["deployment_config"]["user_config"]
    return {uri.removeprefix("gcs://") for uri in told["detectctl"]["packages"][told["fingerprint"]]["uris"]}


def _stored(nodes: RayCluster) -> set[str]:
    """The packages that the head keeps; to ask the dashboard for one would keep it."""
    asks = (
        "from ray._raylet import GcsClient\n"
        "for key in GcsClient(address='10.77.0.1:6379').internal_kv_keys(b'gcs://', None): print(key.decode())"
    )
    found = nodes.on_node(1, ["python", "-c", asks], check=True).stdout
    return {line.removeprefix("gcs://") for line in found.splitlines()}


def _unpacked(nodes: RayCluster, node: int) -> set[str]:
    """The packages that lie on a node's disk."""
    found = nodes.on_node(node, ["find", UNPACKED, "-mindepth", "1", "-maxdepth", "1", "-type", "d"]).stdout
    return {f"{line.rpartition('/')[2]}.zip" for line in found.splitlines()}


@pytest.fixture(scope="module")
def neighbours(client: Client) -> Neighbours:
    """From here to the head's death; before that, nobody else's packages may lie in the cluster."""
    there = Neighbours(client.nodes)
    there.deploy()
    return there


def test_a_cable_that_is_cut_for_some_seconds_of_an_update_only_delays_it(
    client: Client, neighbours: Neighbours
) -> None:
    """At the others' addresses, what was on its way to that node is lost at most."""
    assert isinstance(client.nodes, RayNodes)
    with neighbours.untouched(), client.asking(1, 2, failing=2) as asked:
        updating = _begun(client, "--imgsz", "96")
        client.nodes.cut(3)
        time.sleep(10)
        client.nodes.mend(3)
        assert updating.wait(240) == 0
        failed = [one for one in asked if one.outcome != 200]
    _note(f"cable cut for 10 s in an update: {len(failed)} of {len(asked)} failed: {failed}")
    assert set(client.pids()) == {"10.77.0.1", "10.77.0.2", "10.77.0.3"}
    assert client.up("--imgsz", "96")["action"] == "unchanged"


def test_a_cable_that_stays_cut_ends_an_update_with_the_nodes_name(client: Client, neighbours: Neighbours) -> None:
    """Once Ray has missed the node. The others go on answering; the next update takes the node in again."""
    assert isinstance(client.nodes, RayNodes)
    with neighbours.untouched(), client.asking(1, 2, failing=2) as asked:
        begun = time.monotonic()
        updating = _begun(client, "--imgsz", "64", "--timeout", "150")
        client.nodes.cut(3)
        _, said = updating.communicate(timeout=300)
        failed = [one for one in asked if one.outcome != 200]
    _note(f"cable cut in an update, which ended after {time.monotonic() - begun:.0f} s with {said}")
    _note(f"{len(failed)} of {len(asked)} failed: {failed}")
    assert updating.returncode == 4
    assert "the lost node 10.77.0.3" in said
    client.nodes.kill(3)
    client.nodes.start_node(3)
    assert client.up("--imgsz", "64")["action"] == "updated"
    assert set(client.pids()) == {"10.77.0.1", "10.77.0.2", "10.77.0.3"}


def _begun(client: Client, *options: str) -> subprocess.Popen[str]:
    """An update, from the moment on at which Serve has begun to replace replicas."""
    command: list[str | Path] = [DETECTCTL, *client.up_command(*options)]
    process = client.nodes.popen(command, env=client.env, cwd=client.home.path, stdout=-1, stderr=-1, text=True)

    def begun() -> bool:
        told = client.nodes.get("/api/serve/applications/").json()["applications"][f"detectctl-{client.name}"]
        assert process.poll() is None, process.communicate()
        return bool(told["status"] == "DEPLOYING")

    wait_until(begun, 60)
    return process


def test_after_the_heads_death_up_restores_the_service(client: Client) -> None:
    """What workers still answer is printed; `status` says what is the matter."""
    assert isinstance(client.nodes, RayNodes)
    urls = [client.nodes.url("/yolo/readyz", node) for node in (2, 3)]
    with client.nodes.load(urls, clients=2, pause_s=0.1) as asked:
        wait_until(lambda: len(asked) > 10)
        client.nodes.kill(1)
        begun = time.monotonic()
        wait_until(lambda: all(one.outcome != 200 for one in asked[-10:]), 180)
        lasted = time.monotonic() - begun
    _note(f"killed head: workers answered for {lasted:.0f} s")
    seen = client.run("status", "--name", client.name)
    assert seen.returncode == 4, seen.stdout
    assert "does not answer" in seen.stdout
    for node in (2, 3):
        client.nodes.kill(node)
    for node in NODES:
        client.nodes.start_node(node)
    assert client.up()["action"] == "started"
    assert len(client.pids()) == 3
