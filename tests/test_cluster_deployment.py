"""What settings become for a replica."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from detectctl.cluster.deployment import plan
from detectctl.config import UpSettings
from detectctl.engine.compiled import CompiledModel
from detectctl.registry.version import ModelVersion

MODEL = ModelVersion("base", "base", "yolov8n", None, "0" * 64, Path("/models/yolov8n.pt"), 1)
COMPILED = CompiledModel(Path("/models/compiled"), "0" * 64, {0: "person"}, (8, 16, 32))


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
    planned = plan(UpSettings(**settings), MODEL, COMPILED, "cpu", Path("/stats"), key_file)
    assert planned.config.own_host == own_host
    assert type(planned.config).from_json(planned.config.to_json()) == planned.config
