"""An instance, a model and its deployment for tests of the lifecycle: none of it runs or is on disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from detectctl.engine.compiled import CompiledModel
from detectctl.engine.trained import Head, Trained
from detectctl.hosts.local.ray_head import HeadRecord
from detectctl.lifecycle.deployment import plan
from detectctl.lifecycle.state import InstanceState
from detectctl.registry.model_version import ModelVersion
from detectctl.settings import UpSettings

if TYPE_CHECKING:
    from detectctl.processes import Process

MODEL = ModelVersion("base", "base", "yolov8n", None, "0" * 64, Path("/models/yolov8n.pt"))
COMPILED = CompiledModel(Path("/models/compiled"), "0" * 64, Trained({0: "person"}, Head(strides=(8, 16, 32))))
DEPLOYMENT = plan(UpSettings(), MODEL, COMPILED, "cpu", None)
PLACE = HeadRecord(
    instance_id="0123456789abcdef",
    temp_dir=Path("/nowhere/dctl-01234567"),
    host="127.0.0.1",
    port=8000,
    dashboard_url="http://127.0.0.1:20001",
)
STATE = InstanceState("default", PLACE, created_at=1.0)


def with_head(state: InstanceState, head: Process | None) -> InstanceState:
    """The state of an instance whose Ray head is this process."""
    assert isinstance(state.place, HeadRecord)
    return replace(state, place=replace(state.place, head=head))
