"""The image in a request's body, over real sockets: an upload that is too slow or too long gives its place back."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import httpx
import pytest

from broken_images import encoded
from served import served
from slow_upload import FORM, FORM_HEADER, upload_without_end

if TYPE_CHECKING:
    from collections.abc import Iterator

    from detectctl.engine.compiled import CompiledModel

LIMIT = 1 << 20
PLACES = 3


@pytest.fixture(scope="module")
def port(yolov8n_compiled: CompiledModel) -> Iterator[int]:
    """The port of a service with few places and a small limit."""
    with served(yolov8n_compiled, max_image_bytes=LIMIT, max_queue=PLACES) as port:
        yield port


@pytest.mark.parametrize(("headers", "begin"), [((), b""), ((FORM_HEADER,), FORM)], ids=["raw", "form"])
def test_a_body_that_trickles_is_refused_and_frees_its_place(
    port: int, headers: tuple[str, ...], begin: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """408 once the time for an upload is over; after as many as there are places, a good request is answered."""
    monkeypatch.setattr("detectctl.serving.body.UPLOAD_S", 1.0)
    with ThreadPoolExecutor(PLACES) as threads:
        tasks = [threads.submit(upload_without_end, port, *headers, begin=begin) for _ in range(PLACES)]
        answers = [task.result() for task in tasks]
    assert [answer.status for answer in answers] == [408] * PLACES
    assert all('"code":"request_timeout"' in answer.text for answer in answers)
    assert min(answer.seconds for answer in answers) >= 1.0
    good = httpx.post(f"http://127.0.0.1:{port}/detect", content=encoded("JPEG"), trust_env=False, timeout=30)
    assert good.status_code == 200


@pytest.mark.parametrize(("headers", "begin"), [((), b""), ((FORM_HEADER,), FORM)], ids=["raw", "form"])
def test_a_body_that_does_not_say_how_long_it_is_is_cut_off(port: int, headers: tuple[str, ...], begin: bytes) -> None:
    """413 as soon as what has arrived is over the limit."""
    answer = upload_without_end(port, *headers, begin=begin, piece=bytes(65536), pause_s=0.001)
    assert answer.status == 413
    assert '"code":"image_too_large"' in answer.text
    assert LIMIT < answer.sent < 16 * LIMIT  # what is in the sockets' buffers counts as sent
