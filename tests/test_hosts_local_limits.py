"""Services on machines and in containers that allow little."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import httpx
import psutil
import pytest

from installed import DETECTCTL, Home, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_UNSHARE = ("unshare", "--mount") if os.geteuid() == 0 else ("unshare", "--mount", "--map-root-user")


def _within(home: Home, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command of detectctl after this script, in a shell with mounts of its own, which go with its last process."""
    command = [*_UNSHARE, "sh", "-ec", f'{script}\nexec "$@"', "sh", str(DETECTCTL), *arguments]
    with home.start_command(command) as process:
        stdout, stderr = process.communicate(timeout=280)
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


@contextlib.contextmanager
def _narrow(home: Home, script: str, *options: str) -> Iterator[tuple[str, str]]:
    """The URL of a service that was started after this script, and what `up` said on stderr."""
    port = free_port()
    try:
        done = _within(home, script, "up", "--port", str(port), *options)
        assert done.returncode == 0, done.stderr
        yield f"http://127.0.0.1:{port}", done.stderr
    finally:
        left = home.clean()
    assert left == []


@pytest.fixture(scope="module", autouse=True)
def _may_mount() -> None:
    if subprocess.run([*_UNSHARE, "mount", "-t", "tmpfs", "none", "/mnt"], check=False, capture_output=True).returncode:
        pytest.skip("this system lets nobody but root mount anything")


def test_too_few_open_files_are_an_error_at_once(empty_home: Home) -> None:
    """It names `ulimit -n`; nothing has been started or written."""
    done = _within(empty_home, "ulimit -n 256", "up")
    assert done.returncode == 4
    assert "a process may have 256 files open" in done.stderr
    assert "`ulimit -n`" in done.stderr
    assert empty_home.instance() is None


# As of a container with `cpu: 500m`, 4096 open files as on Fargate, of which old programs see 256, Docker's default of
# shared memory, and the device file of a GPU without a driver.
_SMALL_CONTAINER = """
mkdir dev
mount -t tmpfs none dev
touch dev/nvidiactl
mkdir dev/shm
mount -t tmpfs -o size=64m none dev/shm
for file in null zero random urandom; do
  touch dev/$file
  mount --bind /dev/$file dev/$file
done
mount --rbind dev /dev
mount -t tmpfs none /sys/fs/cgroup
echo 50000 100000 > /sys/fs/cgroup/cpu.max
ulimit -Sn 256
ulimit -Hn 4096
"""


@pytest.mark.cluster
def test_a_small_container_serves(home: Home, bus_jpg: Path) -> None:
    """On the CPU and behind HAProxy, with as many connections as its files allow, and few idle workers."""
    with _narrow(home, _SMALL_CONTAINER, "--replicas", "1..2") as (url, said):
        assert re.search("^warning: running on the CPU, not on the GPU: .*torch", said, re.MULTILINE)
        image = bus_jpg.read_bytes()
        with ThreadPoolExecutor(64) as crowd, httpx.Client(timeout=120) as client:
            answers = list(crowd.map(lambda _: client.post(f"{url}/detect", content=image), range(64)))
        assert {answer.status_code for answer in answers} <= {200, 503}
        assert answers[0].json()["status"] == "found"
        processes = home.processes()
        assert {process.rlimit(psutil.RLIMIT_NOFILE) for process in processes} == {(4096, 4096)}
        assert any(process.name() == "haproxy" for process in processes)
        assert sum(process.name() == "ray::IDLE" for process in processes) <= 2
