"""What the service has counted when all is over, and what its clients have."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING

import httpx
import pytest

import tiers
from faults.scene import TABLE, Row
from installed import wait_until
from load import steady
from scrape import samples, value

if TYPE_CHECKING:
    from collections.abc import Iterator

    from faults.scene import Scene
    from load import Sent
    from scrape import Samples

# Long because tests/test_serving_metrics.py kills and adds up without a cluster.
pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(600)]

MOST = 5000 if tiers.ALL else 1200
INGRESS = {"bad_gateway", "unavailable", "gateway_timeout"}
"""The codes of answers that no replica gave, and so none counts."""
BAD = [
    ("/detect", b"no picture"),
    ("/annotate?conf=2", b"x"),
    ("/detect", b""),
    ("/nowhere", b"x"),
    ("/annotate?class=unicorn", b"x"),
]


def _counted(found: Samples) -> Counter[tuple[str, str]]:
    """By route and code."""
    counted: Counter[tuple[str, str]] = Counter()
    for (name, labels), number in found.items():
        if name == "detectctl_requests_total":
            told = dict(labels)
            counted[told["route"], told["code"]] += int(number)
    return counted


def _seen(sent: list[Sent]) -> Counter[str]:
    """By code, or by what went wrong instead."""
    return Counter(
        "ok" if one.ok else json.loads(one.body)["error"]["code"] if one.body else str(one.outcome) for one in sent
    )


@contextlib.contextmanager
def _watched(url: str) -> Iterator[list[str]]:
    """Ask all the time; gives what became less from one answer to the next."""
    shrunk: list[str] = []
    stopped = threading.Event()

    def look() -> None:
        before: Samples = {}
        with httpx.Client(trust_env=False, timeout=60) as client:
            while not stopped.wait(0.1):
                with contextlib.suppress(httpx.TransportError):
                    answer = client.get(f"{url}/metrics")
                    if answer.status_code == 200:
                        now = samples(answer.text)
                        keys = [key for key in before if key[0].endswith(("_total", "_count", "_sum", "_bucket"))]
                        keys = [key for key in keys if "process_cpu" not in key[0]]  # of one replica, which may end
                        shrunk.extend(str(key) for key in keys if now.get(key, 0.0) < before[key])
                        before = now

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield shrunk
    finally:
        stopped.set()
        thread.join()


def test_every_answer_is_counted_once_through_a_kill_and_an_update(running: Scene) -> None:
    """Eight clients, with bad requests among the good; what the killed replica had in hand may count or not.

    Meanwhile no counter becomes less. In the end each replica says the same, and `status` too.
    """
    url = running.service.url
    begun = time.monotonic()
    with (
        _watched(url) as shrunk,
        steady(url, running.image.read_bytes(), clients=8, others=BAD) as load,
    ):
        load.wait_for(MOST // 3)
        killed = running.processes("ray::ServeReplica")
        running.kill(*killed)
        load.wait_for(1)
        wait_until(lambda: any(one.ok and one.begun > running.happened[0] for one in load.sent), timeout=60)
        load.wait_for(MOST // 3)
        assert running.up("--replicas", "2", "--precision", "fp32").returncode == 0
        load.wait_for(max(1, MOST - len(load.sent)))
    seconds = time.monotonic() - begun
    assert shrunk == []

    found = samples(httpx.get(f"{url}/metrics", trust_env=False).text)
    seen, counted = _seen(load.sent), Counter[str]()
    for (_, code), number in _counted(found).items():
        counted[code] += number
    answered = Counter({code: number for code, number in seen.items() if code in counted})
    unknown = seen.total() - answered.total()
    TABLE.append(Row(f"killed and updated, {unknown} not counted", seen.total(), len(load.failed), seconds=seconds))
    assert set(seen - answered) <= INGRESS | {"RemoteDisconnected", "ConnectionResetError", "IncompleteRead"}
    beyond = counted - answered
    assert answered - counted == Counter()
    assert beyond.total() <= min(unknown, 8), (beyond, seen)
    assert set(answered) == {"ok", "unsupported_image", "bad_parameter", "not_found"}
    assert value(found, "request_seconds_count", route="/detect") == counted["ok"]
    assert value(found, "updates_total", outcome="done") == 1

    for _ in range(10):  # a new connection each time: both replicas are asked
        again = samples(httpx.get(f"{url}/metrics", trust_env=False).text)
        assert _counted(again) == _counted(found)
        assert value(again, "replicas_wanted") == value(again, "replicas_ready") == 2
        assert len([1 for name, _ in again if name == "detectctl_process_resident_memory_bytes"]) == 2
    status = running.status()
    assert status["requests"] == counted.total()
    assert Counter(status["errors"]) + Counter(ok=counted["ok"]) == counted


def test_going_back_is_counted(running: Scene) -> None:
    """An update that cannot serve leaves what was there, and says so."""
    before = samples(httpx.get(f"{running.service.url}/metrics", trust_env=False).text)
    assert running.up("--timeout", "1", "--precision", "fp32", "--imgsz", "96").returncode == 4
    after = samples(httpx.get(f"{running.service.url}/metrics", trust_env=False).text)
    outcomes = ("done", "went_back", "failed")
    grown = [
        value(after, "updates_total", outcome=one) - value(before, "updates_total", outcome=one) for one in outcomes
    ]
    assert grown == [0, 1, 0]
