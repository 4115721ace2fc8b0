"""One replica's work, where it is hard to provoke: threads that never come back, callers that go away."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from detectctl.errors import Overloaded
from detectctl.serving import admission as module
from detectctl.serving.admission import Service
from detectctl.serving.request_stats import RequestStats
from detectctl.wire import DetectOptions
from served import BASE

if TYPE_CHECKING:
    from collections.abc import Iterator


class Stuck:
    """A detector whose decoder blocks each thread until it is released."""

    workers = 1

    def __init__(self) -> None:
        self.inside = threading.Event()
        self.go_on = threading.Event()

    def decode(self, _: bytes) -> Any:
        self.inside.set()
        self.go_on.wait(30)
        raise RuntimeError("let go")


@pytest.fixture
def stuck() -> Iterator[Stuck]:
    detector = Stuck()
    yield detector
    detector.go_on.set()


def _service(detector: Any) -> Service:
    config: Any = SimpleNamespace(max_queue=2, model=BASE, updates={})
    fetcher: Any = None
    return Service(config, detector, fetcher, request_id=lambda: "id")


async def _request(service: Service) -> None:
    async with service.turn({"path": "/detect"}, "body") as turn:
        await turn.detect(b"image", DetectOptions())


def _ask(service: Service) -> asyncio.Task[Any]:
    return asyncio.create_task(_request(service))


async def _begun(service: Service, detector: Stuck) -> asyncio.Task[Any]:
    task = _ask(service)
    assert await asyncio.to_thread(detector.inside.wait, 30)
    return task


def test_a_caller_that_goes_away_is_counted_as_such(stuck: Stuck) -> None:
    async def story() -> dict[str, int]:
        service = _service(stuck)
        task = await _begun(service, stuck)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return RequestStats.of(service._recorder.tally.values).errors

    assert asyncio.run(story()) == {"client_closed": 1}


def test_a_stuck_thread_is_noticed_although_its_caller_has_gone(stuck: Stuck, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> Service:
        service = _service(stuck)
        task = await _begun(service, stuck)
        task.cancel()
        await asyncio.wait([task])
        return service

    service = asyncio.run(story())
    service.check()
    monkeypatch.setattr(module, "_STUCK_S", -1)
    with pytest.raises(RuntimeError, match="worked on"):
        service.check()


def test_waiting_for_a_thread_is_not_being_stuck(stuck: Stuck) -> None:
    """Only work in a thread counts, however long other requests have waited."""

    async def story() -> None:
        service = _service(stuck)
        first = await _begun(service, stuck)
        second = _ask(service)
        await asyncio.sleep(0.1)
        assert len(service.working_since) == 1
        with pytest.raises(Overloaded):
            await _ask(service)
        stuck.go_on.set()
        await asyncio.wait([first, second])
        for task in (first, second):
            assert str(task.exception()) == "let go"
        assert service.working_since == {}
        assert service._admitted == 0

    asyncio.run(story())
