"""The Ray head we own: its ports, folder, token and process."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from detectctl import processes
from detectctl.errors import DeadlineExceeded, NotReady
from detectctl.hosts.local import haproxy, ports
from detectctl.hosts.serve_rest import ServeApi, ServeApiError
from detectctl.serving import ingress

if TYPE_CHECKING:
    from collections.abc import Mapping

    import psutil

    from detectctl.lifecycle.state import InstanceState

_INGRESS_GRACE_S = 1.0
_OBJECT_STORE_BYTES = 100_000_000  # images travel by HTTP; the object store only holds Serve's own small things
# A replica needs neither; what it does not have it cannot leak.
_NOT_INHERITED = ("WANDB_API_KEY", "DETECTCTL_API_KEY")
# glibc keeps up to 64 MiB of what was freed in each of its arenas, and grows an arena per thread: decoders that now and
# then need a large buffer, in several threads, left a replica 100 MB larger with not a byte of it in use. These bounds
# cost no time, for the buffers of ordinary images still come from the heap. The user's own settings win.
_MALLOC = {
    "MALLOC_ARENA_MAX": "2",
    "MALLOC_MMAP_THRESHOLD_": str(4 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(16 << 20),
}


@dataclass(frozen=True, slots=True)
class Head:
    """A Ray head of our own, whether it lives or not.

    Attributes:
        instance_id: in the environment of every process it causes.
        process: the head's own; None until it has been started.
        temp_dir: the token, counters and Ray's own folder; ours alone, 0700; short, see `_short_folder`.
        dashboard_url: Serve's REST interface, on loopback.
    """

    instance_id: str
    process: processes.Process | None
    temp_dir: Path
    dashboard_url: str

    @property
    def token(self) -> str:
        """What the dashboard wants as a bearer token."""
        return (self.temp_dir / "token").read_text()

    def serve_api(self, deadline: float | None = None) -> ServeApi:
        """A client of its dashboard, which asks for no longer than until `deadline` (monotonic seconds)."""
        return ServeApi(self.dashboard_url, self.token, deadline)

    def wait_until_up(self, deadline: float) -> None:
        """Return when Serve's REST interface answers.

        Raises:
            NotReady: the head ended; with its last words.
            DeadlineExceeded: it did not answer before `deadline` (monotonic seconds).
        """
        last = "nothing yet"
        with self.serve_api() as api:
            while True:
                try:
                    api.status()
                except ServeApiError as error:
                    last = str(error)
                else:
                    return
                self.require_running("starting")
                if time.monotonic() > deadline:
                    raise DeadlineExceeded(
                        "the Ray head did not answer in time",
                        why=f"last seen: {last}",
                        hint="give it longer with --timeout",
                    )
                time.sleep(0.05)

    def require_running(self, doing: str) -> None:
        """Nothing if its process lives.

        Raises:
            NotReady: it ended while `doing`; with its last words.
        """
        if self.process is not None:
            processes.reap(self.process.pid)
            if self.process.find() is not None:
                return
        raise NotReady(
            f"the Ray head ended while {doing}",
            why=self._last_words(),
            hint="run the command again; detectctl logs may show more",
        )

    def _last_words(self) -> str:
        try:
            lines = (self.temp_dir / "head.log").read_text(errors="replace").strip().splitlines()
        except OSError as error:
            return f"its log cannot be read: {error.strerror}"
        return lines[-1] if lines else "it said nothing"

    def _processes(self) -> list[psutil.Process]:
        found = processes.family(self.instance_id, self.process, self.temp_dir)
        return [process for process in found if not processes.ended(process)]

    def stop(self) -> None:
        """End every process of the instance and remove its folder; a head that is gone already is no error.

        They hold nothing of value: Serve has been drained before, if that was wanted.
        """
        found = self._processes()
        ingress = [process for process in found if haproxy.is_one(process)]
        # All at once: the head would end its own one after the other, and wait a second for each.
        processes.kill([process for process in found if process not in ingress])
        # Last, and softly: whoever still asks gets a 503 and then finds the port closed, not a broken connection.
        processes.end(ingress, signal.SIGUSR1, grace_s=_INGRESS_GRACE_S)
        for _ in range(3):  # one that was being started by another; more often means that it cannot be killed
            if not (late := self._processes()):
                break
            processes.kill(late)
        if self.process is not None:
            processes.reap(self.process.pid)
        shutil.rmtree(self.temp_dir, ignore_errors=True)


def of(state: InstanceState) -> Head:
    """The head of an instance, whether it lives or not."""
    return Head(state.instance_id, state.head, state.temp_dir, state.dashboard_url)


def ray_dir(temp_dir: Path) -> Path:
    """Ray's sockets and logs; a folder below ours, because Ray opens its own (0777) to every user of the machine."""
    return temp_dir / "ray"


def _scratch(temp_dir: Path) -> Path:
    """The TMPDIR of all its processes, which are killed, and so leave behind whatever they have there."""
    return temp_dir / "tmp"


@dataclass(frozen=True, slots=True)
class Plan:
    """Where a head is going to live; known before anything exists, so that it can be written down first.

    Attributes:
        instance_id: random.
        temp_dir: not there yet.
        ports: free now.
    """

    instance_id: str
    temp_dir: Path
    ports: ports.Ports

    @property
    def dashboard_url(self) -> str:
        """Where Serve's REST interface will listen."""
        return f"http://127.0.0.1:{self.ports.dashboard}"


def plan(port: int) -> Plan:
    """Choose what a new head needs, beside the port of the service; changes nothing."""
    return Plan(secrets.token_hex(8), Path(_short_folder()) / f"dctl-{secrets.token_hex(4)}", ports.choose(port))


def spawn(planned: Plan, environ: Mapping[str, str], *, with_haproxy: bool, host: str, port: int) -> processes.Process:
    """Start a head that is ours alone; its process outlives this one and its terminal.

    Whoever calls this has written the plan down, and calls `Head.stop` if it fails.

    Args:
        planned: from `plan`.
        environ: the caller's environment; Ray's settings and W&B's key in it are left out.
        with_haproxy: HAProxy in front of the replicas, instead of Serve's Python proxy.
        host: the address the service listens at.
        port: the port the service listens at.

    Raises:
        NotReady: the system did not let it; most often the disk is full.
    """
    try:
        return _spawn(planned, environ, with_haproxy=with_haproxy, host=host, port=port)
    except OSError as error:
        where = "" if error.filename is None else f": {error.filename}"
        raise NotReady(
            "the Ray head could not be started",
            why=f"{error.strerror or error}{where}",
            hint=f"free some space in {planned.temp_dir.parent}, then run this command again",
        ) from error


def _spawn(planned: Plan, environ: Mapping[str, str], *, with_haproxy: bool, host: str, port: int) -> processes.Process:
    temp_dir, chosen = planned.temp_dir, planned.ports
    for folder in (temp_dir, temp_dir / "requests", _scratch(temp_dir)):
        folder.mkdir(mode=0o700)
    env = _environment(environ, planned.instance_id, temp_dir, chosen)
    if with_haproxy:
        env |= haproxy.prepare(temp_dir / "in", chosen, host, port)
    else:
        # Else a proxy that was killed and started again could not have its port back while old connections fade away.
        # That nobody else listens there has been seen to before.
        env["SERVE_SOCKET_REUSE_PORT_ENABLED"] = "1"
    command = [
        *(sys.executable, "-m", "detectctl.hosts.local.ray_head_child", "start", "--head", "--block"),
        "--node-ip-address=127.0.0.1",
        f"--port={chosen.gcs}",
        "--dashboard-host=127.0.0.1",
        f"--dashboard-port={chosen.dashboard}",
        f"--dashboard-agent-listen-port={chosen.dashboard_agent}",
        *("--min-worker-port=0", "--max-worker-port=0"),
        f"--temp-dir={ray_dir(temp_dir)}",
        f"--object-store-memory={_OBJECT_STORE_BYTES}",
        "--include-log-monitor=False",  # nobody reads the workers' output from the driver
        "--disable-usage-stats",
        "--no-monitor",  # of Ray's own autoscaler, for clusters that can grow; Serve's is another
    ]
    with (temp_dir / "head.log").open("wb") as log:
        started = subprocess.Popen(
            command,
            env=env,
            cwd=temp_dir,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            umask=0o077,
        )
    return processes.Process.of(started.pid)


def _short_folder() -> str:
    """TMPDIR if socket paths fit below it, else /tmp: HAProxy takes 97 bytes, and Ray adds a folder of 56."""
    return tempfile.gettempdir() if len(tempfile.gettempdir()) <= 10 else "/tmp"  # noqa: S108 - an unguessable 0700 folder in it


def _environment(environ: Mapping[str, str], instance_id: str, temp_dir: Path, chosen: ports.Ports) -> dict[str, str]:
    token_file = temp_dir / "token"
    descriptor = os.open(token_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32))
    kept = _MALLOC | {
        key: value
        for key, value in environ.items()
        if not key.startswith(("RAY_", "SERVE_")) and key not in _NOT_INHERITED
    }
    return kept | {
        processes.MARKER: instance_id,
        "TMPDIR": str(_scratch(temp_dir)),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_file),
        "RAY_USAGE_STATS_ENABLED": "0",
        # Ray's switch for "other machines may join", whatever its name says. Without it Ray replaces the loopback
        # address that we give it by the machine's own, and all its servers listen on every interface.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # `down` has drained Serve before
        "DASHBOARD_METRIC_PORT": str(chosen.dashboard_metrics),
        # Serve replaces an ingress after three failed looks, ten seconds apart by default.
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
        "RAY_SERVE_LOG_TO_STDERR": "0",
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": ingress.IMPORT_PATH,
        # What Ray does while nobody asks costs requests the more the fewer cores there are. Measured on two: a control
        # loop each 0.3 s instead of 0.1, and no record of every actor call, save a quarter of it; no metrics of Ray's
        # own, which nobody here reads, another tenth.
        "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.3",
        "RAY_task_events_report_interval_ms": "0",
        "RAY_enable_metrics_collection": "0",
    }
