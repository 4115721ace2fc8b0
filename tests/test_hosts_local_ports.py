"""The ports of an instance."""

from __future__ import annotations

import socket
import subprocess
import sys
from dataclasses import astuple
from pathlib import Path

import pytest

from detectctl.errors import NotReady
from detectctl.hosts.local import ports


def test_they_are_free_all_different_and_not_the_last_ones() -> None:
    first, second = astuple(ports.choose()), astuple(ports.choose())
    assert len(set(first)) == len(first)
    assert first != second


def test_two_starts_at_once_choose_different_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also from the same few, before anything listens: what one process has chosen is reserved until it ends."""
    script = (
        "import random, sys\n"
        "from dataclasses import astuple\n"
        "from detectctl.hosts.local import ports\n"
        "random.sample = lambda *_: list(range(28_000, 28_020))\n"
        "print(*astuple(ports.choose()), flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        others = {int(port) for port in other.stdout.readline().split()}
        monkeypatch.setattr("random.sample", lambda *_: list(range(28_000, 28_020)))
        ours = set(astuple(ports.choose()))
        other.communicate()
    assert len(others) == len(ours)
    assert not others & ours


def test_no_outgoing_connection_can_take_them() -> None:
    """They are chosen seconds before they are opened."""
    lent_from = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert all(port < lent_from for _ in range(20) for port in astuple(ports.choose()))


def test_taken_ones_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        offered = [port, *range(20_000, 20_200)]
        monkeypatch.setattr("random.sample", lambda *_: offered)
        assert port not in astuple(ports.choose())
        monkeypatch.setattr("random.sample", lambda *_: [port] * 50)
        with pytest.raises(NotReady, match="taken"):
            ports.choose()


def test_the_services_own_is_not_among_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is free until Serve opens it, seconds later."""
    monkeypatch.setattr("random.sample", lambda lowest_to_highest, _: list(lowest_to_highest))
    first = ports.choose().gcs
    assert first not in astuple(ports.choose(first))
