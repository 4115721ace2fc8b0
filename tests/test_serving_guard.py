"""The guard in front of the application: keys, and the headers for browsers."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

import pytest

from detectctl.serving.guard import Guard, KeyRing

if TYPE_CHECKING:
    from pathlib import Path

OLD, NEW = "old-key-0123456789", "new-key-0123456789"


async def _app(_scope: Any, _receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"inside"})


def ask(guard: Guard, path: str = "/detect", *headers: tuple[str, str]) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of one request."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError("the body of a refused request must not be read")

    scope = {"type": "http", "path": path, "headers": [(name.encode(), value.encode()) for name, value in headers]}
    asyncio.run(guard(scope, receive, send))
    start, body = sent
    return start["status"], {name.decode(): value.decode() for name, value in start["headers"]}, body["body"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "keys"
    made.write_text(f"{OLD}\n")
    return made


@pytest.fixture
def refused() -> list[tuple[str, str]]:
    return []


@pytest.fixture
def guard(file: Path, refused: list[tuple[str, str]]) -> Guard:
    return Guard(_app, KeyRing(file), lambda scope, code: refused.append((scope["path"], code)))


@pytest.mark.parametrize(
    "header",
    [("authorization", f"Bearer {OLD}"), ("authorization", f"bearer  {OLD} "), ("x-api-key", OLD)],
)
def test_either_header_is_accepted(guard: Guard, header: tuple[str, str]) -> None:
    assert ask(guard, "/detect", header, ("host", "behind.a.proxy.example"))[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        (),
        (("x-api-key", ""),),
        (("x-api-key", OLD[:-1]),),
        (("x-api-key", OLD + "x"),),
        (("x-api-key", OLD.upper()),),
        (("authorization", OLD),),
        (("authorization", f"Basic {OLD}"),),
        (("authorization", "Bearer"),),
        (("cookie", f"x-api-key={OLD}"),),
        (("x-api-key", "é" * 20),),
    ],
)
def test_anything_else_is_refused(
    guard: Guard, refused: list[tuple[str, str]], headers: tuple[tuple[str, str], ...]
) -> None:
    """401 with the contract's body, before the request's body is read; the refusal is logged and counted."""
    status, answered, body = ask(guard, "/detect", *headers)
    assert status == 401
    assert answered["www-authenticate"].startswith("Bearer")
    assert b'"code":"unauthorized"' in body
    assert refused == [("/detect", "unauthorized")]
    for _, value in headers:
        assert len(value) < 8 or value.encode() not in body


def test_two_different_keys_are_refused(guard: Guard) -> None:
    """No honest client sends two. Of each pair one is right: a guard that picked one would let some of them in."""
    for number in range(20):
        keys = [("x-api-key", OLD), ("x-api-key", f"{number:020}")]
        for headers in (keys, keys[::-1]):
            assert ask(guard, "/detect", *headers)[0] == 401


@pytest.mark.parametrize(
    "path",
    [
        "/detect",
        "/annotate",
        "/info",
        "/docs",
        "/openapi.json",
        "/page/",
        "/nowhere",
        "/healthz/",
        "//healthz",
        "/HEALTHZ",
    ],
)
def test_all_routes_but_the_health_checks_and_the_page_are_closed(guard: Guard, path: str) -> None:
    assert ask(guard, path)[0] == 401


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/"])
def test_load_balancers_need_no_key(guard: Guard, path: str) -> None:
    assert ask(guard, path)[0] == 200


def test_keys_rotate_without_a_restart(guard: Guard, file: Path) -> None:
    """Both keys are accepted while both are in the file; one that was removed is not."""
    assert ask(guard, "/detect", ("x-api-key", NEW))[0] == 401
    file.write_text(f"{NEW}\n{OLD}\n")
    assert [ask(guard, "/detect", ("x-api-key", key))[0] for key in (OLD, NEW)] == [200, 200]
    other = file.with_suffix(".new")
    other.write_text(f"{NEW}\n")
    other.replace(file)
    assert [ask(guard, "/detect", ("x-api-key", key))[0] for key in (OLD, NEW)] == [401, 200]


def test_a_change_of_equal_size_and_time_is_noticed(guard: Guard, file: Path) -> None:
    """As after a rotation by a tool that preserves times, such as rsync."""
    before = file.stat()
    assert ask(guard, "/detect", ("x-api-key", OLD))[0] == 200
    file.write_text(f"{NEW}\n")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size
    assert [ask(guard, "/detect", ("x-api-key", key))[0] for key in (OLD, NEW)] == [401, 200]


@pytest.mark.parametrize("damage", ["", "# nothing left\n", "two words\n", None])
def test_while_the_file_is_malformed_no_key_is_accepted(guard: Guard, file: Path, damage: str | None) -> None:
    """Neither the previous keys nor an empty one; once the file is whole, its keys are accepted again."""
    assert ask(guard, "/detect", ("x-api-key", OLD))[0] == 200
    file.unlink()
    if damage is not None:
        file.write_text(damage)
    assert [ask(guard, "/detect", ("x-api-key", key))[0] for key in (OLD, "", "two words")] == [401, 401, 401]
    file.write_text(f"{OLD}\n")
    assert ask(guard, "/detect", ("x-api-key", OLD))[0] == 200


def test_no_key_is_kept_in_memory(file: Path) -> None:
    """A memory dump of the ring shows digests only."""
    ring = KeyRing(file)
    assert ring.accepts(OLD.encode())
    assert OLD not in repr(vars(ring))
    assert OLD.encode() not in ring._digests


def test_all_keys_are_compared_each_time(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison takes constant time, of digests of one length, and does not stop at the first match."""
    import hmac

    compared: list[tuple[int, int]] = []
    real = hmac.compare_digest

    def watch(left: bytes, right: bytes) -> bool:
        compared.append((len(left), len(right)))
        return real(left, right)

    file.write_text(f"{OLD}\n{NEW}\nthird-key-0123456789\n")
    monkeypatch.setattr("detectctl.serving.guard.hmac.compare_digest", watch)
    ring = KeyRing(file)
    assert ring.accepts(OLD.encode())
    assert not ring.accepts(b"x")
    assert compared == [(32, 32)] * 6


def test_every_answer_restricts_browsers(guard: Guard) -> None:
    """Every answer, including a refusal, forbids guessing its type, running, framing and caching it."""
    for headers in ((), (("x-api-key", OLD),)):
        answered = ask(guard, "/detect", *headers)[1]
        assert answered["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in answered["content-security-policy"]
        assert "frame-ancestors 'none'" in answered["content-security-policy"]
        assert answered["referrer-policy"] == "no-referrer"
        assert answered["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in answered


def test_without_a_key_ring_every_caller_is_accepted() -> None:
    open_to_all = Guard(_app, None, lambda *_: None)
    assert ask(open_to_all)[0] == 200
    assert ask(open_to_all, "/detect", ("host", "example.org"))[0] == 200


@pytest.mark.parametrize(
    "host",
    ["localhost", "LocalHost:8000", "127.0.0.1:8000", "[::1]:8000", "[::1]", "192.0.2.2", "my-box:8000", "MY-BOX"],
)
def test_a_keyless_local_service_accepts_its_own_names(host: str, refused: list[tuple[str, str]]) -> None:
    """Its configured host, localhost, any address, and a caller that sends no `Host`."""
    guard = Guard(_app, None, lambda scope, code: refused.append((scope["path"], code)), "my-box")
    assert ask(guard, "/detect", ("host", host))[0] == 200
    assert ask(guard, "/detect")[0] == 200
    assert refused == []


@pytest.mark.parametrize(
    "hosts",
    [
        ("evil.example",),
        ("evil.example:8000",),
        ("localhost.evil.example",),
        ("127.0.0.1.evil.example:8000",),
        ("localhost@evil.example",),
        ("evil.example:[::1]",),
        ("[evil.example]",),
        ("",),
        ("localhost", "evil.example"),
    ],
)
def test_a_page_that_rebinds_its_name_is_refused(hosts: tuple[str, ...], refused: list[tuple[str, str]]) -> None:
    """421 before the body is read, without repeating the name; the routes for load balancers stay open."""
    guard = Guard(_app, None, lambda scope, code: refused.append((scope["path"], code)), "127.0.0.1")
    headers = [("host", host) for host in hosts]
    status, answered, body = ask(guard, "/detect", *headers)
    assert status == 421
    assert b'"code":"host_not_known"' in body
    assert b"evil" not in body
    assert "www-authenticate" not in answered
    assert refused == [("/detect", "host_not_known")]
    assert ask(guard, "/healthz", *headers)[0] == 200
