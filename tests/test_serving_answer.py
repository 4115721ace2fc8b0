"""The answer to `/detect` is plain JSON, and even megabytes of it let other requests through."""

from __future__ import annotations

import asyncio
import json
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from detectctl.engine.detector import Found
from detectctl.serving import answer
from detectctl.serving.admission import Service
from detectctl.wire import Detection, DetectionResult, DetectOptions
from served import BASE

PICTURE = np.zeros((8, 8, 3), np.uint8)
OUTLINE = tuple(np.random.default_rng(0).uniform(0, 1000, 2000).tolist())
CROWD = tuple(Detection("日本", (0.0, 1.5, 2.126, 3.0), 0.5, 0, (OUTLINE,)) for _ in range(20))


def _in_one_piece(result: DetectionResult) -> bytes:
    return json.dumps(result.to_json(), ensure_ascii=False, separators=(",", ":")).encode()


@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize("truncated", [False, True])
def test_it_is_the_json_of_the_result(count: int, truncated: bool) -> None:
    result = DetectionResult(CROWD[:count], 640, 480, BASE, truncated)
    assert answer.encoded(result) == _in_one_piece(result)


def test_many_large_masks_do_not_stop_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are encoded in the thread that detects, and in small pieces: the encoder keeps the GIL for each of them."""
    pieces: list[tuple[str, int]] = []

    def encode(value: Any) -> str:
        pieces.append((threading.current_thread().name, len(text := encoder(value))))
        return text

    async def request() -> tuple[str, bytes]:
        service = Service(config, detector, None, request_id=lambda: "id")  # type: ignore[arg-type]
        async with service.turn({"path": "/detect"}, "body") as turn:
            return await turn.detect(b"image", DetectOptions())

    encoder = answer._encode
    monkeypatch.setattr(answer, "_encode", encode)
    detector: Any = SimpleNamespace(workers=1, decode=lambda _: PICTURE, detect_image=lambda *_: Found(CROWD))
    config: Any = SimpleNamespace(max_queue=2, model=BASE, updates={})
    assert asyncio.run(request()) == ("application/json", _in_one_piece(DetectionResult(CROWD, 8, 8, BASE)))
    assert all(thread.startswith("detect") for thread, _ in pieces)
    assert sum(size for _, size in pieces) > 10 * max(size for _, size in pieces)
