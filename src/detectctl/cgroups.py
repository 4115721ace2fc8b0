"""Control groups: the limits that a container, a pod or a unit of systemd puts on all its processes together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

OWN = Path("/proc/self/cgroup")
ROOT = Path("/sys/fs/cgroup")


def pairs(controller: str, *files: str) -> Iterator[tuple[int, int]]:
    """The two numbers in these files, from the process's own group and from each around it that has both.

    A group without a limit has a word there instead of a number (`max`), or, in version 1, -1 or a huge number.
    """
    for folder in _folders(controller):
        try:
            first, second = " ".join((folder / file).read_text() for file in files).split()
            yield int(first), int(second)
        except (OSError, ValueError):
            continue


def _folders(controller: str) -> Iterator[Path]:
    # `0::/path` is version 2, `4:cpu,cpuacct:/path` version 1: cgroups(7). A container sees its own group at the root,
    # whatever the path says.
    for line in OWN.read_text().splitlines() if OWN.exists() else ():  # not on Linux
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        mount = ROOT / controller if controllers else ROOT
        below = mount / path.lstrip("/")
        for folder in (below, *below.parents):
            yield folder
            if folder == mount:
                break
