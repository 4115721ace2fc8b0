"""The network: the service's own port, names, proxies, and the clock against those of servers."""

from __future__ import annotations

import contextlib
import email.utils
import ipaddress
import socket
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import getproxies_environment

from detectctl.addresses import masked
from detectctl.doctor.finding import Finding, Subject, failure, ok, warning
from detectctl.files import reason
from detectctl.hosts.local import haproxy, ports
from detectctl.hosts.local.ray_head import temporary_parent
from detectctl.http import Downloads, NoAnswer
from detectctl.lifecycle.state import InstanceFolder
from detectctl.proxies import proxy_for
from detectctl.serving import tracing
from detectctl.waiting import Deadline

if TYPE_CHECKING:
    from collections.abc import Iterator

_CONNECT_S = 2.0
_MOST_SKEW_S = 60.0


def port(subject: Subject) -> Iterator[Finding]:
    """Where the service listens, and what carries its requests."""
    settings = subject.settings
    state = InstanceFolder(subject.paths.state, settings.name).read()
    if state is not None:
        with state.open_host() as host:
            if host.alive:
                yield ok(f"instance {settings.name} listens at {host.endpoint}")
                return
    ports.require_free(settings.host, settings.port)
    inner = ports.choose(settings.port)
    yield ok(f"{settings.port} on {settings.host} is free")
    obstacle = haproxy.obstacle(
        temporary_parent(subject.variables), subject.paths.cache, inner, settings.host, settings.port
    )
    if obstacle is not None:
        yield warning(
            f"HAProxy cannot be used, so requests go through Serve's slower proxy: {obstacle}",
            "install the versions that detectctl was tested with: `pip install -c constraints.txt`",
        )


def names(subject: Subject) -> Iterator[Finding]:
    """Whether the names are known that W&B, base models and callers need."""
    addresses = _addresses("localhost")
    if not addresses or not all(ipaddress.ip_address(each).is_loopback for each in addresses):
        seen = f"is {', '.join(addresses)}" if addresses else "is unknown"
        yield warning(
            f"the name localhost {seen}: callers on this machine do not find the service under it",
            "add the line `127.0.0.1 localhost` to /etc/hosts",
        )
    hosts = {urlsplit(url).hostname or "" for url in _servers(subject) if proxy_for(url) is None}
    unknown = sorted(host for host in hosts if not _addresses(host))
    if unknown:
        yield warning(
            f"{' and '.join(unknown)} cannot be resolved: models cannot be downloaded from there",
            "check the network and /etc/resolv.conf, or set HTTPS_PROXY",
        )
    elif addresses:
        yield ok(f"localhost{''.join(f', {host}' for host in sorted(hosts))} can be resolved")


def _addresses(host: str) -> list[str]:
    with contextlib.suppress(OSError, UnicodeError):
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        return sorted({str(entry[4][0]).partition("%")[0] for entry in found})
    return []


def proxies(_subject: Subject) -> Iterator[Finding]:
    """Whether something listens at each proxy that the environment names."""
    named = {kind: url for kind, url in getproxies_environment().items() if kind in {"http", "https", "all"}}
    for kind, url in sorted(named.items()):
        variable = f"{kind.upper()}_PROXY={masked(url)}"
        obstacle = _obstacle_to(url if "://" in url else f"http://{url}")
        if obstacle is None:
            yield ok(f"{variable} answers")
        else:
            yield failure(
                f"{variable} cannot be used: {obstacle}",
                f"correct {kind.upper()}_PROXY, or unset it if this network needs no proxy",
            )
    if not named:
        yield ok("none is set")


def traces(subject: Subject) -> Iterator[Finding]:
    """Whether spans can be sent, if that is wanted."""
    wanted = tracing.endpoint(subject.variables)
    if wanted is None:
        yield ok(f"{tracing.ENDPOINT} is not set: none are sent")
    elif (lack := tracing.obstacle(subject.variables)) is not None:
        yield warning(f"none can be sent: {lack.why}", lack.hint)
    elif proxy_for(wanted) is None and (obstacle := _obstacle_to(wanted)) is not None:
        yield warning(
            f"the collector {masked(wanted)} cannot be used: {obstacle}",
            f"start one there, or correct {tracing.ENDPOINT}, and run `detectctl down` and `detectctl up`",
        )
    else:
        yield ok(f"sent to {masked(wanted)}")


def _obstacle_to(proxy: str) -> str | None:
    try:
        parts = urlsplit(proxy)
        usual = {"http": 80, "https": 443}.get(parts.scheme)
        if usual is None or not parts.hostname:
            return "it must be http:// or https:// and a host"
        socket.create_connection((parts.hostname, parts.port or usual), timeout=_CONNECT_S).close()
    except OSError as error:
        return reason(error)
    except ValueError as error:  # a port that is not a number
        return str(error)
    return None


def clock(subject: Subject) -> Iterator[Finding]:
    """Against that of W&B, or of the server of base models: certificates and signed URLs are valid for a time only."""
    for url in _servers(subject):
        skew_s = _skew_s(url)
        if skew_s is None:
            continue
        server = urlsplit(url).hostname
        if abs(skew_s) > _MOST_SKEW_S:
            yield failure(
                f"it is {abs(skew_s):.0f} s {'ahead of' if skew_s > 0 else 'behind'} that of {server}: "
                "certificates and signed URLs may be refused",
                "set it: `timedatectl set-ntp true`; in a container or virtual machine, set that of its host",
            )
        else:
            yield ok(f"agrees with that of {server}")
        return


def _skew_s(url: str) -> float | None:
    """How far this machine's clock is ahead of the server's; None if it does not say."""
    with contextlib.closing(Downloads()) as downloads, contextlib.suppress(NoAnswer, ValueError, TypeError):
        before = time.time()
        date = downloads.head(url, Deadline.after(_CONNECT_S)).headers.get("date", "")
        between = (before + time.time()) / 2
        return between - email.utils.parsedate_to_datetime(date).timestamp()
    return None


def _servers(subject: Subject) -> tuple[str, str]:
    return subject.wandb_url, subject.assets_url
