"""A service under a Ray head of our own, as `lifecycle` drives it: here against a dashboard that a test plays."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from bent_service import Request, bent
from detectctl.errors import DeadlineExceeded, NotReady
from detectctl.hosts.dashboard import ServeApiError
from detectctl.hosts.local.local_host import LocalHost
from detectctl.hosts.serve_rest import Replica, ServeStatus
from detectctl.lifecycle.deployment import plan
from detectctl.processes import Process
from detectctl.settings import UpSettings
from detectctl.waiting import Deadline
from lifecycle_values import COMPILED, MODEL, PLACE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bent_service import Behaviour, Bent

RUNNING = {
    "applications": {
        "detectctl": {
            "status": "RUNNING",
            "deployed_app_config": {"deployments": [{"user_config": {"fingerprint": "good"}}]},
            "deployments": {
                "Detector": {
                    "status": "HEALTHY",
                    "target_num_replicas": 1,
                    "replicas": [{"replica_id": "a", "state": "RUNNING", "pid": 7, "node_ip": "127.0.0.1", "new": 1}],
                }
            },
        }
    }
}


def json_of(data: object) -> Behaviour:
    def answer(request: Request) -> None:
        request.answer(200, json.dumps(data).encode())

    return answer


@contextlib.contextmanager
def host_at(folder: Path, *dashboard: Behaviour, haproxy: bool = True) -> Iterator[tuple[LocalHost, Bent]]:
    """A host whose head is this process, and its dashboard."""
    (folder / "token").write_text("secret")
    (folder / "head.log").write_text("starting\n\x1b[31mno space left\x1b[39m\n")
    with bent(*dashboard) as served:
        head = Process.of(os.getpid())
        place = replace(PLACE, head=head, temp_dir=folder, dashboard_url=served.url, host="::1", haproxy=haproxy)
        with LocalHost(place) as host:
            yield host, served


@pytest.mark.parametrize(("haproxy", "address"), [(True, "127.0.0.1"), (False, "::1")])
def test_a_deployment_is_completed_with_what_only_the_host_knows(tmp_path: Path, haproxy: bool, address: str) -> None:
    """Where Serve listens, and where replicas keep their counters; the token is sent along.

    Behind HAProxy that is loopback; without it, as the instance was started, the service's own address.
    """
    application = plan(UpSettings(), MODEL, COMPILED, "cpu", None).application()
    assert application["args"]["stats_dir"] is None
    with host_at(tmp_path, json_of(None), haproxy=haproxy) as (host, dashboard):
        host.deploy(application, {})
    (request,) = dashboard.requests
    assert (request.method, request.headers["authorization"]) == ("PUT", "Bearer secret")
    sent = json.loads(request.body)
    assert sent["http_options"] == {"host": address, "port": PLACE.port}
    (there,) = sent["applications"]
    assert there["args"].pop("stats_dir") == str(tmp_path / "requests")
    del application["args"]["stats_dir"]
    assert there == json.loads(json.dumps(application))


def test_serves_status_is_read_loosely(tmp_path: Path) -> None:
    """Fields that another version of Ray lacks or adds do no harm."""
    with host_at(tmp_path, json_of(RUNNING), json_of({}), json_of({"applications": {"detectctl": {}}})) as (host, _):
        replica = Replica("a", "RUNNING", 7, "127.0.0.1")
        assert host.status() == ServeStatus("RUNNING", "HEALTHY", "", 1, (replica,), "good")
        assert host.status() == ServeStatus()
        assert host.status() == ServeStatus()


def test_serves_reason_has_no_colours() -> None:
    """Ray colours the traceback of an actor; the reason may go to a file or a pipe."""
    status = ServeStatus(message="\x1b[36mray::ServeReplica:Detector()\x1b[39m\nValueError: \x1b[31mno\x1b[39m\n")
    assert status.reason == "ValueError: no"


def test_what_the_dashboard_refuses_is_repeated(tmp_path: Path) -> None:
    with host_at(tmp_path, lambda request: request.answer(500, b"no such import path")) as (host, _):
        with pytest.raises(ServeApiError, match="HTTP 500: no such import path"):
            host.status()
        assert not host.drain(Deadline.after(20))


def test_of_a_traceback_the_error_is_repeated(tmp_path: Path) -> None:
    """As when the wrapper of HAProxy refuses what Serve has written: its words, and not where Serve met them."""
    traceback = (
        b'Traceback (most recent call last):\n  File "a.py", line 1, in f\n    g()\nValueError: inner\n\n'
        b"The above exception was the direct cause of the following exception:\n\n"
        b'Traceback (most recent call last):\n  File "b.py", line 2, in h\n    await task\n    ^^^^^^^^^^\n'
        b"RuntimeError: HAProxy crashed:\n  unknown line:\n    bind *:9\n"
    )
    with (
        host_at(tmp_path, lambda request: request.answer(500, traceback)) as (host, _),
        pytest.raises(ServeApiError) as caught,
    ):
        host.status()
    assert str(caught.value) == "HTTP 500: RuntimeError: HAProxy crashed: unknown line: bind *:9"


def test_a_lost_token_is_named(tmp_path: Path) -> None:
    with host_at(tmp_path, json_of({})) as (host, dashboard):
        (tmp_path / "token").unlink()
        with pytest.raises(ServeApiError, match="token cannot be read: No such file"):
            host.status()
    assert dashboard.requests == []


def test_draining_waits_for_the_last_replica(tmp_path: Path) -> None:
    """Serve forgets the application only when its replicas have given their last answer."""
    with host_at(tmp_path, json_of(None), json_of(RUNNING), json_of(RUNNING), json_of({})) as (host, dashboard):
        assert host.drain(Deadline.after(20))
    assert [request.method for request in dashboard.requests] == ["PUT", "GET", "GET", "GET"]
    assert json.loads(dashboard.requests[0].body)["applications"] == []
    with host_at(tmp_path, json_of(RUNNING)) as (host, _):
        assert not host.drain(Deadline.after(0.3))


def test_a_head_is_waited_for_as_long_as_it_lives(tmp_path: Path) -> None:
    """Then its last words are the reason; one that lives and does not answer is named by what it said."""
    with host_at(tmp_path, lambda request: request.answer(503, b"not yet"), json_of({})) as (host, _):
        assert "head process" in host.wait_until_up(Deadline.after(20))
    with host_at(tmp_path, lambda request: request.answer(503, b"not yet")) as (host, dashboard):
        with pytest.raises(DeadlineExceeded) as late:
            host.wait_until_up(Deadline.after(0.3))
        assert late.value.why == "last seen: HTTP 503: not yet"
        dead = replace(host._record, head=Process(1, -1.0))
        with LocalHost(dead) as gone, pytest.raises(NotReady, match="ended while starting") as ended:
            gone.wait_until_up(Deadline.after(20))
        assert ended.value.why == "no space left"
        assert dashboard.requests
