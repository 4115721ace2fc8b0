"""The instance that these tests attack, which ends with the last of them: an idle one takes an eighth of a core."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from edge_service import Edge, edge_up
from installed import Home
from slow_upload import FORM, FORM_HEADER, upload_without_end

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future
    from pathlib import Path

    from detectctl.engine.compiled import CompiledModel
    from slow_upload import Answer


@pytest.fixture(scope="package")
def edge(
    tmp_path_factory: pytest.TempPathFactory, yolov8n_pt: Path, converted: tuple[CompiledModel, ...]
) -> Iterator[Edge]:
    """One real instance with keys on and nothing inside allowed, for every test that attacks it."""
    home = Home(tmp_path_factory.mktemp("edge"))
    home.seed(yolov8n_pt, *converted)
    with edge_up(home) as running:
        yield running


@pytest.fixture(scope="package")
def slow_uploads(edge: Edge) -> Iterator[list[Future[Answer]]]:
    """Two callers whose images never end, a raw one and a form: from the first attack on, beside all others."""
    port = int(edge.url.rpartition(":")[2])
    key = f"X-API-Key: {edge.key}"
    with ThreadPoolExecutor(2) as threads:
        yield [
            threads.submit(upload_without_end, port, key),
            threads.submit(upload_without_end, port, key, FORM_HEADER, begin=FORM),
        ]
