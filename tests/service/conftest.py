"""The instance that these tests ask, which ends with the last of them: an idle one takes an eighth of a core."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from installed import Home, Service, up

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from detectctl.engine.compiled import CompiledModel


@pytest.fixture(scope="package")
def service(
    tmp_path_factory: pytest.TempPathFactory, yolov8n_pt: Path, converted: tuple[CompiledModel, ...]
) -> Iterator[Service]:
    """One real instance that serves the base model, for every test that only asks it something."""
    home = Home(tmp_path_factory.mktemp("home"))
    home.seed(yolov8n_pt, *converted)
    with up(home) as running:
        yield running
