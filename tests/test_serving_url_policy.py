"""How URLs are read, and which addresses are public; without a network."""

from __future__ import annotations

import ipaddress
import random
import socket

import psutil
import pytest

from detectctl.errors import BadUrl, UrlNotAllowed, UsageError
from detectctl.serving.url_policy import UrlPolicy, is_public, is_this_machine, parse_allow, parse_url, redirected

FORBIDDEN = """
    0.0.0.0 0.255.255.255 10.0.0.0 10.255.255.255 100.64.0.0 100.127.255.255 127.0.0.0 127.255.255.255 168.63.129.16
    169.254.0.0 169.254.255.255 172.16.0.0 172.31.255.255 192.0.0.0 192.0.0.255 192.0.2.0 192.0.2.255 192.31.196.1
    192.52.193.1 192.88.99.0 192.88.99.255 192.168.0.0 192.168.255.255 192.175.48.1 198.18.0.0 198.19.255.255
    198.51.100.0 198.51.100.255 203.0.113.0 203.0.113.255 224.0.0.0 239.255.255.255 240.0.0.0 255.255.255.255
    :: ::1 ::7f00:1 ::ffff:0:8.8.8.8 64:ff9b:1::1 100::1 1fff:ffff::1 2001:: 2001:0:808:808::1 2001:1ff:ffff::1
    2001:db8::1 2001:db8:ffff::1 2002:: 2002:808:808::1 2002:ffff::1 2620:4f:8000::1 3fff::1 3fff:fff:ffff::1
    2600::5efe:808:808 2600::200:5efe:808:808 4000::1 5f00::1 fc00::1 fdff:ffff::1 fe80::1 febf::1 fec0::1 ff02::1
    ff0e::1 ffff::1
""".split()  # noqa: SIM905 - a table of a hundred lines otherwise
PUBLIC = """
    1.0.0.0 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.0 168.63.129.15 168.63.129.17
    169.253.255.255 169.255.0.0 172.15.255.255 172.32.0.0 192.0.1.0 192.0.3.0 192.88.98.255 192.88.100.0
    192.167.255.255 192.169.0.0 198.17.255.255 198.20.0.0 198.51.99.255 198.51.101.0 203.0.112.255 203.0.114.0
    223.255.255.255 2000::1 2001:200::1 2001:db7:ffff::1 2001:db9::1 2001:4860:4860::8888 2003::1 2606:4700::1111
    2a00:1450::1 3ffe:ffff::1 3fff:1000::1
""".split()  # noqa: SIM905 - a table of a hundred lines otherwise


@pytest.mark.parametrize("address", FORBIDDEN)
def test_special_addresses_are_not_public(address: str) -> None:
    """First and last address of each special-purpose network are refused."""
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", PUBLIC)
def test_their_neighbours_are_public(address: str) -> None:
    """The addresses just outside these networks are not refused."""
    assert is_public(ipaddress.ip_address(address))


def test_public_is_never_wider_than_the_standard_library() -> None:
    """20,000 seeded addresses: what Python does not consider global, neither do we."""
    seeded = random.Random(5)  # noqa: S311 - to be the same each time
    addresses: list[ipaddress.IPv4Address | ipaddress.IPv6Address] = [
        ipaddress.IPv4Address(seeded.getrandbits(32)) for _ in range(10_000)
    ]
    sixes: list[ipaddress.IPv4Address | ipaddress.IPv6Address] = [
        ipaddress.IPv6Address((seeded.getrandbits(16) << 112) | seeded.getrandbits(112)) for _ in range(10_000)
    ]
    wider = [address for address in addresses + sixes if is_public(address) and not address.is_global]
    assert wider == []
    assert sum(map(is_public, addresses)) > 8000


def test_the_machine_knows_its_own_addresses() -> None:
    """Each address of each interface that is up counts as this machine; others do not."""
    own = [
        ipaddress.ip_address(entry.address)
        for entries in psutil.net_if_addrs().values()
        for entry in entries
        if entry.family in {socket.AF_INET, socket.AF_INET6} and "%" not in entry.address
    ]
    assert own
    assert [address for address in own if not is_this_machine(address)] == []
    assert not is_this_machine(ipaddress.ip_address("8.8.8.8"))


def test_a_public_address_of_this_machine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A firewall in front of a machine does not protect its public address from the machine itself."""
    assert UrlPolicy().permits("a.example", 80, ["8.8.8.8"])
    monkeypatch.setattr("detectctl.serving.url_policy.is_this_machine", lambda address: str(address) == "8.8.8.8")
    assert not UrlPolicy().permits("a.example", 80, ["8.8.8.8"])
    assert UrlPolicy().permits("a.example", 80, ["8.8.4.4"])
    assert UrlPolicy(allow=("8.8.8.8/32",)).permits("a.example", 80, ["8.8.8.8"])


@pytest.mark.parametrize(
    ("given", "canonical"),
    [
        ("HTTP://Example.ORG", "http://example.org/"),
        ("http://example.org:80/a", "http://example.org/a"),
        ("https://example.org:443?x=1#part", "https://example.org/?x=1"),
        ("https://example.org:8443/a%20b", "https://example.org:8443/a%20b"),
        ("http://example.org/a b/ü.jpg?q=ä&sig=a%2Fb%3D", "http://example.org/a%20b/%C3%BC.jpg?q=%C3%A4&sig=a%2Fb%3D"),
        ("http://example.org/a\\b/../c", "http://example.org/a%5Cb/../c"),
        ("http://münchen.example/", "http://xn--mnchen-3ya.example/"),
        ("http://MÜNCHEN.example/", "http://xn--mnchen-3ya.example/"),
        ("http://xn--mnchen-3ya.example/", "http://xn--mnchen-3ya.example/"),
        ("http://under_score.example-1.org/", "http://under_score.example-1.org/"),
        ("http://[2606:4700:0:0::1111]:8080/x", "http://[2606:4700::1111]:8080/x"),
        ("http://8.8.8.8/x", "http://8.8.8.8/x"),
        ("http://1.example/", "http://1.example/"),
    ],
)
def test_good_urls_have_a_canonical_form(given: str, canonical: str) -> None:
    """Equal URLs get the same form, which is also what is sent; reading it again changes nothing."""
    assert parse_url(given).url == canonical
    assert parse_url(canonical).url == canonical


def test_a_homograph_is_another_name() -> None:
    """A Cyrillic letter makes it another host, which an operator's permission does not cover."""
    target = parse_url("http://pаypal.example/")  # noqa: RUF001 - the point
    assert target.host == "xn--pypal-4ve.example"
    assert not UrlPolicy(allow=("paypal.example",)).permits(target.host, 80, ["127.0.0.1"])


def test_letters_that_become_ascii_are_refused() -> None:
    """The Kelvin sign's lower case is the letter k, so it would otherwise become another name."""
    with pytest.raises(BadUrl):
        parse_url("http://\u212a.example/")


def test_errors_show_no_password_and_no_signature() -> None:
    """Secrets in a URL stay out of the error, which is logged."""
    with pytest.raises(BadUrl) as caught:
        parse_url("https://user:hunter2@example.org/a.jpg?sig=hunter3")
    assert "hunter" not in f"{caught.value} {caught.value.why} {caught.value.hint}"
    assert "user name" in str(caught.value.why)
    assert parse_url("https://example.org/a.jpg?sig=hunter3").shown == "https://example.org/a.jpg"
    assert len(parse_url("https://example.org/" + "a" * 4000).shown) == 120


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("/b.jpg", "https://a.example:8443/b.jpg"),
        ("c.jpg?x=1", "https://a.example:8443/dir/c.jpg?x=1"),
        ("?x=2", "https://a.example:8443/dir/a.jpg?x=2"),
        ("//b.example/c", "https://b.example/c"),
        ("https://c.example/d", "https://c.example/d"),
    ],
)
def test_redirects_may_be_relative(location: str, expected: str) -> None:
    """A `Location` is resolved against the URL that sent it."""
    assert redirected(parse_url("https://a.example:8443/dir/a.jpg"), location).url == expected


@pytest.mark.parametrize(
    "location",
    ["http://a.example/", "file:///etc/passwd", "https://u@a.example/", "https://0x7f.1/", "https://[::1"],
)
def test_redirects_may_not_leave_https_or_be_malformed(location: str) -> None:
    """A `Location` in plain http after https, or a malformed one, is refused without repeating it."""
    with pytest.raises(UrlNotAllowed) as caught:
        redirected(parse_url("https://a.example/x"), location)
    assert location not in f"{caught.value} {caught.value.why}"


def test_allowed_names_are_open_with_all_their_addresses_and_ports() -> None:
    """An allowed host is trusted wherever it leads; a name below or above it is not."""
    policy = UrlPolicy(allow=parse_allow(["Images.Example"]))
    assert policy.permits("images.example", 22, ["10.0.0.1", "::1"])
    assert not policy.permits("a.images.example", 80, ["10.0.0.1"])
    assert not policy.permits("example", 80, ["10.0.0.1"])


@pytest.mark.parametrize(
    "host", ["intranet", "localhost", "metadata.google.internal", "a.local", "db.ns.svc", "nas.home.arpa", "a.lan"]
)
def test_internal_names_are_not_looked_up_unless_named(host: str) -> None:
    """So that no answer reveals whether they exist."""
    assert not UrlPolicy(("10.0.0.0/8",)).may_look_up(host)
    assert UrlPolicy((host,)).may_look_up(host)
    assert UrlPolicy().may_look_up(f"{host}.example.org")


def test_allowed_networks_are_open_at_all_ports() -> None:
    """An allowed network is open in its mapped and NAT64 forms, too; every other address must be public."""
    policy = UrlPolicy(allow=parse_allow(["10.1.0.0/16", "fd00:1::/64"]))
    assert policy.permits("a", 22, ["10.1.2.3", "fd00:1::5"])
    assert policy.permits("a", 80, ["10.1.2.3", "8.8.8.8", "::ffff:10.1.2.3", "64:ff9b::10.1.2.3"])
    assert not policy.permits("a", 80, ["10.1.2.3", "10.2.0.1"])
    assert not policy.permits("a", 25, ["10.1.2.3", "8.8.8.8"])


@pytest.mark.parametrize(
    ("port", "permitted"), [(80, True), (443, True), (8080, True), (1024, True), (22, False), (1023, False)]
)
def test_ports_of_public_hosts(port: int, permitted: bool) -> None:
    """Image servers listen at 80, 443 and high ports; mail servers and logins below 1024."""
    assert UrlPolicy().permits("a.example", port, ["8.8.8.8"]) is permitted


def test_no_address_is_no_permission() -> None:
    """A name without addresses is not permitted just because it has no forbidden one."""
    assert not UrlPolicy().permits("a.example", 80, [])


def test_nat64_reaches_the_public_internet() -> None:
    """A network without IPv4 reaches public hosts through NAT64."""
    assert UrlPolicy().permits("a.example", 80, ["64:ff9b::8.8.8.8"])


def test_allow_entries_have_a_canonical_form() -> None:
    """Names, addresses and networks are accepted in all their usual forms, and duplicates are merged."""
    given = [
        "Images.Example",
        "images.example",
        "10.1.2.3",
        "10.1.2.3/32",
        "10.0.0.0/8",
        "FD00::1",
        "[fd00::1]",
        "münchen.example",
    ]
    expected = ("images.example", "10.1.2.3/32", "10.0.0.0/8", "fd00::1/128", "xn--mnchen-3ya.example")
    assert parse_allow(given) == expected
    assert parse_allow(expected) == expected
    for policy in (UrlPolicy(given), UrlPolicy(expected)):
        assert policy.permits("images.example", 22, ["192.168.0.1"])
        assert policy.permits("xn--mnchen-3ya.example", 22, ["192.168.0.1"])
        assert policy.permits("a.example", 22, ["10.1.2.3", "10.9.9.9", "fd00::1"])
        assert not policy.permits("a.example", 22, ["192.168.0.1"])


@pytest.mark.parametrize(
    "entry",
    [
        "",
        " ",
        "*",
        "*.example.org",
        "http://example.org",
        "example.org:80",
        "example.org/x",
        "10.0.0.5/8",
        "10.0.0.0/33",
        "10.0.0.0/8,::1",
        "0x7f.1",
        "2130706433",
        "localhost.",
        "user@example.org",
        "fd00::/129",
        "[fd00::/64]",
        "a b",
    ],
)
def test_bad_allow_entries_are_named(entry: str) -> None:
    """Another entry is a usage error that shows it and gives the right form."""
    with pytest.raises(UsageError) as caught:
        UrlPolicy(allow=("good.example", entry))
    assert repr(entry) in caught.value.what
    assert caught.value.hint is not None
    assert "10.1.0.0/16" in caught.value.hint
