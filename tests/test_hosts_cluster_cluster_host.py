"""What a client makes of what a cluster's dashboard says, and of what it does not; the real one is in tests/cluster."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from bent_rollout import BAD, GOOD
from detectctl.errors import NotReady, UsageError
from detectctl.hosts.cluster.cluster_host import ClusterHost, updates
from detectctl.hosts.cluster.place import ClusterPlace
from detectctl.hosts.dashboard import NothingChanged, ServeApiError
from detectctl.hosts.serve_rest import ServeStatus
from detectctl.lifecycle.down import down
from detectctl.lifecycle.state import Failure, InstanceFolder, InstanceState, served_digests
from detectctl.progress import silent
from detectctl.settings import ModelsSettings
from detectctl.waiting import Deadline
from lifecycle_values import PLACE, STATE
from raw_server import RawServer, answer

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator
    from pathlib import Path

    from detectctl.lifecycle.deployment import Deployment

FAILURE = Failure("a/b/c:d", None, "it does not load", None, 1.0)
NOTED = replace(STATE, deployed=GOOD, last_good=GOOD)


def _application(record: object, status: str = "RUNNING", **changes: Any) -> dict[str, Any]:
    """As Serve describes one that a job has deployed."""
    told = {"fingerprint": GOOD.fingerprint, "detectctl": record}
    detector = {"status": "HEALTHY", "deployment_config": {"user_config": told}, "replicas": []}
    return {"status": status, "deployed_app_config": None, "deployments": {"Detector": detector}, **changes}


class Dashboard(RawServer):
    """One that says whatever `says` is, except to those who ask for what is in `instead`.

    With nothing to say it hangs up.
    """

    def __init__(self) -> None:
        super().__init__(self._say)
        self.says = b""
        self.instead: dict[str, bytes] = {}
        self.place = ClusterPlace.of("default", f"http://127.0.0.1:{self.port}", None)

    async def _say(self, head: str, writer: asyncio.StreamWriter) -> None:
        writer.write(next((says for asked, says in self.instead.items() if head.startswith(asked)), self.says))
        await writer.drain()
        if not self.says:
            writer.close()

    def has(self, application: dict[str, Any]) -> None:
        self.says = answer(json.dumps({"applications": {"detectctl-default": application}}).encode())

    def read(self, folder: Path) -> InstanceState | None:
        return InstanceFolder(folder, "default", self.place).read()


@pytest.fixture
def dashboard(monkeypatch: pytest.MonkeyPatch) -> Iterator[Dashboard]:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    with Dashboard() as running:
        yield running


def test_the_application_tells_any_machine_what_runs(dashboard: Dashboard, tmp_path: Path) -> None:
    """What was deployed and answers is the last good one; until it does, that is the one before."""
    record = replace(NOTED, last_good=BAD, last_failure=FAILURE).to_json()
    dashboard.has(_application(record))
    state = dashboard.read(tmp_path)
    assert state == replace(NOTED, place=dashboard.place)
    dashboard.has(_application(record, "DEPLOYING"))
    assert dashboard.read(tmp_path) == replace(NOTED, place=dashboard.place, last_good=BAD, last_failure=FAILURE)
    assert list(tmp_path.iterdir()) == []


def test_a_machine_that_knows_the_address_knows_which_model_is_served(dashboard: Dashboard, tmp_path: Path) -> None:
    dashboard.has(_application(NOTED.to_json()))
    assert served_digests(ModelsSettings(), tmp_path) == {}
    there = ModelsSettings(address=dashboard.place.address)
    assert served_digests(there, tmp_path) == {GOOD.config.model.digest: "default"}


def test_an_update_names_the_node_that_it_waits_for(dashboard: Dashboard) -> None:
    """One that was lost after it was deployed, and is not back; others have nothing to do with it."""
    application = _application(NOTED.to_json(), "DEPLOYING", last_deployed_time_s=100.0)
    application["deployments"]["Detector"]["target_num_replicas"] = 3
    lost = {"state": "DEAD", "end_time_ms": 101_000}
    nodes = [
        {"node_ip": "10.0.0.1", "state": "ALIVE", "end_time_ms": 0},
        {"node_ip": "10.0.0.2", **lost},
        {"node_ip": "10.0.0.3", **lost},
        {"node_ip": "10.0.0.3", "state": "ALIVE", "end_time_ms": 0},
        {"node_ip": "10.0.0.4", "state": "DEAD", "end_time_ms": 99_000},
    ]
    there = {"applications": {"detectctl-default": application}, "data": {"result": {"result": nodes}}}
    dashboard.says = answer(json.dumps(there).encode(), headers=["Connection: close"])
    with ClusterHost(dashboard.place) as host:
        assert str(host.status()) == "DEPLOYING (no replica yet), waiting for the lost node 10.0.0.2"
        nodes[1]["state"] = "ALIVE"
        dashboard.says = answer(json.dumps(there).encode(), headers=["Connection: close"])
        assert str(host.status()) == "DEPLOYING (no replica yet)"


def test_a_machine_remembers_what_only_it_has_tried(dashboard: Dashboard, tmp_path: Path) -> None:
    """An update that never came as far as the cluster; and an instance of which the cluster says nothing just now."""
    folder = InstanceFolder(tmp_path, "default")
    folder.create()
    noted = replace(NOTED, place=dashboard.place, last_failure=FAILURE)
    folder.write(noted)
    dashboard.has(_application(NOTED.to_json()))
    assert folder.read() == noted
    dashboard.says = answer(status="503 Service Unavailable")
    assert folder.read() == noted
    dashboard.says = answer(b'{"applications": {}}')
    assert folder.read() is None, "somebody has taken it down"


def test_an_address_leaves_an_instance_of_this_machine_alone(dashboard: Dashboard, tmp_path: Path) -> None:
    """Of the same name: it is neither read, nor forgotten with the other."""
    here = InstanceFolder(tmp_path, "default")
    here.create()
    here.write(NOTED)
    there = InstanceFolder(tmp_path, "default", dashboard.place)
    dashboard.has(_application(replace(NOTED, created_at=2.0).to_json()))
    state = there.read()
    assert state is not None
    assert (state.place, state.created_at) == (dashboard.place, 2.0)
    there.forget()
    assert here.read() == replace(NOTED, place=PLACE)


@pytest.mark.parametrize(
    ("version", "applications", "kind", "words"),
    [
        ("2.59.1", {}, NotReady, "runs Ray 2.59.1"),
        ("", {}, NotReady, "of an unknown version"),
        ("2.60.0", {"search": {"route_prefix": "/yolo"}}, UsageError, "--route-prefix /yolo is taken"),
        ("2.60.0", {"detectctl-default": _application(None)}, UsageError, "is not detectctl's"),
    ],
)
def test_what_the_cluster_cannot_keep_its_promise_for_is_refused(
    dashboard: Dashboard, version: str, applications: dict[str, Any], kind: type[Exception], words: str
) -> None:
    """Before anything changes there: it was only asked."""
    dashboard.instead = {"GET /api/version": answer(json.dumps({"ray_version": version}).encode())}
    dashboard.says = answer(json.dumps({"applications": applications}).encode())
    with ClusterHost(dashboard.place) as host, pytest.raises(kind, match=words):
        host.require("/yolo")
    assert all(head.startswith("GET ") for head in dashboard.requests)


def test_a_store_that_takes_no_more_is_told_and_nothing_has_changed(dashboard: Dashboard, tmp_path: Path) -> None:
    """What ran before needs no restoring, since no job was started."""
    (tmp_path / "model.bin").write_bytes(b"weights")
    application = GOOD.application()
    application["args"]["detector"]["model"] = str(tmp_path)
    dashboard.says = answer(b'{"applications": {}}')
    dashboard.instead = {
        "GET /api/packages/": answer(status="404 Not Found"),
        "PUT /api/packages/": answer(b"the store is full", "507 Insufficient Storage"),
    }
    with ClusterHost(dashboard.place) as host, pytest.raises(NothingChanged, match="HTTP 507: the store is full"):
        host.deploy(application, NOTED.to_json())
    assert not any(head.startswith("POST ") for head in dashboard.requests)


def test_a_job_that_outlasts_the_deadline_is_stopped(dashboard: Dashboard, tmp_path: Path) -> None:
    """Nodes may be at work on an environment for minutes; who waits has said for how long."""
    application = GOOD.application()
    application["args"]["detector"]["model"] = str(tmp_path)
    dashboard.says = answer(b'{"applications": {}, "submission_id": "one", "status": "RUNNING"}')
    with ClusterHost(dashboard.place) as host, pytest.raises(ServeApiError, match="job one did not end in time"):
        host.deploy(application, NOTED.to_json(), Deadline.after(0.2))
    assert dashboard.requests[-1].startswith("POST /api/jobs/one/stop ")


def test_changes_are_counted_by_their_end_in_what_is_deployed() -> None:
    """One that failed was not done, whether Serve took it or not; what was good and is taken back was both."""

    def after(known: dict[str, int], status: str, running: Deployment, wanted: InstanceState) -> dict[str, int]:
        return updates(known, ServeStatus(status, fingerprint=running.fingerprint), wanted.to_json())

    first = after({}, "", replace(GOOD, config=replace(GOOD.config, fingerprint="")), replace(NOTED, last_good=None))
    assert first == {"done": 0, "went_back": 0}
    rolled = after(first, "RUNNING", GOOD, replace(NOTED, deployed=BAD))
    assert rolled == {"done": 1, "went_back": 0}
    back = replace(NOTED, last_failure=FAILURE)
    assert after(rolled, "DEPLOY_FAILED", BAD, back) == {"done": 0, "went_back": 1}
    assert after(rolled, "RUNNING", BAD, back) == {"done": 1, "went_back": 1}
    assert after(first, "RUNNING", GOOD, back) == {"done": 0, "went_back": 1}
    assert after(rolled, "RUNNING", GOOD, NOTED) == rolled, "the same again, to forget that something failed"


def test_down_forgets_nothing_that_may_still_be_there(dashboard: Dashboard, tmp_path: Path) -> None:
    """A cluster that does not answer has not stopped anything."""
    folder = InstanceFolder(tmp_path, "default")
    folder.create()
    noted = replace(NOTED, place=dashboard.place)
    folder.write(noted)
    dashboard.says = answer(status="503 Service Unavailable")
    for force in (False, True):
        with pytest.raises(NotReady, match="may still be on"):
            down(folder, timeout_s=0.1, force=force, report=silent)
    assert folder.read() == noted


@pytest.mark.parametrize(
    ("says", "kind", "words"),
    [
        (answer(status="401 Unauthorized"), UsageError, "does not accept the token"),
        (answer(status="403 Forbidden"), UsageError, "does not accept the token"),
        (answer(status="500 Internal Server Error"), NotReady, "does not answer"),
        (b"", NotReady, "does not answer"),
        (_application(None), UsageError, "is not detectctl's"),
        (_application({"other": "shape"}), NotReady, "cannot be read"),
        (_application(None, "DEPLOYING", deployments={}), NotReady, "does not answer"),
    ],
)
def test_what_cannot_be_known_is_an_error(
    dashboard: Dashboard, tmp_path: Path, says: Any, kind: type[Exception], words: str
) -> None:
    """Nothing is taken for a service of ours, or for none."""
    dashboard.says = says if isinstance(says, bytes) else b""
    if not isinstance(says, bytes):
        dashboard.has(says)
    with pytest.raises(kind, match=words):
        dashboard.read(tmp_path)
