"""What replicas on a cluster have counted, where it comes together on the head; without Ray."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from detectctl.serving import metrics
from detectctl.serving.collected import Collected, Heard, update
from detectctl.serving.collector import Collector
from detectctl.serving.request_stats import RequestStats
from detectctl.serving.tally import Tally
from scrape import samples, value

if TYPE_CHECKING:
    from pathlib import Path

    from detectctl.serving.tally import Content

_DONE = ("requests", "/detect", "ok", "body")


def _content(requests: int) -> Content:
    model = {"name": "a", "version": "v3", "digest": "sha256:0"}
    about = {"model": model, "queue_limit": 4, "used": {"memory": 1e6, "cpu": 2.0}}
    return about, {_DONE: float(requests), ("in_hand",): 1.0}


def _known(file: Path) -> RequestStats:
    return RequestStats.of_all(Collected.parse(file.read_bytes()).contents())


class _Replica:
    """Tells its keeper, as `Reporter` does, until it is killed."""

    def __init__(self, name: str, keeper: Collector) -> None:
        self.name, self.keeper, self.requests = name, keeper, 0
        self.task = asyncio.create_task(self._tell())

    async def _tell(self) -> None:
        while True:
            await self.keeper.note(self.name, _content(self.requests))

    async def all(self) -> RequestStats:
        return RequestStats.of_all(await self.keeper.all(self.name, _content(self.requests)))


def test_whoever_is_asked_knows_at_once_what_all_have_counted(tmp_path: Path) -> None:
    """Also what one that was killed had said, and after the keeper itself was."""
    file = tmp_path / "counters.json"

    async def scene() -> None:
        keeper = Collector(file)
        replicas = [_Replica(name, keeper) for name in "abc"]
        for number in range(1, 4):
            await asyncio.sleep(0.01)
            for replica in replicas:
                replica.requests += number
            begun = time.monotonic()
            for replica in replicas:
                assert (await replica.all()).requests == 3 * sum(range(number + 1))
            assert time.monotonic() - begun < 0.4  # nobody has waited for a turn to end by itself
        killed, asked, other = replicas
        killed.task.cancel()
        asked.requests += 1
        assert (await asked.all()).requests == 19
        asked.keeper = other.keeper = Collector(file)
        assert (await asked.all()).requests == 19
        assert _known(file).replicas == {"a": (6, "v3"), "b": (7, "v3"), "c": (6, "v3")}
        for replica in replicas:
            replica.task.cancel()

    asyncio.run(scene())


def test_what_the_last_one_has_said_is_written_also_when_nobody_asks(tmp_path: Path) -> None:
    file = tmp_path / "counters.json"

    async def scene() -> None:
        keeper = Collector(file)
        first = asyncio.create_task(keeper.note("a", _content(1)))
        await asyncio.sleep(0.3)
        await asyncio.gather(first, keeper.note("b", _content(2)))

    asyncio.run(scene())
    assert _known(file).requests == 3


def test_two_keepers_share_a_file_for_the_length_of_an_update(tmp_path: Path) -> None:
    file = tmp_path / "counters.json"

    async def scene() -> None:
        old, new = Collector(file), Collector(file)
        for number in range(1, 5):
            for keeper, name in ((old, "a"), (new, "b")):
                seen = RequestStats.of_all(await keeper.all(name, _content(number)))
                assert seen.requests == 2 * number - (name == "a")

    asyncio.run(scene())


def test_those_long_gone_are_one_sum_and_never_counted_again(tmp_path: Path) -> None:
    file, now = tmp_path / "counters.json", time.time()
    about, values = _content(5)
    update(file, {name: Heard(now - 3600, about, values) for name in ("gone", "silent")}, {"silent"})
    update(file, {"gone": Heard(now, *_content(7)), "new": Heard(now, *_content(1))}, {"silent"})
    assert _known(file).requests == 11
    assert set(_known(file).replicas) == {"silent", "new"}


def test_metrics_tell_of_the_living_only_what_they_are(tmp_path: Path) -> None:
    now = time.time()
    heard = {name: Heard(now - ago, *_content(2)) for name, ago in (("lives", 1), ("dead", 60))}
    contents = update(tmp_path / "counters.json", heard, ()).contents(now)
    found = samples(metrics.Metrics(Tally(None)).page("", None, contents)[0].decode())
    assert value(found, "requests_total", route="/detect", source="body", code="ok", status="200") == 4
    assert {dict(labels).get("replica") for _, labels in found} == {"lives", None}
    assert value(found, "process_resident_memory_bytes", replica="lives") == 1e6


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"replicas": {"a": 1}, "ended": {}}'])
def test_a_damaged_file_is_begun_anew(tmp_path: Path, text: str) -> None:
    file = tmp_path / "counters.json"
    file.write_text(text)
    update(file, {"a": Heard(time.time(), *_content(2))}, ())
    assert _known(file).requests == 2


def test_where_nothing_can_be_written_it_is_known_all_the_same(tmp_path: Path) -> None:
    file = tmp_path / "no folder" / "counters.json"
    file.parent.touch()

    async def scene() -> None:
        keeper = Collector(file)
        for number in range(1, 3):
            await keeper.all("a", _content(number))
            seen = RequestStats.of_all(await keeper.all("b", _content(number)))
            assert seen.requests == 2 * number
        file.parent.unlink()
        await keeper.all("a", _content(2))

    asyncio.run(scene())
    assert _known(file).requests == 4


def test_the_keepers_class_can_be_read_where_nothing_of_ours_is() -> None:
    """As in Serve's controller, which starts it."""
    script = (
        "import sys; from ray.serve.config import DeploymentActorConfig\n"
        "from detectctl.serving.package_keeper import keeper_class\n"
        "config = DeploymentActorConfig(name='keep', actor_class=keeper_class())\n"
        "for name in [name for name in sys.modules if name.partition('.')[0] == 'detectctl']:\n"
        "    del sys.modules[name]\n"
        "sys.modules['detectctl'] = None\n"
        "config.get_actor_class()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
