"""Broken images through the HTTP interface: refused in time, the replica alive, its memory bounded.

`make fuzz` runs the mutations longer: FUZZ_MUTATIONS says how many, FUZZ_SEED which.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import httpx
import pytest

import tiers
from broken_images import corpus, encoded, mutated, seeds
from detectctl.keys import read_keys

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edge_service import Edge

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("slow_uploads")]

MUTATIONS = int(os.environ.get("FUZZ_MUTATIONS", "10000" if tiers.ALL else "1000"))
SEED = int(os.environ.get("FUZZ_SEED", "5"))
GOOD = encoded("JPEG", (320, 240))
REFUSALS = {413: "image_too_large", 415: "unsupported_image", 422: "bad_parameter"}
"""The last where `/annotate` is asked for a JPEG of more pixels in a line than a JPEG can have."""

IN_TIME_S = 2.0
"""Most take a tenth of it; 20 MiB half of it, and what they take is to send them."""
MAY_GROW_BYTES = 64 << 20
"""What an allocator may keep of what was freed. A leak of one decoded 64x48 image for each of 10,000 mutations after
their first quarter would be 69 MB; `make test` sees one of five."""


class Post:
    """Sends requests over one keep-alive connection."""

    def __init__(self, edge: Edge) -> None:
        self._client = edge.client(limits=httpx.Limits(max_connections=1))
        self._client.headers["Content-Type"] = "image/jpeg"  # a lie most of the time, and no matter

    def __call__(self, data: bytes, path: str = "/detect") -> tuple[int, str | None]:
        reply = self._client.post(path, content=data)
        if reply.headers["content-type"] == "image/jpeg":
            return reply.status_code, None
        body = reply.json()
        return reply.status_code, body["error"]["code"] if body["status"] == "error" else None

    def close(self) -> None:
        self._client.close()


def _path(number: int) -> str:
    """Every tenth is annotated, too."""
    return "/detect" if number % 10 else "/annotate"


@contextlib.contextmanager
def good_requests_beside(edge: Edge) -> Iterator[list[int]]:
    """A client that sends a good image every 50 ms; returns the statuses of the answers."""
    statuses: list[int] = []
    stop = threading.Event()

    def go_on() -> None:
        post = Post(edge)
        try:
            while not stop.wait(0.05):
                try:
                    statuses.append(post(GOOD)[0])
                except (httpx.HTTPError, ValueError):
                    statuses.append(0)
        finally:
            post.close()

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield statuses
    finally:
        stop.set()
        thread.join()


def test_the_corpus_is_refused_in_time_beside_good_requests(edge: Edge) -> None:
    """Over 200 broken images: each gets 413 or 415, or has good pixels; none takes long or disturbs others.

    `make test` sends every third; test_engine_decode has the floods and bombs without a service.
    """
    images = corpus()
    assert len({image.name for image in images}) == len(images) >= 200
    images = images if tiers.ALL else images[::3]
    replica = edge.replica()
    wrong, slow = [], []
    post = Post(edge)
    with good_requests_beside(edge) as beside:
        for number, image in enumerate(images):
            for attempt in itertools.count(1):
                begun = time.monotonic()
                status, code = post(image.data, _path(number))
                elapsed = time.monotonic() - begun
                if status == 200 or elapsed < IN_TIME_S or attempt == 3:  # the machine itself may have been busy
                    break
            if status != 200 and elapsed >= IN_TIME_S:
                slow.append((image.name, elapsed))
            refused = REFUSALS.get(status) == code and code is not None
            if not (refused or status == 200) or image.refused not in {None, refused}:
                wrong.append((image.name, status, code))
    post.close()
    assert wrong == []
    assert slow == []
    assert len(beside) > 5
    assert set(beside) == {200}
    assert edge.replica() == replica


def test_mutations_kill_nothing(edge: Edge, capsys: pytest.CaptureFixture[str]) -> None:
    """No 500, no dead replica, no growth in memory, and every good request beside them is answered."""
    with capsys.disabled():
        print(f" FUZZ_SEED={SEED} FUZZ_MUTATIONS={MUTATIONS}", end=" ", flush=True)  # noqa: T201 - to repeat a failure
    originals = seeds()
    replica = edge.replica()
    wrong: list[tuple[int, str, int, str | None]] = []
    statuses: Counter[int] = Counter()
    local = threading.local()
    posts: list[Post] = []

    def one(number: int) -> None:
        name, data = originals[number % len(originals)]
        if not hasattr(local, "post"):
            local.post = Post(edge)
            posts.append(local.post)
        # Each has a chance of its own, so that one that fails can be made again alone.
        broken = mutated(data, random.Random(SEED * 2**32 + number))  # noqa: S311 - no secret
        status, code = local.post(broken, _path(number))
        statuses[status] += 1
        if status != 200 and REFUSALS.get(status) != code:
            wrong.append((number, name, status, code))

    settled = max(500, MUTATIONS // 4)
    with good_requests_beside(edge) as beside, ThreadPoolExecutor(8) as threads:
        for _ in threads.map(one, range(settled)):
            pass
        before = replica.memory_info().rss
        for _ in threads.map(one, range(settled, MUTATIONS)):
            pass
        grown = replica.memory_info().rss - before
    for post in posts:
        post.close()
    with capsys.disabled():
        print(f"{dict(statuses)}, {grown / 1e6:+.0f} MB", end=" ", flush=True)  # noqa: T201 - a figure worth seeing
    assert wrong == []
    # The proof that both ways were taken: what is broken was refused, what is not was looked at.
    assert min(statuses[200], statuses[415]) > MUTATIONS // 20
    assert set(beside) == {200}
    assert edge.replica() == replica
    assert grown < MAY_GROW_BYTES


def test_forms_can_be_broken_too(edge: Edge) -> None:
    """Malformed multipart bodies are the caller's fault: they get 4xx, and the replica goes on."""
    good = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + GOOD + b"\r\n--b--\r\n"
    chance = random.Random(SEED)  # noqa: S311 - no secret
    boundaries = ["b", "", "b" * 100, "é", '"b', "b; boundary=c"]
    replica = edge.replica()
    with edge.client() as client:
        sent = [(good, "multipart/form-data; boundary=b")]
        sent += [(mutated(good, chance), "multipart/form-data; boundary=b") for _ in range(300)]
        sent += [(good, f"multipart/form-data; boundary={boundary}") for boundary in boundaries[1:]]
        sent += [(good, "multipart/form-data"), (b"", "multipart/form-data; boundary=b")]
        sent += [
            (b"\r\n" * 5_000_000, "multipart/form-data; boundary=b"),
            (b"--b" * 3_000_000, "multipart/form-data; boundary=b"),
        ]
        sent += [(b"--b\r\nA: b\r\n" + b"X: y\r\n" * 100_000, "multipart/form-data; boundary=b")]
        statuses = [
            client.post("/detect", content=body, headers={b"Content-Type": kind.encode()}).status_code
            for body, kind in sent
        ]
    assert statuses[0] == 200
    assert set(statuses) <= {200, 413, 415, 422}
    assert edge.replica() == replica


def test_the_instance_was_guarded_all_along(edge: Edge) -> None:
    """The service that was attacked requires keys, as one on a network does."""
    assert read_keys(edge.key_file) == (edge.key,)
    assert httpx.post(f"{edge.url}/detect", content=GOOD, trust_env=False, timeout=30).status_code == 401
