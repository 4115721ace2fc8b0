"""How a Ray head of our own is started: its ports, folder, token and process."""

from __future__ import annotations

import secrets
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from detectctl import limits, processes
from detectctl.errors import NotReady
from detectctl.files import describe, probe, reason, remedy, write_atomically
from detectctl.hosts.local import haproxy
from detectctl.hosts.local.ports import Ports, choose, require_free
from detectctl.paths import Paths
from detectctl.progress import Progress
from detectctl.serving import ingress, tracing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from detectctl.progress import Report

_WORKERS = 4
"""That start before anybody asks: for Serve's controller, its two HTTP servers, and what builds the application."""
FOLDER_PREFIX = "dctl-"
"""Of an instance's folder for temporary files."""
OBJECT_STORE_BYTES = 100_000_000  # images travel by HTTP; the object store only holds Serve's own small things
# The head gets its own of these, and replicas need none of ours: what they do not have they cannot leak.
_NOT_INHERITED = ("RAY_", "SERVE_", "DETECTCTL_", "WANDB_API_KEY")
# glibc keeps up to 64 MiB of what was freed in each of its arenas, and grows an arena per thread: decoders that now and
# then need a large buffer, in several threads, left a replica 100 MB larger with not a byte of it in use. With these
# bounds it does not, and the buffers of pictures of up to 5 megapixels still come from the heap. Those that do not are
# filled with zeros by the system each time: with 4 MiB in place of 16, a picture of 1280x1280 took 1.6 times as long to
# decode, for a replica that was 20 MB smaller after pictures of all sizes. The user's own settings win.
MALLOC = {"MALLOC_ARENA_MAX": "2", "MALLOC_MMAP_THRESHOLD_": str(16 << 20), "MALLOC_TRIM_THRESHOLD_": str(16 << 20)}
PROXY = {
    # Serve replaces an ingress after three failed checks, ten seconds apart by default.
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
    # With a fifth of a core it takes ten seconds to start one, which Serve would end after five.
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": ingress.IMPORT_PATH,
}
"""For Serve's HTTP servers."""


@dataclass(frozen=True, slots=True)
class HeadRecord:
    """What the state file records of a head: enough to find it again, and everything that it caused.

    Attributes:
        instance_id: random; every process that the head causes carries it in its environment.
        temp_dir: the token, counters and Ray's own folder; ours alone, 0700.
        host: the address at which the service listens, at `port`.
        head: the head's own process; None until it has been started.
        dashboard_url: Serve's REST interface, on loopback; empty until then.
        haproxy: whether HAProxy is its ingress; otherwise Serve's own proxy, which is slower.
    """

    instance_id: str
    temp_dir: Path
    host: str
    port: int
    head: processes.Process | None = None
    dashboard_url: str = ""
    haproxy: bool = True

    @property
    def requests_dir(self) -> Path:
        """Where replicas write their counters and request logs."""
        return self.temp_dir / "requests"

    @property
    def head_log(self) -> Path:
        """What `ray start` prints."""
        return self.temp_dir / "head.log"

    @property
    def token_file(self) -> Path:
        """What the dashboard accepts as a bearer token; 0600."""
        return self.temp_dir / "token"


def plan(host: str, port: int, environ: Mapping[str, str]) -> HeadRecord:
    """Of a head that is to be started, for a service at this address; changes nothing.

    Raises as `require_free`, and NotReady if the system's limits are too low, or no temporary folder can be written.
    """
    require_free(host, port)
    limits.require()
    return HeadRecord(
        secrets.token_hex(8), temporary_parent(environ) / f"{FOLDER_PREFIX}{secrets.token_hex(4)}", host, port
    )


def temporary_parent(environ: Mapping[str, str]) -> Path:
    """Where the folders of instances are: the first of TMPDIR, /tmp and /var/tmp that can be written.

    Not `tempfile.gettempdir`, which comes to the working folder in the end, and to its own words about all of them.
    NotReady, about the first, if none can be written.
    """
    failures: dict[str, OSError] = {}
    for folder in filter(None, (environ.get("TMPDIR"), "/tmp", "/var/tmp")):  # noqa: S108 - an unguessable 0700 folder
        try:
            probe(folder)
            # As the system calls it: processes are known by where they work.
            return Path(folder).resolve()
        except OSError as error:
            failures[folder] = error
    folder, failure = next(iter(failures.items()))
    raise NotReady(
        f"the temporary folder {folder} cannot be used", why=reason(failure), hint=remedy(failure, folder, "TMPDIR")
    ) from failure


def spawn(record: HeadRecord, environ: Mapping[str, str], alive_file: Path, report: Report) -> HeadRecord:
    """Start the head, ours alone; its process outlives this one and its terminal. See `hosts.host.Host.start`.

    It inherits `environ` except for Ray's settings, ours, and W&B's key.

    Raises:
        NotReady: no free ports, or the system did not allow it; most often the disk is full.
    """
    ports = choose(record.port)
    parent = record.temp_dir.parent
    obstacle = haproxy.obstacle(parent, Paths.from_environ(environ).cache, ports, record.host, record.port)
    if obstacle is not None:
        words = f"without HAProxy, so with lower throughput: {obstacle}"
        report(Progress("start Ray", words, warning=True))
    if (lack := tracing.obstacle(environ)) is not None:
        report(Progress("start Ray", f"without traces: {lack.why}; {lack.hint}", warning=True))
    record = replace(record, dashboard_url=f"http://127.0.0.1:{ports.dashboard}", haproxy=obstacle is None)
    try:
        return replace(record, head=_spawn(record, ports, environ, alive_file))
    except OSError as error:
        hint = f"check that you may run `{sys.executable}`, and how many processes"
        if error.filename is not None and Path(error.filename).is_relative_to(parent):
            hint = remedy(error, parent, "TMPDIR")
        raise NotReady(
            "the Ray head could not be started",
            why=describe(error),
            hint=hint,
        ) from error


def _spawn(record: HeadRecord, ports: Ports, environ: Mapping[str, str], alive_file: Path) -> processes.Process:
    for folder in (record.temp_dir, record.requests_dir, record.temp_dir / "tmp"):
        folder.mkdir(mode=0o700)
    env = _environment(environ, record, ports)
    if record.haproxy:
        env |= haproxy.prepare(record.temp_dir / "in", ports, record.host, record.port)
    else:
        # Otherwise a proxy that was killed and started again could not get its port back while old connections fade
        # away. That nobody else listens there has been checked before.
        env |= {"SERVE_SOCKET_REUSE_PORT_ENABLED": "1", "RAY_SERVE_ENABLE_HA_PROXY": "0"}
    command = [
        # Unbuffered: its log ends with why it ended, and not with what it had printed before that.
        *(sys.executable, "-u", "-m", "detectctl.hosts.local.ray_head_child", str(alive_file)),
        *("start", "--head", "--block"),
        "--node-ip-address=127.0.0.1",
        f"--port={ports.gcs}",
        "--dashboard-host=127.0.0.1",
        f"--dashboard-port={ports.dashboard}",
        f"--dashboard-agent-listen-port={ports.dashboard_agent}",
        *("--min-worker-port=0", "--max-worker-port=0"),
        f"--temp-dir={record.temp_dir / 'ray'}",  # below ours, because Ray opens its own (0777) to every user
        # Not what Ray counts: what can run here has been decided before, and a replica that finds no room by Ray's
        # count would wait without a word. Of half a CPU Ray makes none, and of 64 as many idle workers. There is room
        # for thousands of replicas and their successors, at a thousandth each. No replica asks Ray for a GPU: Ray may
        # find none where PyTorch does.
        *(f"--num-cpus={_WORKERS}", "--num-gpus=0"),
        f"--object-store-memory={OBJECT_STORE_BYTES}",
        *(() if limits.may_share_memory() else (f"--plasma-directory={record.temp_dir / 'tmp'}",)),
        "--include-log-monitor=False",  # nobody reads the workers' output from the driver
        "--disable-usage-stats",
        "--no-monitor",  # Ray's own autoscaler, for clusters that can grow; Serve has another
    ]
    with record.head_log.open("wb") as log:
        started = subprocess.Popen(
            command,
            env=env,
            cwd=record.temp_dir,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            umask=0o077,
        )
    return processes.Process.of(started.pid)


def _environment(environ: Mapping[str, str], record: HeadRecord, ports: Ports) -> dict[str, str]:
    write_atomically(record.token_file, secrets.token_hex(32), mode=0o600)
    kept = MALLOC | {key: value for key, value in environ.items() if not key.startswith(_NOT_INHERITED)}
    return kept | {
        processes.MARKER: record.instance_id,
        "TMPDIR": str(record.temp_dir / "tmp"),  # its processes are killed, and leave behind whatever they have there
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(record.token_file),
        "RAY_USAGE_STATS_ENABLED": "0",
        # Ray's switch for "other machines may join", whatever its name says. Without it Ray replaces the loopback
        # address that we give it by the machine's own, and all its servers listen on every interface.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_gcs_server_port_wait_time_s": "300",  # 30 are not enough on a busy machine; `up` has its own deadline
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # `down` has drained Serve before
        "DASHBOARD_METRIC_PORT": str(ports.dashboard_metrics),
        # By workers, before they have anything to do; whatever they will do, they need it.
        "RAY_preload_python_modules": "ray.serve",
        **PROXY,
        "RAY_SERVE_LOG_TO_STDERR": "0",
        # Ray's background work takes CPU time from requests, the more so the fewer cores there are. Measured on two: a
        # control loop every 0.3 s instead of 0.1, and no record of every actor call, save a quarter of that work; Ray's
        # own metrics, which nobody reads here, another tenth.
        "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.3",
        "RAY_task_events_report_interval_ms": "0",
        "RAY_enable_metrics_collection": "0",
    }
