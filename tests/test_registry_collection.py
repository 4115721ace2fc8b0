"""`detectctl models`: versions newest first, what of them is stored, and pruning."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from detectctl.errors import ModelNotFound, RegistryUnreachable, UsageError
from detectctl.registry.collection import versions
from detectctl.registry.resolve import resolve
from wandb_server import WandbServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("forks")]

NAME = "acme/registry/yolo"
TIMEOUT_S = 40.0


@pytest.fixture
def server() -> Iterator[WandbServer]:
    with WandbServer() as server:
        for index in range(60):  # more than one of the SDK's pages
            server.log(NAME, {"best.pt": b"x" * (index + 1)}, aliases=["production"] if index == 3 else ())
        yield server


def test_versions_are_listed_newest_first(server: WandbServer, tmp_path: Path) -> None:
    """All pages, by falling version, with aliases, sizes and digests as W&B has them, and what is stored."""
    cache, environ = tmp_path / "cache", server.env(tmp_path / "home", base=os.environ)
    stored = resolve(f"{NAME}:production", cache=cache, environ=environ, timeout_s=TIMEOUT_S, fallback=False)
    listed = versions(NAME, cache=cache, environ=environ, timeout_s=TIMEOUT_S)
    assert [item.version for item in listed] == [f"v{index}" for index in range(59, -1, -1)]
    assert [item.created for item in listed] == sorted((item.created for item in listed), reverse=True)
    assert {item.version: item.aliases for item in listed if item.aliases} == {
        "v59": ("latest",),
        "v3": ("production",),
    }
    assert [item.size for item in listed] == list(range(60, 0, -1))
    assert len({item.digest for item in listed}) == 60
    assert [(item.version, item.checkpoints) for item in listed if item.stored] == [("v3", {"best.pt": stored.sha256})]


def test_a_registry_is_listed(server: WandbServer, tmp_path: Path) -> None:
    """A registry's collection has its own version numbers, and needs no organization in the reference."""
    for source in ("v7", "v3"):
        server.link(f"{NAME}:{source}", "wandb-registry-Fall Models/detector")
    environ = server.env(tmp_path / "home", base=os.environ)
    resolve(
        "wandb-registry-Fall Models/detector:v1",
        cache=tmp_path / "cache",
        environ=environ,
        timeout_s=TIMEOUT_S,
        fallback=False,
    )
    listed = versions(
        "wandb-registry-Fall Models/detector", cache=tmp_path / "cache", environ=environ, timeout_s=TIMEOUT_S
    )
    assert [(item.version, item.size, item.stored) for item in listed] == [("v1", 4, True), ("v0", 8, False)]


def test_errors_are_those_of_resolving(server: WandbServer, tmp_path: Path) -> None:
    """Nothing to list is told apart from nobody to ask, and a base model has no versions."""
    cache, environ = tmp_path / "cache", server.env(tmp_path / "home", base=os.environ)
    with pytest.raises(UsageError, match="no versions"):
        versions("yolov8n", cache=cache, environ=environ, timeout_s=TIMEOUT_S)
    with pytest.raises(ModelNotFound):
        versions("acme/registry/nothing", cache=cache, environ=environ, timeout_s=TIMEOUT_S)
    server.stop()
    with pytest.raises(RegistryUnreachable):
        versions(NAME, cache=cache, environ=environ, timeout_s=4)


def test_a_collection_whose_alias_is_gone_is_listed_all_the_same(server: WandbServer, tmp_path: Path) -> None:
    """Somebody has removed `latest`: the list does not need it."""
    del server.collections["acme", "registry", "yolo"].aliases["latest"]
    environ = server.env(tmp_path / "home", base=os.environ)
    assert len(versions(NAME, cache=tmp_path / "cache", environ=environ, timeout_s=TIMEOUT_S)) == 60


def test_served_is_said_of_exactly_that_version(server: WandbServer, tmp_path: Path) -> None:
    """Another version with the same bytes is not served; two stored checkpoints of one version are both told."""
    cache, environ = tmp_path / "cache", server.env(tmp_path / "home", base=os.environ)
    for _ in range(2):
        server.log("acme/p/twins", {"a.pt": b"the same", "b.pt": b"another"})
    first, other, _ = (
        resolve(f"acme/p/twins:{which}", cache=cache, environ=environ, timeout_s=TIMEOUT_S, fallback=False)
        for which in ("v0#a.pt", "v0#b.pt", "v1#a.pt")
    )
    assert first.artifact == "acme/p/twins:v0#a.pt"
    served = {first.artifact: "default, left", str(other.artifact): "right"}
    v1, v0 = versions("acme/p/twins", cache=cache, environ=environ, timeout_s=TIMEOUT_S, served=served)
    assert (v0.checkpoints, v0.served) == ({"a.pt": first.sha256, "b.pt": other.sha256}, "default, left, right")
    assert (v1.checkpoints, v1.served) == ({"a.pt": first.sha256}, None)
    v0 = versions("acme/p/twins:v0#b.pt", cache=cache, environ=environ, timeout_s=TIMEOUT_S, served=served)[1]
    assert (v0.checkpoints, v0.served) == ({"b.pt": other.sha256}, "right")
