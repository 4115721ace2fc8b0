"""What users feel when a crowd arrives at once: how long requests take, and how soon the replicas are there.

After a while with one client there are many, each with one request at a time. Rounds alternate with an earlier version.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

import instance
import pictures
from detectctl.lifecycle.state import InstanceFolder
from detectctl.paths import Paths

if TYPE_CHECKING:
    from collections.abc import Sequence

_ALONE_S = 5
_LOOK_S = 0.25
_LONG_S = 2.0


@dataclass
class Crowd:
    """What happened since it came.

    Attributes:
        took: seconds of each request that was answered 200.
        refused: requests that got another status; their clients wait a second, as they are told.
        replicas: when their number changed, in seconds, and how many took requests from then on.
    """

    took: list[float] = field(default_factory=list)
    refused: int = 0
    replicas: list[tuple[float, int]] = field(default_factory=list)

    def row(self, who: str) -> Sequence[str]:
        """As the table shows it."""
        ordered = sorted(self.took)
        counts = (len(ordered), self.refused, sum(each > _LONG_S for each in ordered))
        seconds = (f"{each:.2f}" for each in (ordered[len(ordered) // 2], ordered[-1]))
        return who, *map(str, counts), *seconds, ", ".join(f"{count} at {at:.1f} s" for at, count in self.replicas)


def jump(home: Path, options: Sequence[str], detectctl: Path, clients: int, seconds: float) -> Crowd:
    """One service from `up` to `down`, and the crowd."""
    image, crowd = pictures.photograph("bus.jpg").read_bytes(), Crowd()
    try:
        port = pictures.free_port()
        instance.up(home, port, *options, detectctl=detectctl)
        come, go = threading.Event(), time.monotonic() + _ALONE_S + seconds

        def ask(*, first: bool) -> None:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            if not first:
                come.wait()
            while (begun := time.monotonic()) < go:
                connection.request("POST", "/detect", image, {"Content-Type": "image/jpeg"})
                answer = connection.getresponse()
                answer.read()
                if answer.status != http.HTTPStatus.OK:
                    crowd.refused += 1
                    time.sleep(1)
                elif come.is_set():
                    crowd.took.append(time.monotonic() - begun)
            connection.close()

        threads = [threading.Thread(target=ask, kwargs={"first": not number}) for number in range(clients)]
        for thread in threads:
            thread.start()
        time.sleep(_ALONE_S)
        come.set()
        _watch(home, crowd, go)
        for thread in threads:
            thread.join()
    finally:
        instance.down(home, detectctl)
    return crowd


def _watch(home: Path, crowd: Crowd, until: float) -> None:
    state = InstanceFolder(Paths.from_environ({"HOME": str(home)}).state, "default").read()
    assert state is not None
    begun = time.monotonic()
    with state.open_host() as host:
        while (now := time.monotonic()) < until:
            ready = host.status().ready
            if not crowd.replicas or crowd.replicas[-1][1] != ready:
                crowd.replicas.append((now - begun, ready))
            time.sleep(_LOOK_S)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=40, help="for which the crowd stays")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--replicas", default="1..4", help="of `detectctl up`")
    parser.add_argument(
        "--before", type=Path, metavar="DETECTCTL", help="the command of an earlier version, to be measured beside"
    )
    arguments = parser.parse_args()
    present = [("detectctl", instance.DETECTCTL)]
    if arguments.before is not None:
        present.append(("the version before", arguments.before))
    table = Table("", "answered", "refused", f"longer than {_LONG_S:.0f} s", "median, s", "longest, s", "replicas")
    with contextlib.ExitStack() as stack:
        homes = {who: stack.enter_context(instance.temporary_home()) for who, _ in present}
        for number in range(arguments.rounds):
            for who, detectctl in present[:: -1 if number % 2 else 1]:
                print(f"round {number + 1} of {arguments.rounds}: {who}", file=sys.stderr)
                options = ("--replicas", arguments.replicas)
                crowd = jump(homes[who], options, detectctl, arguments.clients, arguments.seconds)
                table.add_row(*crowd.row(who))
    Console(highlight=False, width=None if sys.stdout.isatty() else 160).print(table)


if __name__ == "__main__":
    main()
