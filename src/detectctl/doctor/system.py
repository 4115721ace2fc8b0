"""What the system allows a service: files, threads, processors, memory."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from detectctl import limits
from detectctl.doctor.finding import Finding, Subject, ok, warning
from detectctl.engine.cpus import cpu_share
from detectctl.engine.detector_settings import BYTES_PER_PIXEL, MAX_IMAGE_PIXELS
from detectctl.hosts.local.ray_head import OBJECT_STORE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

_COMFORTABLE_MEMORY = 2 << 30


def open_files(_subject: Subject) -> Iterator[Finding]:
    """For connections."""
    limits.require_open_files()
    connections = limits.connections()
    if connections < limits.MOST_CONNECTIONS:
        yield warning(
            f"`ulimit -Hn` allows {connections} connections at once, fewer than the {limits.MOST_CONNECTIONS} of Serve",
            "raise it: `LimitNOFILE=16384` of systemd, `--ulimit nofile=16384` of Docker",
        )
    else:
        yield ok(f"enough for {connections} connections")


def threads(_subject: Subject) -> Iterator[Finding]:
    """Of the user and of the control group."""
    limits.require_threads()
    yield ok("enough may be started")


def processors(_subject: Subject) -> Iterator[Finding]:
    """How many there are to use."""
    share, present = cpu_share(), os.cpu_count() or 1
    if share < 1:
        yield warning(
            f"{share:g} of a CPU may be used, by the quota of a control group: starting takes a minute or more",
            "allow at least one: `CPUQuota=100%` of systemd, `--cpus 1` of Docker, `cpu: 1` of Kubernetes",
        )
    else:
        yield ok(f"{share:g} of {present} CPUs may be used")


def memory(subject: Subject) -> Iterator[Finding]:
    """Of the machine and of the control group."""
    pixels = subject.settings.max_image_pixels
    limits.require_memory(pixels * BYTES_PER_PIXEL if pixels > MAX_IMAGE_PIXELS else 0)
    available, why = limits.memory()
    if available < _COMFORTABLE_MEMORY:
        yield warning(
            f"{available >> 20} MiB may be used: {why}; with many requests at once the service is slow",
            "end other programs, or raise the limit: `MemoryMax=2G` of systemd, `--memory 2g` of Docker",
        )
    else:
        yield ok(f"{available >> 20} MiB may be used")


def shared_memory(_subject: Subject) -> Iterator[Finding]:
    """Where Ray has its object store."""
    if not limits.may_share_memory():
        lack = f"{limits.SHARED_MEMORY} cannot be written"
    elif (free := shutil.disk_usage(limits.SHARED_MEMORY).free) < OBJECT_STORE_BYTES:
        lack = (
            f"{limits.SHARED_MEMORY} has {free >> 20} MiB free, and Ray's object store takes {OBJECT_STORE_BYTES >> 20}"
        )
    else:
        yield ok(f"{limits.SHARED_MEMORY} has {free >> 20} MiB free")
        return
    yield warning(
        f"{lack}: Ray uses the temporary folder instead, which is slower",
        "mount a larger tmpfs there: `--shm-size 256m` of Docker, an `emptyDir` in memory on Kubernetes",
    )
