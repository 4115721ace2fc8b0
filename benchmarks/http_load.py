"""Load by POST from clients that never pause; needs Python only, where `wrk` may not be installed."""

from __future__ import annotations

import http.client
import math
import multiprocessing
import statistics
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable

_CLIENTS_PER_PROCESS = 8  # more would wait for each other's interpreter
_START_S = 1.5  # in which processes start, and what is asked warms up


@dataclass(frozen=True)
class Load:
    """One measurement.

    Attributes:
        images_per_s: answers of status 200.
        p50_ms: their latency.
        refused: answers of another status, by status.
    """

    images_per_s: float
    p50_ms: float
    refused: dict[int, int]


def load(url: str, image: bytes, *, clients: int, seconds: float) -> Load:
    """Post the image over as many kept connections as there are clients; RuntimeError if none is answered by 200."""
    begin = time.monotonic() + _START_S
    processes = math.ceil(clients / _CLIENTS_PER_PROCESS)
    shares = [clients // processes + (number < clients % processes) for number in range(processes)]
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        work = [pool.submit(_clients, url, image, share, begin, begin + seconds) for share in shares]
        answers = [answer for each in work for answer in each.result()]
    took = [latency for status, latency in answers if status == http.HTTPStatus.OK]
    refused = Counter(status for status, _ in answers if status != http.HTTPStatus.OK)
    if not took:
        raise RuntimeError(f"{url} answered no image: statuses {dict(refused)}")
    return Load(len(took) / seconds, statistics.median(took) * 1000, dict(refused))


def _clients(url: str, image: bytes, count: int, begin: float, end: float) -> list[tuple[int, float]]:
    """Status and seconds of each answer that came between two times of the monotonic clock."""
    with ThreadPoolExecutor(count) as pool:
        each = [pool.submit(_ask, url, image, begin, end) for _ in range(count)]
        return [answer for one in each for answer in one.result()]


def _ask(url: str, image: bytes, begin: float, end: float) -> list[tuple[int, float]]:
    parts, answers = urlsplit(url), []
    connection = http.client.HTTPConnection(parts.netloc, timeout=60)
    now: Callable[[], float] = time.monotonic
    while (asked := now()) < end:
        connection.request("POST", parts.path, image, {"Content-Type": "image/jpeg"})
        answer = connection.getresponse()
        answer.read()
        if begin <= now() < end:
            answers.append((answer.status, now() - asked))
    connection.close()
    return answers
