"""The word that `status` has for what an instance is doing."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pytest

from detectctl.hosts.serve_rest import Replica, ServeStatus
from detectctl.lifecycle.state import Failure
from detectctl.lifecycle.status import _answering, _judge
from detectctl.processes import Process
from lifecycle_values import DEPLOYMENT, STATE, with_head

GOOD, NEW = (replace(DEPLOYMENT, config=replace(DEPLOYMENT.config, fingerprint=word)) for word in ("good", "new"))
MYSELF = Process.of(os.getpid())
ALIVE = with_head(replace(STATE, deployed=GOOD, last_good=GOOD), MYSELF)
REPLICA = Replica("a", "RUNNING", 1, None)
SERVING = ServeStatus("RUNNING", "HEALTHY", "", 1, (REPLICA,), "good")


@pytest.mark.parametrize(
    ("word", "state", "served", "trouble", "command"),
    [
        ("starting", STATE, ServeStatus(), "", "up"),
        ("starting", replace(ALIVE, deployed=None, last_good=None), ServeStatus("DEPLOYING"), "", "up"),
        ("running", ALIVE, SERVING, "", None),
        ("running", ALIVE, SERVING, "", "up"),
        ("running", ALIVE, replace(SERVING, deployment="UPSCALING", target_replicas=2), "", None),
        ("running", replace(ALIVE, deployed=None, last_good=None, unknown=True), SERVING, "", None),
        ("updating", ALIVE, replace(SERVING, application="DEPLOYING", fingerprint="new"), "", "up"),
        ("updating", ALIVE, replace(SERVING, fingerprint="new"), "", "up"),
        ("degraded", ALIVE, replace(SERVING, target_replicas=2, deployment="UNHEALTHY"), "", None),
        ("degraded", ALIVE, replace(SERVING, application="UNHEALTHY", message="no"), "", None),
        ("degraded", ALIVE, ServeStatus(), "Ray does not answer", None),
        ("degraded", replace(ALIVE, last_good=None), ServeStatus("DEPLOYING"), "", None),
        ("failed update", ALIVE, replace(SERVING, application="DEPLOY_FAILED"), "", None),
        ("stopping", ALIVE, SERVING, "", "down"),
        ("stopping", ALIVE, ServeStatus("DELETING"), "", None),
        ("dead", with_head(ALIVE, Process(os.getpid(), 1.0)), ServeStatus(), "", None),
        ("dead", with_head(ALIVE, replace(MYSELF, boot="of before")), ServeStatus(), "", None),
        ("dead", STATE, ServeStatus(), "", None),
    ],
)
def test_the_word(word: str, state: Any, served: ServeStatus, trouble: str, command: str | None) -> None:
    with state.open_host() as host:
        found, message = _judge(state, served, command, trouble=trouble, gone="" if host.alive else host.gone)
    assert found == word, message


@pytest.mark.parametrize("what", ["W&B has no a/b/c:d", "the update failed"])
def test_a_failed_update_names_its_model_once(what: str) -> None:
    state = replace(ALIVE, last_failure=Failure("a/b/c:d", None, what, None, 1.0))
    with state.open_host() as host:
        _, message = _judge(state, SERVING, None, trouble="", gone="" if host.alive else host.gone)
    assert message.count("a/b/c:d") == 1


@pytest.mark.parametrize(
    ("state", "served", "model"),
    [
        (replace(ALIVE, deployed=NEW), SERVING, "good"),
        (replace(ALIVE, deployed=NEW), replace(SERVING, application="DEPLOYING", fingerprint="new"), "good"),
        (replace(ALIVE, deployed=NEW), replace(SERVING, application="DEPLOY_FAILED", fingerprint="new"), "good"),
        (replace(ALIVE, deployed=NEW), replace(SERVING, fingerprint="new"), "new"),
        (replace(ALIVE, deployed=NEW), ServeStatus(), "good"),
        (replace(ALIVE, deployed=NEW, last_good=None), ServeStatus("DEPLOYING"), "new"),
        (ALIVE, SERVING, "good"),
    ],
)
def test_the_model_is_the_one_that_answers(state: Any, served: ServeStatus, model: str) -> None:
    """What an `up` has written down and not yet brought about, or was killed at, answers nobody."""
    answering = _answering(state, served)
    assert answering is not None
    assert answering.fingerprint == model
