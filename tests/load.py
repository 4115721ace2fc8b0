"""Steady clients that ask a service for detections, and remember how each request went."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


@dataclass(frozen=True)
class Sent:
    """One request: whose, its begin and end (monotonic seconds), and its HTTP status or what went wrong instead."""

    client: int
    begun: float
    ended: float
    outcome: int | str
    body: bytes

    @property
    def ok(self) -> bool:
        return self.outcome == 200


@dataclass
class Load:
    """What the clients saw; read it when they have stopped, or count while they run."""

    sent: list[Sent] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)

    @property
    def failed(self) -> list[Sent]:
        return [one for one in self.sent if not one.ok]

    def outcomes(self) -> dict[int | str, int]:
        return dict(Counter(one.outcome for one in self.sent))

    def wait_for(self, more: int, timeout: float = 120) -> None:
        """Return when the clients have got so many more answers."""
        wanted = len(self.sent) + more
        deadline = time.monotonic() + timeout
        while len(self.sent) < wanted:
            assert time.monotonic() < deadline, f"{wanted - len(self.sent)} of {more} answers are missing"
            time.sleep(0.02)


@contextlib.contextmanager
def steady(
    url: str,
    image: bytes,
    clients: int = 4,
    *,
    path: str = "/detect",
    pause: float = 0.0,
    others: Sequence[tuple[str, bytes]] = (),
) -> Iterator[Load]:
    """So many clients, each with one connection that it keeps, each with its next request right after the last.

    Each posts the image to the path, and then each of the `others`, again and again.
    """
    load = Load()
    asks = [(path, image), *others]
    threads = [threading.Thread(target=_client, args=(one, url, asks, pause, load)) for one in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        load.stopped.set()
        for thread in threads:
            thread.join()


def _client(client: int, url: str, asks: Sequence[tuple[str, bytes]], pause: float, load: Load) -> None:
    host = urlsplit(url).netloc
    connection = http.client.HTTPConnection(host, timeout=60)
    for path, image in itertools.cycle(asks):
        if load.stopped.is_set():
            break
        begun = time.monotonic()
        body = b""
        try:
            connection.request("POST", path, image, {"Content-Type": "image/jpeg"})
            answer = connection.getresponse()
            body = answer.read()
            outcome: int | str = answer.status
        except (OSError, http.client.HTTPException) as error:
            outcome = type(error).__name__
            connection.close()
        load.sent.append(Sent(client, begun, time.monotonic(), outcome, body))
        if isinstance(outcome, str) or outcome >= 500:
            load.stopped.wait(0.1)  # a refused connection is refused at once: do not spin
        if pause:
            load.stopped.wait(pause)
    connection.close()
