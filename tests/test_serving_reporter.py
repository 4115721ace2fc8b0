"""How a replica on a cluster tells what it has counted; its keeper is stood in for, without Ray's processes."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from detectctl.errors import Unavailable
from detectctl.serving import reporter
from detectctl.serving.collector import Collector
from detectctl.serving.reporter import Reporter
from detectctl.serving.request_stats import RequestStats
from detectctl.serving.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# What Ray warns of while it is imported is for it to mend.
pytestmark = pytest.mark.filterwarnings("ignore")

_DONE = ("requests", "/detect", "ok", "body")


class _Keepers:
    """Those that Serve starts, one after the other; a handle goes on meaning the one that it was made for."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.living: Collector | None = Collector(file)

    def find(self, name: str) -> Any:
        if self.living is None:
            raise ValueError(name)
        from ray.exceptions import RayActorError

        meant = self.living

        def method(call: Callable[..., Any]) -> Any:
            async def remote(*arguments: Any) -> Any:
                await asyncio.sleep(0)  # as every call over Ray; since Python 3.12 `wait_for` by itself is no pause
                if self.living is not meant:
                    raise RayActorError
                return await call(*arguments)

            return SimpleNamespace(remote=remote)

        return SimpleNamespace(note=method(meant.note), all=method(meant.all))


@pytest.fixture
def keepers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> _Keepers:
    made = _Keepers(tmp_path / "counters.json")
    monkeypatch.setattr("ray.serve.get_deployment_actor", made.find)
    monkeypatch.setattr(reporter, "_PAUSE_S", 0.01)
    monkeypatch.setattr(reporter, "_ALL_S", 0.4)
    return made


async def _requests(asked: Reporter) -> int:
    return RequestStats.of_all(await asked.all()).requests


def test_replicas_hear_of_each_other_again_when_the_keeper_is_back(keepers: _Keepers) -> None:
    """Meanwhile whoever asks is refused, rather than told less than before."""

    async def scene() -> None:
        tallies = {Reporter(name): Tally(None, {"queue_limit": 4 if name == "a" else 5}) for name in "ab"}
        for each, tally in tallies.items():
            each.start(tally)
            await asyncio.sleep(0.01)
            tally.add((_DONE, 1.0))
        assert [await _requests(each) for each in tallies] == [2, 2]
        keepers.living = None
        for tally in tallies.values():
            tally.add((_DONE, 1.0))
        asked, other = tallies
        with pytest.raises(Unavailable):
            await asked.all()
        keepers.living = Collector(keepers.file)
        seen = 0
        while seen < 4:  # the other one comes within a second
            seen = await _requests(asked)
        assert seen == 4
        tallies[other].add((_DONE, 1.0))
        await other.close()
        assert await _requests(asked) == 5
        assert {about.get("queue_limit") for about, _ in await asked.all()} == {4, None}  # it is none of the living
        await asked.close()

    asyncio.run(scene())


def test_a_replica_ends_also_where_nobody_hears_its_last_word(keepers: _Keepers) -> None:
    keepers.living = None

    async def scene() -> None:
        alone = Reporter("a")
        alone.start(Tally(None))
        await asyncio.sleep(0.05)
        await alone.close()

    asyncio.run(scene())
