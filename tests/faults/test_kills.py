"""SIGKILL for each part of a running service."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import psutil
import pytest

from faults.scene import TABLE, Row, within
from installed import wait_until

if TYPE_CHECKING:
    from faults.scene import Scene

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


def test_a_killed_replica_costs_what_it_had_in_hand(running: Scene) -> None:
    """At most one request of each client fails; `detectctl detect` loses none; the service is ready again soon."""
    replica = psutil.Process(running.status()["replicas"][0]["pid"])
    load = running.under_load("replica killed", lambda: running.kill(replica), detect=True)
    assert len(load.failed) <= 4, load.outcomes()
    running.wait_for_state("running")
    assert TABLE[-1].seconds is not None
    assert TABLE[-1].seconds < within(8)


def test_a_killed_controller_costs_nothing(running: Scene) -> None:
    """Traffic goes on meanwhile, and the controller comes back to what it was."""
    before = running.status()["replicas"]

    def happen() -> None:
        killed = running.processes("ray::ServeController")
        running.kill(*killed)
        wait_until(lambda: {*running.processes("ray::ServeController")} - {*killed})

    load = running.under_load("controller killed", happen, detect=True)
    assert load.outcomes() == {200: len(load.sent)}
    running.wait_for_state("running")
    assert [one["pid"] for one in running.status()["replicas"]] == [one["pid"] for one in before]


def test_a_killed_ingress_comes_back(running: Scene) -> None:
    """Connections are refused for some seconds; `detectctl detect` waits that long and loses nothing."""
    title = "/haproxy -db" if running.ingress == "HAProxy" else "ray::ProxyActor"
    load = running.under_load("ingress killed", lambda: running.kill(*running.processes(title)), detect=True)
    assert load.failed, "nobody noticed, so nothing was tested"
    running.wait_for_state("running")
    assert TABLE[-1].seconds is not None
    assert TABLE[-1].seconds < within(10)


# Long: the head ends with any of its parts.
@pytest.mark.parametrize("part", ["head", pytest.param("gcs_server", marks=pytest.mark.long)])
def test_a_killed_head_is_seen_and_replaced(running: Scene, part: str) -> None:
    """`status` says dead within seconds and exits 4; `up` clears the remains away and serves again."""
    before = running.service.home.processes()
    state = running.service.home.instance()
    assert state is not None
    victim = psutil.Process(state["head"]["pid"]) if part == "head" else running.processes("gcs/gcs_server")[0]
    running.kill(victim)
    assert running.wait_for_state("dead", timeout=within(5)) < within(5)
    assert running.service.home.run("status").returncode == 4
    begun = time.monotonic()
    done = running.up()
    assert done.returncode == 0, done.stderr
    assert "died" in done.stderr
    seconds = time.monotonic() - begun
    TABLE.append(Row(f"{part} killed, up ({running.ingress})", 0, 0, seconds=seconds))
    assert seconds < within(20)
    assert [process for process in before if process.is_running()] == []
    assert running.status()["state"] == "running"
