"""Which proxy the environment names for a URL."""

from __future__ import annotations

import contextlib
import ipaddress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Generator


def proxy_for(url: str) -> str | None:
    """The proxy that the environment names for this URL."""
    from urllib.request import getproxies, proxy_bypass

    parts = urlsplit(url)
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    exempt = proxies.get("no", "").replace("*.", ".")  # as Go and others read it
    is_direct = parts.hostname == "localhost" or proxy_bypass(parts.netloc, {"no": exempt})
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(parts.hostname or "")
        is_direct = is_direct or address.is_loopback or any(address in network for network in _networks(exempt))
    if not proxy or is_direct:
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _networks(no_proxy: str) -> Generator[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    for entry in no_proxy.split(","):
        with contextlib.suppress(ValueError):
            yield ipaddress.ip_network(entry.strip(" []"), strict=False)
