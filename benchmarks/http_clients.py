"""What asking costs with each HTTP library that could ask: httpx against urllib3, as ratios from one run.

Usage: python benchmarks/http_clients.py IMAGE

Eight threads POST the image as `detectctl detect` does, to a server in a process of its own that answers at once.
Rounds alternate between the two, so that other work on the machine burdens both. CPU time is of this process alone.
"""

from __future__ import annotations

import resource
import socketserver
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

THREADS = 8
REQUESTS = 400
ROUNDS = 7
ANSWER = b'{"status": "not found", "objects": [], "image": {"width": 810, "height": 1080}}'


class _Answer(socketserver.StreamRequestHandler):
    """Reads a request and answers it, again and again, on one connection."""

    disable_nagle_algorithm = True
    wbufsize = -1

    def handle(self) -> None:
        while self.rfile.readline():
            length = 0
            while (header := self.rfile.readline()) not in {b"\r\n", b""}:
                name, _, value = header.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
            self.rfile.read(length)
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n")
            self.wfile.write(b"Content-Length: %d\r\n\r\n%s" % (len(ANSWER), ANSWER))
            self.wfile.flush()


def serve() -> None:
    """Print the port, then answer until killed."""
    socketserver.ThreadingTCPServer.daemon_threads = True
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Answer) as server:
        print(server.server_address[1], flush=True)
        server.serve_forever()


def with_urllib3(url: str) -> tuple[Callable[[bytes], bytes], Callable[[], None]]:
    """How to POST a body, and how to close what that keeps open."""
    import urllib3

    pool = urllib3.connection_from_url(url, maxsize=THREADS)
    headers = {"Content-Type": "application/octet-stream"}

    def post(body: bytes) -> bytes:
        return pool.urlopen("POST", "/detect", body=body, headers=headers, retries=False, timeout=30).data

    return post, pool.close


def with_httpx(url: str) -> tuple[Callable[[bytes], bytes], Callable[[], None]]:
    """The same."""
    import httpx

    client = httpx.Client(base_url=url, trust_env=False, timeout=30)
    headers = {"Content-Type": "application/octet-stream"}

    def post(body: bytes) -> bytes:
        return client.post("/detect", content=body, headers=headers).content

    return post, client.close


LIBRARIES = {"urllib3": with_urllib3, "httpx": with_httpx}


def cpu_s(who: int = resource.RUSAGE_SELF) -> float:
    """CPU seconds that this process has used, or with RUSAGE_CHILDREN those that it has waited for."""
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def one_round(post: Callable[[bytes], bytes], image: bytes) -> tuple[float, float]:
    """Milliseconds of CPU and of the clock for each request."""
    with ThreadPoolExecutor(THREADS) as threads:
        begun, used = time.perf_counter(), cpu_s()
        answers = list(threads.map(post, [image] * REQUESTS))
        cpu, elapsed = cpu_s() - used, time.perf_counter() - begun
    if answers != [ANSWER] * REQUESTS:
        raise RuntimeError("an answer is not what the server sent")
    return 1000 * cpu / REQUESTS, 1000 * elapsed / REQUESTS


def import_ms(library: str) -> float:
    """CPU milliseconds of a fresh interpreter that imports the library, beyond one that imports nothing."""

    def run(code: str) -> float:
        before = cpu_s(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", code], check=True)
        return cpu_s(resource.RUSAGE_CHILDREN) - before

    return 1000 * (run(f"import {library}") - run("pass"))


def main() -> None:
    """Measure, and print a table."""
    image = Path(sys.argv[1]).read_bytes()
    server = subprocess.Popen([sys.executable, __file__, "--serve"], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        url = f"http://127.0.0.1:{int(server.stdout.readline())}"
        clients = {name: make(url) for name, make in LIBRARIES.items()}
        for post, _ in clients.values():
            one_round(post, image)  # opens the connections
        rounds: dict[str, list[tuple[float, float]]] = {name: [] for name in clients}
        for _ in range(ROUNDS):
            for name, (post, _) in clients.items():
                rounds[name].append(one_round(post, image))
        for _, close in clients.values():
            close()
    finally:
        server.kill()
        server.wait()
        if server.stdout is not None:
            server.stdout.close()
    figures = {
        name: (
            statistics.median(cpu for cpu, _ in rounds[name]),
            statistics.median(elapsed for _, elapsed in rounds[name]),
            statistics.median(import_ms(name) for _ in range(ROUNDS)),
        )
        for name in LIBRARIES
    }
    print(f"{len(image) / 1000:.0f} KB, {THREADS} threads; medians of {ROUNDS} rounds")
    print(f"{'':22}{'urllib3':>9}{'httpx':>9}   httpx / urllib3")
    for row, label in enumerate(["CPU ms per request", "wall ms per request", "CPU ms of its import"]):
        ours, theirs = figures["urllib3"][row], figures["httpx"][row]
        print(f"{label:22}{ours:9.2f}{theirs:9.2f}   {theirs / ours:.2f}")


if __name__ == "__main__":
    serve() if sys.argv[1:] == ["--serve"] else main()
