"""Updates of a running service, good ones and bad ones, of which nobody downstream may notice anything."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import httpx
import pytest

from faults.scene import within
from installed import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from detectctl.engine.compiled import CompiledModel
    from faults.scene import Scene

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


_NO_ROOM = """
from detectctl.cli import main
from detectctl.lifecycle.deployment import Deployment

usual = Deployment.application

def greedy(self, *args):
    application = usual(self, *args)
    if self.config.detector.precision == "fp32":
        application["deployments"][0]["ray_actor_options"]["num_cpus"] = 100_000
    return application

Deployment.application = greedy
main()
"""
"""A `detectctl` whose fp32 needs more than any machine has; what a machine lacks for real is refused before."""


@pytest.mark.parametrize(
    ("what", "options"),
    [
        ("thresholds", ["--conf", "0.4,person=0.2", "--max-det", "7", "--agnostic-nms"]),
        # Of these three, replicas come and go as they do for the model.
        pytest.param("more replicas", ["--replicas", "2"], marks=pytest.mark.long),
        pytest.param("fewer replicas", [], marks=pytest.mark.long),
        pytest.param("precision", ["--precision", "fp32"], marks=pytest.mark.long),
        ("model", ["--model", "FALL"]),
    ],
    ids=["thresholds", "more", "fewer", "precision", "model"],
)
def test_an_update_costs_no_request(running: Scene, what: str, options: list[str], fall_pt: Path) -> None:
    """Each kind of update rolls without one failed request, and then the new configuration answers."""
    wanted = [str(fall_pt) if option == "FALL" else option for option in options]

    def happen() -> None:
        done = running.up(*wanted)
        assert done.returncode == 0, done.stderr
        assert "updated" in done.stdout

    load = running.under_load(f"update: {what}", happen)
    assert load.outcomes() == {200: len(load.sent)}
    status = running.status()
    assert (status["state"], status["ready"]) == ("running", 2 if what == "more replicas" else 1)
    info = httpx.get(f"{running.service.url}/info", timeout=30).json()
    told = {key: info["defaults"][key] for key in ("conf", "class_conf", "max_det", "agnostic_nms")}
    expected = (0.4, {"person": 0.2}, 7, True) if what == "thresholds" else (0.25, {}, 300, False)
    assert tuple(told.values()) == expected
    assert ("Fall" in info["classes"].values()) == (what == "model")


def test_a_model_that_does_not_load_leaves_the_old_one_serving(
    running: Scene, fall_pt: Path, fall_compiled: CompiledModel
) -> None:
    """Its file is gone when the replica wants it: `up` exits 5 and says so, no request fails, and `status` tells."""
    assert running.up().returncode == 0
    before = running.status()["model"]
    weights = running.service.home.compiled(fall_compiled) / "model.bin"
    kept = weights.with_suffix(".kept")

    def happen() -> None:
        said = ""
        with running.service.home.start("up", *running.options, "--model", str(fall_pt)) as process:
            assert process.stderr is not None
            for line in process.stderr:
                said += line
                if "✓ convert" in line:
                    weights.rename(kept)
        assert process.returncode == 5, said
        assert "the update failed" in said
        assert "goes on serving" in said

    load = running.under_load("update that fails to load", happen)
    kept.rename(weights)
    assert load.outcomes() == {200: len(load.sent)}
    status = running.status()
    assert status["state"] == "failed update"
    assert status["model"] == before
    again = running.up()
    assert again.returncode == 0
    assert "nothing to change" in again.stdout
    assert running.status()["state"] == "running"


@pytest.mark.long  # one that does not load is taken back on the same way
def test_an_update_that_passes_its_deadline_is_taken_back(running: Scene) -> None:
    """A replica that no node has room for: exit 4 after `--timeout`, no request fails, nothing goes on trying."""
    command = [sys.executable, "-c", _NO_ROOM, "up", *running.options, "--precision", "fp32", "--timeout", "10"]

    def happen() -> None:
        with running.service.home.start_command(command) as process:
            _, stderr = process.communicate(timeout=120)
        assert process.returncode == 4, stderr
        assert "last seen: DEPLOYING" in stderr
        assert "goes on serving" in stderr

    load = running.under_load("update that has no room", happen)
    assert load.outcomes() == {200: len(load.sent)}
    status = running.status()
    assert (status["state"], len(status["replicas"])) == ("failed update", 1)
    assert running.up().returncode == 0


@pytest.mark.long  # likewise
def test_an_update_that_is_stopped_is_taken_back(running: Scene) -> None:
    """SIGTERM while the new replica starts: exit 130, no request fails, the old one serves as if nothing had been."""
    before = running.status()["replicas"]

    def happen() -> None:
        with running.service.home.start("up", *running.options, "--precision", "fp32") as process:
            wait_until(lambda: "STARTING" in {one["state"] for one in running.status()["replicas"]})
            process.terminate()
            _, stderr = process.communicate(timeout=120)
        assert process.returncode == 130, stderr

    load = running.under_load("update that is stopped", happen)
    assert load.outcomes() == {200: len(load.sent)}
    status = running.status()
    assert status["state"] == "running"
    assert [one["pid"] for one in status["replicas"]] == [one["pid"] for one in before]


def test_the_same_again_takes_under_two_seconds(running: Scene) -> None:
    """Best of three; a machine that has other work may take longer."""
    results = [running.service.home.json("up", *running.options, "--json") for _ in range(3)]
    assert {result["action"] for result in results} == {"unchanged"}
    assert min(result["seconds"] for result in results) < within(2)


# Long: to whoever reads it, a damaged file is one of another version.
@pytest.mark.long  # a start; tests/test_lifecycle_*.py tell the two without one
@pytest.mark.parametrize("harm", ["another version's", "damaged"])
def test_an_instance_whose_state_was_harmed_is_taken_over(running: Scene, harm: str) -> None:
    """A state file of another schema, or cut: `status` finds the instance, `up` rolls it without a failed request.

    Of one that was cut, not even what is deployed is forgotten.
    """
    file = running.service.home.state / "default" / "instance.json"
    text = file.read_text()
    state = json.loads(text)
    if harm == "damaged":
        file.write_text(text[: text.index('"last_good"')])
    else:
        foreign = {key: state[key] for key in state if key not in {"last_good", "last_failure"}}
        file.write_text(json.dumps(foreign | {"schema": 1, "deployed": "in words of its own", "more": 1}))
    status = running.status()
    assert (status["state"], status["ready"]) == ("running", 1)
    assert ("another version" in status["message"]) == (harm != "damaged")
    assert (status["model"] is None) == (harm != "damaged")

    def happen() -> None:
        done = running.up("--conf", "0.3")
        assert done.returncode == 0, done.stderr
        assert "updated" in done.stdout

    load = running.under_load(f"update, state file {harm}", happen)
    assert load.outcomes() == {200: len(load.sent)}
    assert running.status()["message"] == ""
    assert json.loads(file.read_text())["instance_id"] == state["instance_id"]
    assert running.up().returncode == 0


def test_a_request_that_never_ends_does_not_hold_down_with_force(running: Scene) -> None:
    """Cutting off is what `--force` asks for; it is the end of the instance that the tests of this folder share."""
    running.down_while_an_upload_does_not_end("--force", code=0)
