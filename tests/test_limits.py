"""Services on machines and in containers that allow little."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import httpx
import psutil
import pytest

from detectctl import cgroups, limits
from installed import DETECTCTL, Home, free_port
from served import served

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from detectctl.engine.compiled import CompiledModel

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


# But for the home, which may lie there.
_READ_ONLY_TMP = """
for folder in /tmp /var/tmp; do
  mount --bind $folder $folder
  mount -o remount,bind,ro $folder
done
mount --bind "$HOME" "$HOME"
mount -o remount,bind,rw "$HOME"
unset TMPDIR
"""
_GROUP = "mount -t tmpfs none /sys/fs/cgroup; cd /sys/fs/cgroup; "
TOO_LITTLE = {
    "ulimit -n 256": ("a process may have 256 files open", "`ulimit -n`"),
    _GROUP + "echo 400 > pids.max; echo 390 > pids.current": ("10 more threads may be started", "pids.max"),
    _GROUP + "echo 805306368 > memory.max; echo 9 > memory.current": (
        "768 MiB of memory",
        "limit of its control group",
    ),
    _READ_ONLY_TMP: ("the temporary folder /tmp cannot be used", "Read-only", "set TMPDIR to a folder that is not"),
    _READ_ONLY_TMP + "export TMPDIR=/proc/self/fdinfo": ("folder /proc/self/fdinfo cannot be used", "set TMPDIR"),
    _READ_ONLY_TMP
    + 'export TMPDIR="$HOME/full"; mkdir "$TMPDIR"; mount -t tmpfs -o size=4k none "$TMPDIR"; echo > "$TMPDIR/x"': (
        "No space left on device",
        "free some space in /",
    ),
}
"""What is done to the system, and which words tell of it."""


@pytest.mark.parametrize("script", TOO_LITTLE)
def test_too_little_is_an_error_at_once(empty_home: Home, script: str) -> None:
    """It names the limit; nothing has been started or written."""
    done = _within(empty_home, script, "up")
    assert done.returncode == 4
    for words in TOO_LITTLE[script]:
        assert words in done.stderr
    assert empty_home.instance() is None


def test_images_larger_than_the_memory_are_an_error_at_once(empty_home: Home) -> None:
    """A service that takes them would be killed by the first one; the usual limit asks for no more than the usual."""
    script = _GROUP + "echo 2147483648 > memory.max; echo 9 > memory.current"
    done = _within(empty_home, script, "up", "--max-image-pixels", "108M")
    assert done.returncode == 4
    assert "2048 MiB of memory may be used here, and the service needs 3289" in done.stderr
    assert "--max-image-pixels" in done.stderr
    assert empty_home.instance() is None


def test_a_client_has_no_more_requests_in_flight_than_it_may_have_files(
    empty_home: Home, tiny_compiled: Callable[[str], CompiledModel], bus_jpg: Path
) -> None:
    """Many systems allow 1024 at first, which `--concurrency 1024` is more than; here 60 are more than 72 allow."""
    folder = empty_home.path / "photos"
    folder.mkdir()
    for number in range(60):
        (folder / f"{number}.jpg").symlink_to(bus_jpg)
    with served(tiny_compiled("v8"), imgsz=128) as port:
        url = f"http://127.0.0.1:{port}"
        options = ("--url", url, "--concurrency", "60", "--format", "jsonl")
        done = _within(empty_home, "ulimit -Sn 50; ulimit -Hn 72", "detect", "photos", *options)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('"found"') == 60


def test_no_limit_of_open_files_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """As macOS has none, where `detect` runs too; the system says -1 for it."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, resource.RLIM_INFINITY))
    limits.require_open_files()
    assert limits.requests() > 1000


def test_a_machine_without_limits_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups, "ROOT", tmp_path)
    limits.require()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user who runs nothing else")
def test_a_users_limit_of_threads_counts_what_runs() -> None:
    code = """
import os, psutil, resource, threading  # all that the other user may not be able to read
from detectctl.errors import NotReady
from detectctl import limits
resource.setrlimit(resource.RLIMIT_NPROC, (340, 360))
limits.require_threads()
os.setuid(54321)
limits.set_soft()
assert resource.getrlimit(resource.RLIMIT_NPROC) == (360, 360)
limits.require_threads()
stop = threading.Event()
for _ in range(20):
    threading.Thread(target=stop.wait).start()
try:
    limits.require_threads()
except NotReady as error:
    print(error.what_and_why)
stop.set()
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.startswith("339 more threads may be started here")
    assert "this user may have 360 (`ulimit -u`)" in done.stdout


# As of a container with `cpu: 500m`, 4096 open files as on Fargate, of which old programs see 256, no shared memory,
# the device file of a GPU that is not to be used, no name for the user and no home, and nothing that can be written but
# a folder with a long name, where nothing can be executed.
_SMALL_CONTAINER = (
    """
export CUDA_VISIBLE_DEVICES=
mkdir dev
mount -t tmpfs none dev
touch dev/nvidiactl
mkdir dev/shm
mount -t tmpfs -o ro none dev/shm
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
    + _READ_ONLY_TMP
    + """
export TMPDIR="$HOME/temporary files of a program, whatever their number and size may be"
mkdir "$TMPDIR"
mount -t tmpfs -o noexec none "$TMPDIR"
export XDG_STATE_HOME="$HOME/.local/state" XDG_CACHE_HOME="$HOME/.cache" XDG_CONFIG_HOME="$HOME/.config"
unset HOME
for file in passwd nsswitch.conf; do
  [ ! -e /etc/$file ] || mount --bind /dev/null /etc/$file
done
"""
)


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.long  # half a processor
def test_a_small_container_serves(home: Home, bus_jpg: Path) -> None:
    """On the CPU and behind HAProxy, with as many connections as its files allow, and few idle workers."""
    with _narrow(home, _SMALL_CONTAINER, "--replicas", "1..2") as (url, said):
        assert re.search("^warning: running on the CPU, not on the GPU: CUDA_VISIBLE_DEVICES", said, re.MULTILINE)
        image = bus_jpg.read_bytes()
        with ThreadPoolExecutor(64) as crowd, httpx.Client(timeout=120) as client:
            answers = list(crowd.map(lambda _: client.post(f"{url}/detect", content=image), range(64)))
        assert {answer.status_code for answer in answers} <= {200, 503}
        assert answers[0].json()["status"] == "found"
        processes = home.processes()
        assert {process.rlimit(psutil.RLIMIT_NOFILE) for process in processes} == {(4096, 4096)}
        assert any(process.name() == "haproxy" for process in processes)
        assert sum(process.name() == "ray::IDLE" for process in processes) <= 2
