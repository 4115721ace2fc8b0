"""What settings become for a replica."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from detectctl import limits
from detectctl.engine.cpus import available_cpus
from detectctl.lifecycle import sizing
from detectctl.lifecycle.deployment import plan
from detectctl.serving.service_config import ServiceConfig
from detectctl.settings import UpSettings
from detectctl.thresholds import Thresholds
from detectctl.values import Replicas
from lifecycle_values import COMPILED, MODEL


@pytest.mark.parametrize(
    ("settings", "key_file", "own_host"),
    [
        ({}, None, "127.0.0.1"),
        ({"host": "localhost"}, None, "localhost"),
        ({"no_auth": True}, None, None),
        ({}, Path("/keys"), None),
        ({"host": "192.0.2.2"}, Path("/keys"), None),
    ],
)
def test_only_a_service_that_nobody_guards_minds_under_which_name_it_is_asked(
    settings: dict[str, Any], key_file: Path | None, own_host: str | None
) -> None:
    """With keys, or after --no-auth, a reverse proxy may pass on any `Host`."""
    planned = plan(UpSettings(**settings), MODEL, COMPILED, "cpu", key_file)
    assert planned.config.own_host == own_host
    assert type(planned.config).from_json(asdict(planned.config)) == planned.config


@pytest.mark.parametrize(
    ("replicas", "running", "initial"),
    [
        (Replicas(1, 3), 3, None),
        (Replicas(2, 3), 0, None),
        (Replicas(0, 3), 0, 1),
        (Replicas(0, 3), 2, 2),
        (Replicas(0, 2), 3, 2),
    ],
)
def test_a_change_does_not_take_away_what_the_load_has_asked_for(
    replicas: Replicas, running: int, initial: int | None
) -> None:
    """Serve goes to `initial_replicas` at each change; only a service that may sleep needs one, to be woken."""
    planned = plan(UpSettings(replicas=replicas), MODEL, COMPILED, "cpu", None)
    (deployment,) = planned.application(running)["deployments"]
    assert deployment["autoscaling_config"].get("initial_replicas") == initial


def test_a_replica_is_added_for_requests_that_the_others_cannot_work_on_now() -> None:
    """What Serve counts against is the number of images at a time; on a GPU, whose requests share batches, it is 8."""
    planned = plan(UpSettings(replicas=Replicas(1, 4)), MODEL, COMPILED, "cpu", None)
    target = planned.application()["deployments"][0]["autoscaling_config"]["target_ongoing_requests"]
    assert target == planned.config.detector.streams == available_cpus()
    on_gpu = plan(UpSettings(), MODEL, COMPILED, "cuda", None).application()["deployments"][0]
    assert on_gpu["autoscaling_config"]["target_ongoing_requests"] == 8


def test_auto_is_what_fits_this_machine() -> None:
    fits = sizing.chosen(available_cpus(), limits.whole_memory())
    planned = plan(UpSettings(), MODEL, COMPILED, "cpu", None)
    found = (planned.minimum, planned.maximum, planned.config.detector.streams, planned.sizing)
    assert found == (fits.minimum, fits.maximum, fits.streams, fits.why)
    asked = plan(UpSettings(replicas=Replicas(fits.minimum, fits.maximum)), MODEL, COMPILED, "cpu", None)
    assert asked.sizing == ""


def test_what_requests_may_change_for_themselves_changes_without_replacing_a_replica() -> None:
    settings = UpSettings(conf=Thresholds(None, {"person": 0.5, "cat": 0.1}), max_det=7, agnostic_nms=True)
    before, after = (plan(each, MODEL, COMPILED, "cpu", None) for each in (UpSettings(), settings))
    assert before.fingerprint != after.fingerprint
    old, new = before.application(), after.application()
    assert old["args"] == new["args"]
    told = new["deployments"][0]["user_config"]["detector"]
    # Of a model that lacks a class, as a fallback may, the rest is served.
    assert told == {
        "confidence": 0.25,
        "class_confidence": {"person": 0.5},
        "iou": 0.7,
        "max_det": 7,
        "agnostic_nms": True,
    }
    made = ServiceConfig.from_json(json.loads(json.dumps(asdict(before.config))))
    assert made.updated(json.loads(json.dumps(new["deployments"][0]["user_config"]))) == after.config
