"""URLs that must never be opened, and the tricks they play: one table for the fetcher and for the whole service."""
# ruff: noqa: RUF001 - ambiguous letters are among the tricks

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

LISTEN_AT = ("127.0.0.1", "127.0.0.2", "::1")
"""Where listeners stand for the forbidden targets, all at the port that goes into `{port}`."""


@dataclass(frozen=True, slots=True)
class Hostile:
    """One URL with `{port}` in it, or at a port of its own, and the code of the only right answer."""

    trick: str
    url: str
    code: Literal["bad_url", "url_not_allowed"]

    def at(self, port: int) -> str:
        return self.url.replace("{port}", str(port))


def _bad(trick: str, *urls: str) -> tuple[Hostile, ...]:
    return tuple(Hostile(trick, url, "bad_url") for url in urls)


def _forbidden(trick: str, *urls: str) -> tuple[Hostile, ...]:
    return tuple(Hostile(trick, url, "url_not_allowed") for url in urls)


HOSTILE: tuple[Hostile, ...] = (
    *_forbidden(
        "loopback",
        "http://127.0.0.1:{port}/",
        "http://127.0.0.2:{port}/",
        "http://127.255.255.254:{port}/",
        "http://[::1]:{port}/",
        "http://[0:0:0:0:0:0:0:1]:{port}/",
        "http://localhost:{port}/",
        "http://LOCALHOST:{port}/",
        "https://127.0.0.1:{port}/",
        "https://localhost:{port}/",
        "http://127.0.0.1:{port}/bus.jpg?x=http://example.org/#@example.org",
        "HTTP://127.0.0.1:{port}/",
    ),
    *_forbidden("unspecified", "http://0.0.0.0:{port}/", "http://[::]:{port}/", "http://0.0.0.1:{port}/"),
    *_forbidden(
        "private",
        "http://10.0.0.1:{port}/",
        "http://10.255.255.255/",
        "http://172.16.0.1/",
        "http://172.31.255.254/",
        "http://192.168.0.1/",
        "http://192.168.255.254:8080/",
        "http://[fc00::1]/",
        "http://[fd12:3456:789a::1]:{port}/",
    ),
    *_forbidden(
        "link-local",
        "http://169.254.0.1/",
        "http://169.254.255.254/",
        "http://[fe80::1]:{port}/",
        "http://[febf::1]/",
        "http://[fec0::1]/",  # site-local: deprecated, never public
    ),
    *_forbidden(
        "cloud metadata",
        "http://169.254.169.254/latest/meta-data/",  # AWS, Azure, Google, OpenStack
        "http://169.254.170.2/v2/credentials/",  # AWS ECS
        "http://[fd00:ec2::254]/latest/meta-data/",
        "http://[fd20:ce::254]/computeMetadata/v1/",
        "http://100.100.100.200/latest/meta-data/",  # Alibaba
        "http://192.0.0.192/opc/v2/instance/",  # Oracle
        "http://168.63.129.16/machine?comp=goalstate",  # Azure
        "http://169.254.42.42/conf",  # Scaleway
    ),
    *_forbidden("carrier-grade NAT", "http://100.64.0.1/", "http://100.127.255.254/"),
    *_forbidden(
        "multicast and broadcast",
        "http://224.0.0.1/",
        "http://239.255.255.250:1900/",
        "http://[ff02::1]/",
        "http://[ff0e::1]/",
        "http://255.255.255.255:{port}/",
    ),
    *_forbidden(
        "reserved, documentation, benchmarking",
        "http://240.0.0.1/",
        "http://192.0.2.1/",
        "http://198.51.100.1/",
        "http://203.0.113.1/",
        "http://198.18.0.1/",
        "http://192.88.99.1/",
        "http://[100::1]/",
        "http://[2001:db8::1]/",
        "http://[3fff::1]/",
        "http://[2001:2::1]/",
        "http://[5f00::1]/",
    ),
    *_forbidden(
        "IPv4 inside IPv6",
        "http://[::ffff:127.0.0.1]:{port}/",
        "http://[::ffff:7f00:1]:{port}/",
        "http://[0:0:0:0:0:ffff:7f00:0001]:{port}/",
        "http://[::ffff:169.254.169.254]/",
        "http://[::ffff:10.0.0.1]/",
        "http://[::127.0.0.1]:{port}/",  # IPv4-compatible
        "http://[::ffff:0:127.0.0.1]:{port}/",  # IPv4-translated
        "http://[64:ff9b::127.0.0.1]:{port}/",  # NAT64
        "http://[64:ff9b::a9fe:a9fe]/",
        "http://[64:ff9b:1::10.0.0.1]/",  # local NAT64
        "http://[2002:7f00:1::]:{port}/",  # 6to4
        "http://[2002:a9fe:a9fe::1]/",
        "http://[2001:0:7f00:1::]/",  # Teredo, by its server
        "http://[2001:0:4136:e378:8000:63bf:80ff:fffe]/",  # Teredo, by its client
        "http://[2600::5efe:7f00:1]/",  # ISATAP
        "http://[2600::200:5efe:127.0.0.1]/",
    ),
    *_bad(
        "other spellings of numbers",
        "http://2130706433:{port}/",
        "http://0x7f000001:{port}/",
        "http://0X7F.0.0.1:{port}/",
        "http://0x7f.1:{port}/",
        "http://0177.0.0.1:{port}/",
        "http://017700000001:{port}/",
        "http://127.1:{port}/",
        "http://127.0.1:{port}/",
        "http://127.0.0.01:{port}/",
        "http://127.0.0.0x1:{port}/",
        "http://0:{port}/",
        "http://127.0.0.1.0x:{port}/",
        "http://00000000127.0.0.1:{port}/",
        "http://4294967297:{port}/",
        "http://3232235521/",
        "http://0xa9fea9fe/",
        "http://256.256.256.256:{port}/",
    ),
    *_bad(
        "user names",
        "http://example.org@127.0.0.1:{port}/",
        "http://example.org:80@127.0.0.1:{port}/",
        "http://127.0.0.1:{port}@127.0.0.2:{port}/",
        "http://example.org%40127.0.0.1:{port}/",
        "http://@127.0.0.1:{port}/",
        "http://user:secret@localhost:{port}/",
    ),
    *_bad(
        "confusing separators",
        "http://example.org\\@127.0.0.1:{port}/",
        "http://127.0.0.1:{port}\\.example.org/",
        "http:\\\\127.0.0.1:{port}\\",
        "http:/\\127.0.0.1:{port}/",
        "http:127.0.0.1:{port}/",
        "http:/127.0.0.1:{port}/",
        "http:///127.0.0.1:{port}/",
        "//127.0.0.1:{port}/",
        "127.0.0.1:{port}/",
        "http://127.0.0.1:{port}:80/",
        "http://[::1]{port}/",
        "http://[::1/",
        "http://::1:{port}/",
        "http://[127.0.0.1]:{port}/",
        "http://127.0.0.1 :{port}/",
        " http://127.0.0.1:{port}/",
        "http://127.0.0.1\t:{port}/",
        "ht\ntp://127.0.0.1:{port}/",
        "http://127.0.0.1:{port}/\r\nHost: example.org",
        "http://127.0.0.1\x00.example.org:{port}/",
    ),
    *_bad(
        "trailing and missing dots",
        "http://localhost.:{port}/",
        "http://127.0.0.1.:{port}/",
        "http://localhost..:{port}/",
        "http://.localhost:{port}/",
        "http://127..0.0.1:{port}/",
    ),
    *_bad(
        "percent-encoded hosts and zones",
        "http://%31%32%37.0.0.1:{port}/",
        "http://localhos%74:{port}/",
        "http://127.0.0.1%00.example.org:{port}/",
        "http://127.0.0.1%2f.example.org:{port}/",
        "http://[fe80::1%25lo]:{port}/",
        "http://[::1%lo]:{port}/",
        "http://[::1%251]:{port}/",
    ),
    *_bad(
        "look-alikes",
        "http://127。0。0。1:{port}/",  # ideographic full stops
        "http://１２７.0.0.1:{port}/",  # full-width digits
        "http://①②⑦.⓪.⓪.①:{port}/",
        "http://ｌｏｃａｌｈｏｓｔ:{port}/",
        "http://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ:{port}/",
        "http://localho\u017ft:{port}/",  # long s
        "http://local\u00adhost:{port}/",  # soft hyphen
        "http://local\u200bhost:{port}/",  # zero-width space
        "http://localhost\u2024:{port}/",  # one-dot leader
        "http://١٢٧.0.0.1:{port}/",  # Arabic digits
        "http://[::１]:{port}/",
        "http://℀.example.org:{port}/",  # a/c
    ),
    *_bad(
        "other schemes",
        "file:///etc/passwd",
        "file://127.0.0.1/etc/passwd",
        "ftp://127.0.0.1:{port}/",
        "gopher://127.0.0.1:{port}/_GET%20/",
        "dict://127.0.0.1:{port}/d",
        "data:image/png;base64,AAAA",
        "jar:http://127.0.0.1:{port}/!/",
        "ws://127.0.0.1:{port}/",
        "rtsp://127.0.0.1:{port}/",
        "unix:///var/run/docker.sock",
        "javascript:alert(1)",
        "/etc/passwd",
        "0",  # a webcam, to the original's model loader
        "",
    ),
    *_bad(
        "malformed ports and lengths",
        "http://127.0.0.1:0/",
        "http://127.0.0.1:65536/",
        "http://127.0.0.1:{port}0000/",
        "http://127.0.0.1:-{port}/",
        "http://127.0.0.1:+{port}/",
        "http://127.0.0.1:٨٠/",
        "http://127.0.0.1:/",
        f"http://127.0.0.1:{{port}}/{'a' * 9000}",
        f"http://{'a' * 64}.example.org:{{port}}/",
        f"http://{'a.' * 130}org:{{port}}/",
        "http://*:{port}/",
        "http://<script>:{port}/",
    ),
    *_forbidden(
        "ports of public hosts where no images are",
        "http://8.8.8.8:22/",
        "http://8.8.8.8:25/",
        "http://[2001:4860:4860::8888]:25/",
        "http://8.8.8.8:53/",
    ),
)

REBOUND: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("localtest.example", ("127.0.0.1",)),
    ("six.example", ("::1",)),
    ("mapped.example", ("::ffff:127.0.0.1",)),
    ("unspecified.example", ("0.0.0.0",)),  # noqa: S104 - nothing binds here
    ("metadata.example", ("169.254.169.254",)),
    ("nat64.example", ("64:ff9b::7f00:1",)),
    ("zone.example", ("fe80::1%1",)),
    ("public-first.example", ("8.8.8.8", "127.0.0.1")),
    ("public-last.example", ("127.0.0.1", "8.8.8.8")),
    ("two-families.example", ("8.8.8.8", "::1")),
    ("intranet", ("10.1.2.3",)),
    ("empty.example", ()),
)
"""Names and the addresses that a hostile zone gives them: none of these names may be opened."""
