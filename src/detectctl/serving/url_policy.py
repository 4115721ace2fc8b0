"""Decides which image URLs the service may open, by their spelling and by the addresses they lead to.

The networks are listed here, from IANA's special-purpose registries (RFC 6890 and its updates), because the `ipaddress`
module's idea of "global" differs between versions of Python.
"""

from __future__ import annotations

import re
import socket
import unicodedata
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING
from urllib.parse import quote, urljoin, urlsplit

from detectctl.addresses import foreign, masked
from detectctl.errors import BadUrl, UrlNotAllowed, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_URL_CHARS = 8192
DEFAULT_PORTS = {"http": 80, "https": 443}
FIRST_UNPRIVILEGED_PORT = 1024
LOOKUP_CHARS = 253
"""Longest name that DNS can carry."""

_FORBIDDEN_V4 = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # "this network": reaches the machine itself
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT; Alibaba's metadata service
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's host agent: a public address that serves metadata
        "169.254.0.0/16",  # link-local; most metadata services
        "172.16.0.0/12",
        "192.0.0.0/24",  # protocol assignments; Oracle's metadata service
        "192.0.2.0/24",  # documentation
        "192.31.196.0/24",  # AS112 sinks
        "192.52.193.0/24",  # AMT relays
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "192.175.48.0/24",  # AS112 sinks
        "198.18.0.0/15",  # benchmarking
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
)
# Of IPv6 only global unicast can be public. All else is refused without being named: unspecified, loopback, mapped and
# translated IPv4, local NAT64, discard, unique-local (AWS's and Google's metadata among it), link-local, multicast.
_GLOBAL_V6 = IPv6Network("2000::/3")
_FORBIDDEN_V6 = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments: Teredo, benchmarking, ORCHID, AS112
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: carries an IPv4 address of the sender's choice
        "2620:4f:8000::/48",  # AS112 sinks
        "3fff::/20",  # documentation
    )
)
_NAT64 = IPv6Network("64:ff9b::/96")
_ISATAP = (0x0000_5EFE, 0x0200_5EFE)

# RFC 6762, 6761, 8375, ICANN's name for private use, and what companies, routers and Kubernetes use beside them.
_INTERNAL = (
    *(".internal", ".local", ".localhost", ".home.arpa"),
    *(".lan", ".home", ".corp", ".intranet", ".private", ".localdomain", ".svc"),
)

_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_AUTHORITY = re.compile(r"(?P<host>\[[^\[\]]*\]|[^\[\]:]+)(?::(?P<port>[0-9]{1,5}))?")
_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*:")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_KEPT_IN_PATH = "/%:@!$&'()*+,;=~-._"
_KEPT_IN_QUERY = _KEPT_IN_PATH + "?[]"

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Target:
    """One URL in canonical form, so that no other parser can read another host in it.

    Attributes:
        host: lower-case ASCII name, or an address in canonical form, without brackets.
        address: the host's address if the URL holds one instead of a name.
        url: the whole URL in ASCII, percent-encoded, without fragment.
        had_fragment: whether it was given with one, which no server is asked for.
    """

    scheme: str
    host: str
    port: int
    address: IPAddress | None
    url: str
    had_fragment: bool = False

    @property
    def shown(self) -> str:
        """The URL for an error message: shortened, and without its query, which may hold a signature."""
        shown = self.url.partition("?")[0]
        return shown if len(shown) <= 120 else f"{shown[:119]}…"


def parse_url(url: str) -> Target:
    """Read a URL strictly; whatever browsers, resolvers and libraries disagree about is refused.

    Raises:
        BadUrl: not http(s), no host, a user name, an odd spelling of an address, or malformed.
    """
    if (other := foreign(url)) is not None:
        made = other.signed and f"make a URL of it: `{other.signed}`"
        hint = other.mended or made or "send the image itself by POST"
        raise _bad(url, f"it is {other.kind}, and must begin with http:// or https://", hint)
    if len(url) > MAX_URL_CHARS:
        raise BadUrl(
            "the image URL is too long",
            why=f"it has {len(url)} characters, and {MAX_URL_CHARS} are allowed",
            hint="send the image itself by POST",
        )
    if url != url.strip() or _CONTROL.search(url):
        raise _bad(url, "it contains control characters, or begins or ends with a space")
    try:
        url.encode()
        parts = urlsplit(url)
    except ValueError as error:
        raise _bad(url, "it is malformed") from error
    if parts.scheme not in DEFAULT_PORTS:
        raise _bad(url, "it must begin with http:// or https://", "send the image itself by POST")
    if "@" in parts.netloc:
        raise _bad(url, "it has a user name or password before the host")
    try:
        host, address, port = _parse_authority(parts.netloc, DEFAULT_PORTS[parts.scheme])
    except ValueError as error:
        raise _bad(url, str(error)) from error
    canonical = f"{parts.scheme}://{f'[{host}]' if ':' in host else host}"
    if port != DEFAULT_PORTS[parts.scheme]:
        canonical += f":{port}"
    canonical += quote(parts.path, safe=_KEPT_IN_PATH) or "/"
    if parts.query:
        canonical += f"?{quote(parts.query, safe=_KEPT_IN_QUERY)}"
    return Target(parts.scheme, host, port, address, canonical, had_fragment=bool(parts.fragment))


def redirected(target: Target, location: str) -> Target:
    """The target of an answer's `Location`.

    Raises:
        UrlNotAllowed: from https to http, or not a well-formed URL.
    """
    try:
        # `urljoin` would read "http:///host" as a path of the same server.
        following = parse_url(location if _SCHEME.match(location) else urljoin(target.url, location))
    except (ValueError, BadUrl) as error:
        raise not_allowed(target) from error
    if target.scheme == "https" and following.scheme == "http":
        raise not_allowed(target)
    return following


def _parse_authority(text: str, default_port: int) -> tuple[str, IPAddress | None, int]:
    authority = _AUTHORITY.fullmatch(text)
    if authority is None:
        raise ValueError("its host or port is missing or malformed")
    port = int(authority["port"] or default_port)
    if not 0 < port < 65536:
        raise ValueError("its port must be between 1 and 65535")
    return *parse_host(authority["host"]), port


def parse_host(text: str) -> tuple[str, IPAddress | None]:
    """The canonical form of a name, an IPv4 address or an IPv6 address in brackets, and the address if it is one.

    Raises:
        ValueError: with the reason in words for the user.
    """
    if text.startswith("["):
        address: IPAddress
        try:
            address = IPv6Address(text[1:-1])
        except ValueError as error:
            raise ValueError("the address in brackets is not an IPv6 address") from error
        if address.scope_id is not None:
            raise ValueError("its IPv6 address has a zone (%), which has no meaning here")
        return str(address), address
    host = (text if text.isascii() else _punycode(text)).lower()
    labels = host.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        # The C library also accepts decimal, octal, hexadecimal and short forms.
        try:
            address = IPv4Address(host)
        except ValueError as error:
            raise ValueError("an IPv4 address must be four decimal numbers") from error
        return str(address), address
    if len(host) > LOOKUP_CHARS or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError("its host is not a well-formed name")
    return host, None


def _punycode(name: str) -> str:
    import idna

    # Look-alike characters (full-width, circled, ligatures, other dots) change under NFKC; strict IDNA refuses the rest
    # of them.
    if len(name) > LOOKUP_CHARS or unicodedata.normalize("NFKC", name) != name:
        raise ValueError("its host is too long, or contains look-alike characters")
    try:
        # strict: only the ASCII dot separates labels
        return idna.encode(name.lower(), strict=True).decode()
    except idna.IDNAError as error:
        raise ValueError("its host is not a well-formed international name") from error


def _bad(url: str, why: str, hint: str = "correct it, or send the image itself by POST") -> BadUrl:
    start = masked(url).partition("?")[0][:80]
    return BadUrl(f"the image URL {start!a} is not valid", why=why, hint=hint)


def not_allowed(target: Target) -> UrlNotAllowed:
    """In the same words for every forbidden target, so that they reveal nothing about it."""
    return UrlNotAllowed(
        f"the service may not open {target.shown}",
        why="it leads to a host, address or port that is not permitted",
        hint="send the image itself by POST, or have its host allowed: `detectctl up --allow-url HOST`",
    )


class UrlPolicy:
    """What an operator permits beyond, or instead of, the public internet.

    Args:
        allow: hosts and networks that are open although they are not public, as `parse_allow` takes them.
        enabled: whether image URLs are accepted at all.

    Raises:
        UsageError: as `parse_allow`.
    """

    def __init__(self, allow: Iterable[str] = (), enabled: bool = True) -> None:
        self.enabled = enabled
        entries = [_parse_entry(entry) for entry in allow]
        self._names = frozenset(entry for entry in entries if isinstance(entry, str))
        self._networks = [entry for entry in entries if not isinstance(entry, str)]

    def may_look_up(self, host: str) -> bool:
        """Whether DNS may be asked for a name; for an internal one the answer would reveal whether it exists."""
        return host in self._names or ("." in host and not host.endswith(_INTERNAL))

    def permits(self, host: str, port: int, addresses: Iterable[str]) -> bool:
        """Whether `host`, which has these `addresses` now, may be connected to.

        A host that the operator allows is open with all its addresses and ports, an allowed network with all its ports.
        Of any other host every address must be public and not this machine's own, and the port must be 80, 443 or
        unprivileged, where no mail server or login listens.
        """
        if host in self._names:
            return True
        unwrapped = [_unwrapped(ip_address(address)) for address in addresses]
        public_port = port in DEFAULT_PORTS.values() or port >= FIRST_UNPRIVILEGED_PORT
        return bool(unwrapped) and all(
            any(address in network for network in self._networks)
            or (public_port and is_public(address) and not is_this_machine(address))
            for address in unwrapped
        )


def parse_allow(entries: Iterable[str]) -> tuple[str, ...]:
    """The entries of `--allow-url` in canonical form.

    Raises:
        UsageError: an entry is neither a host name nor an address or network.
    """
    return tuple(dict.fromkeys(str(_parse_entry(entry)) for entry in entries))


def _parse_entry(entry: str) -> IPNetwork | str:
    try:
        if "/" in entry or (entry.count(":") > 1 and not entry.startswith("[")):
            return ip_network(entry)
        host, address = parse_host(entry)
    except ValueError as error:
        raise UsageError(
            f"--allow-url {entry!r} is neither a host nor a network",
            why=str(error),
            hint="give a host name, such as images.example.org, or a network, such as 10.1.0.0/16 or fd00:1::/64",
        ) from error
    return host if address is None else ip_network(address)


def _unwrapped(address: IPAddress) -> IPAddress:
    """The IPv4 address that a mapped or NAT64 address leads to; others as they are.

    Networks without IPv4 reach the whole IPv4 internet by NAT64 (RFC 6052), so it is checked, not refused.
    """
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _NAT64:
            return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address


def is_public(address: IPAddress) -> bool:
    """Whether the address belongs to the public internet, by IANA's registries."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _FORBIDDEN_V4)
    return (
        address in _GLOBAL_V6
        and not any(address in network for network in _FORBIDDEN_V6)
        # A tunnel to an IPv4 address inside any prefix (RFC 5214).
        and (int(address) >> 32) & 0xFFFF_FFFF not in _ISATAP
    )


def is_this_machine(address: IPAddress) -> bool:
    """Whether the address, public or not, is this machine's own: no firewall in front of it protects those.

    Asks the kernel for a route, without sending anything: the route to oneself has the same source and destination.
    """
    family = socket.AF_INET if isinstance(address, IPv4Address) else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((str(address), 9))
            source = probe.getsockname()[0]
    except OSError:  # no route, so no connection either
        return False
    return ip_address(source) == address
