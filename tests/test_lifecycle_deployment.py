"""What settings become for a replica."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from detectctl.lifecycle.deployment import plan
from detectctl.settings import Replicas, UpSettings
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
