"""Resolving with fallback: what stands in for what, always visible, and never for a mistake or for wrong bytes."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from base_models import import_base
from detectctl.errors import (
    CheckpointRefused,
    DetectctlError,
    ModelAccessDenied,
    ModelCorrupt,
    ModelError,
    ModelNotFound,
    RegistryTimedOut,
    RegistryUnreachable,
    UsageError,
)
from detectctl.registry import resolve as resolving
from detectctl.registry.base_weights import KNOWN
from detectctl.registry.resolve import resolve
from detectctl.registry.store import Store
from wandb_server import WandbServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from detectctl.registry.model_version import ModelVersion
    from detectctl.wire import Task
    from wandb_server import FaultKind

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("forks")]

WANTED = "acme/registry/yolo:latest"
NOWHERE = "http://127.0.0.1:9"
GONE_S = 3.0
"""For a W&B that does not answer: enough for the child to come to ask it."""


class Site:
    """A W&B server with the Fall model as `acme/registry/yolo`, and a cache."""

    def __init__(self, folder: Path, fall_pt: Path) -> None:
        self.server = WandbServer()
        self.server.log("acme/registry/yolo", {"best.pt": fall_pt})
        self.cache = folder / "cache"
        self.environ = self.server.env(folder / "home", base=os.environ)

    def resolve(self, reference: str = WANTED, **options: Any) -> ModelVersion:
        settings = {"cache": self.cache, "environ": self.environ, "timeout_s": 40, "assets_url": NOWHERE}
        return resolve(reference, **{**settings, **options})


@pytest.fixture
def site(tmp_path: Path, fall_pt: Path) -> Iterator[Site]:
    site = Site(tmp_path, fall_pt)
    with site.server:
        yield site


@pytest.fixture
def stocked(site: Site, yolov8n_pt: Path) -> Site:
    """With the base model in the store."""
    import_base(yolov8n_pt, Store(site.cache))
    return site


def test_the_life_of_a_reference(stocked: Site, fall_pt: Path, yolov8n_pt: Path) -> None:
    """Asked-for; moved alias; W&B gone: stale; store emptied: the base model as fallback. Each says what it is."""
    first = stocked.resolve()
    assert (first.version, first.served.fallback, first.stale, first.reason) == ("v0", False, False, None)
    assert first.checkpoint.read_bytes() == fall_pt.read_bytes()

    stocked.server.log("acme/registry/yolo", {"best.pt": yolov8n_pt})
    second = stocked.resolve()
    assert (second.version, second.sha256) == ("v1", KNOWN["yolov8n"].sha256)
    stocked.server.move_alias("acme/registry/yolo", "latest", "v0")
    assert stocked.resolve() == first

    stocked.server.stop()
    stale = stocked.resolve(patience_s=1)
    assert (stale.version, stale.sha256, stale.stale, stale.fallback) == ("v0", first.sha256, True, False)
    assert "connection refused" in str(stale.reason)
    assert stocked.resolve(serving=True, patience_s=1) == stale  # pinned and verified, so good for what runs, too

    shutil.rmtree(stocked.cache)
    import_base(yolov8n_pt, Store(stocked.cache))
    base = stocked.resolve(timeout_s=GONE_S)
    assert (base.name, base.reference, base.fallback, base.stale) == ("yolov8n", WANTED, True, False)
    assert WANTED in str(base.reason)
    assert "connection refused" in str(base.reason)
    assert base.served.reason == base.reason


@dataclass(frozen=True)
class Way:
    """One in which a reference is not resolved, and which must not end in another model."""

    error: type[DetectctlError]
    break_it: Callable[[Site], object]
    reference: str = WANTED
    timeout_s: float = 40.0


WAYS = {
    "no key": Way(ModelAccessDenied, lambda site: site.environ.pop("WANDB_API_KEY")),
    "wrong key": Way(ModelAccessDenied, lambda site: site.environ.update(WANDB_API_KEY="f" * 40)),
    "no permission": Way(ModelAccessDenied, lambda site: site.server.fail("artifact", "status", status=403)),
    "storage forbids": Way(ModelAccessDenied, lambda site: site.server.fail("file", "status", status=403)),
    "deleted": Way(ModelNotFound, lambda site: site.server.collections.clear()),
    "mistyped entity": Way(ModelNotFound, lambda _: None, "amce/registry/yolo:latest"),
    "mistyped alias": Way(ModelNotFound, lambda _: None, "acme/registry/yolo:newest"),
    "mistyped path": Way(ModelNotFound, lambda _: None, f"{WANTED}#bset.pt"),
    "no organization": Way(
        UsageError, lambda site: site.server.other_orgs.append("Umbrella"), "wandb-registry-Models/yolo:latest"
    ),
    "another's organization": Way(UsageError, lambda _: None, "Other/wandb-registry-Models/yolo:latest"),
    "not W&B's server": Way(RegistryUnreachable, lambda site: site.server.fail("graphql", "status", status=405)),
    "an error of GraphQL": Way(RegistryUnreachable, lambda site: site.server.fail("artifact", "status", status=200)),
    "too slow for the timeout": Way(
        ModelError, lambda site: site.server.fail("file", "slow", bytes_per_s=20_000), timeout_s=2 * GONE_S
    ),
    "wrong bytes": Way(ModelCorrupt, lambda site: site.server.fail("file", "wrong_bytes")),
    "wrong manifest": Way(ModelCorrupt, lambda site: site.server.fail("manifest_file", "wrong_digest")),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_what_can_be_mended_is_an_error(stocked: Site, way: Way) -> None:
    """Somebody mistyped, is not logged in, may not read it, or allowed too little time: no model stands in."""
    way.break_it(stocked)
    with pytest.raises(way.error) as caught:
        stocked.resolve(way.reference, timeout_s=way.timeout_s)
    assert type(caught.value) is way.error


@pytest.mark.parametrize(
    ("break_it", "error"),
    [
        (lambda server: server.fail("artifact", "status", status=403), ModelAccessDenied),
        (lambda server: server.collections.clear(), ModelNotFound),
    ],
    ids=["no access", "not found"],
)
def test_gone_or_forbidden_is_not_stale(stocked: Site, break_it: Any, error: type[ModelError]) -> None:
    """Where W&B has answered, nothing stands in, neither the last resolved version nor the base model."""
    stocked.resolve()
    break_it(stocked.server)
    with pytest.raises(error):
        stocked.resolve()


@pytest.mark.parametrize(
    "fault",
    [
        ("artifact", "status", 503),
        pytest.param(("file", "status", 429), marks=pytest.mark.long),
        pytest.param(("artifact", "reset", 0), marks=pytest.mark.long),
        ("file", "hang", 0),
    ],
    ids=lambda fault: " ".join(map(str, fault)),
)
def test_a_failure_that_lasts_falls_back(stocked: Site, fault: tuple[str, FaultKind, int]) -> None:
    """W&B or its storage fails until the time is over: the base model, marked, with the true reason."""
    operation, kind, status = fault
    stocked.server.fail(operation, kind, status=status)
    model = stocked.resolve(timeout_s=GONE_S)
    assert (model.fallback, model.reference, model.name) == (True, WANTED, "yolov8n")
    assert f"after {GONE_S:g} s" in str(model.reason)
    assert kind == "hang" or {"status": f"HTTP {status}", "reset": "reset"}[kind] in str(model.reason)


# Each of these waits for its deadline, or for two.
@pytest.mark.parametrize(
    ("task", "named"), [("segment", "yolov8n-seg"), pytest.param("classify", "yolov8n-cls", marks=pytest.mark.long)]
)
def test_boxes_do_not_stand_in_for_another_task(stocked: Site, task: Task, named: str) -> None:
    """The reference meant a model for masks, and its bytes are gone: an error with the cause, and what to do."""
    store = Store(stocked.cache)
    store.note_task(stocked.resolve().sha256, task)
    store.prune({KNOWN["yolov8n"].sha256}, {})
    stocked.server.stop()
    with pytest.raises(RegistryTimedOut) as caught:
        stocked.resolve(timeout_s=GONE_S)
    assert WANTED in caught.value.what
    assert "connection refused" in str(caught.value.why)
    assert f"yolov8n, which finds boxes, does not stand in for it: its task is {task}" in str(caught.value.why)
    assert f"`--model {named}`" in str(caught.value.hint)
    assert caught.value.exit_code == 5
    assert stocked.resolve("acme/registry/yolo:other", timeout_s=GONE_S).fallback  # whose task nobody knows


def test_without_fallback_stale_is_refused_too(stocked: Site) -> None:
    """`--no-fallback` means the asked-for version, known to be that, or exit code 5."""
    stocked.resolve()
    stocked.server.stop()
    with pytest.raises(RegistryUnreachable) as caught:
        stocked.resolve(fallback=False, patience_s=1)
    assert caught.value.exit_code == 5


def test_a_damaged_last_version_is_not_stale_but_unusable(stocked: Site) -> None:
    """Wrong bytes in the store never stand in for the model, not even while W&B is away."""
    path = stocked.resolve().checkpoint
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    stocked.server.stop()
    model = stocked.resolve(timeout_s=GONE_S)
    assert (model.name, model.fallback, model.stale) == ("yolov8n", True, False)


def test_another_servers_namesake_does_not_stand_in(stocked: Site) -> None:
    """What `acme/registry/yolo` meant on one W&B server says nothing about another's."""
    stocked.resolve()
    stocked.environ["WANDB_BASE_URL"] = NOWHERE
    assert stocked.resolve(timeout_s=GONE_S).fallback


def test_another_accounts_namesake_does_not_stand_in(stocked: Site) -> None:
    """Without an organization a registry is the account's own; with one, the words say it all."""
    stocked.server.link("acme/registry/yolo:v0", "wandb-registry-Models/yolo")
    short, full = "wandb-registry-Models/yolo:latest", "Acme/wandb-registry-Models/yolo:latest"
    for reference in (short, full):
        assert stocked.resolve(reference).version == "v0"
    stocked.server.stop()
    assert stocked.resolve(short, patience_s=1).stale
    for other in ({"WANDB_API_KEY": "e" * 40}, {"WANDB_ENTITY": "umbrella"}):
        assert stocked.resolve(short, environ=stocked.environ | other, timeout_s=GONE_S).fallback
        assert stocked.resolve(full, environ=stocked.environ | other, patience_s=1).stale


def test_a_page_of_another_server_is_refused(stocked: Site) -> None:
    """What the same words mean on the server that is set is not what the page showed; nothing stands in for it."""
    page = "https://wandb.example.com/acme/registry/artifacts/model/yolo/v0"
    with pytest.raises(UsageError, match=r"wandb\.example\.com") as caught:
        stocked.resolve(page)
    assert f"127.0.0.1:{stocked.server.port}" in str(caught.value.why)
    assert "WANDB_BASE_URL to the API of wandb.example.com" in str(caught.value.hint)
    assert stocked.server.requests == []
    assert stocked.resolve(f"{stocked.server.url}/acme/registry/artifacts/model/yolo/v0").version == "v0"


def test_the_fallback_has_only_the_time_that_is_left(stocked: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """W&B has used up some of the time for everything: the base model's download gets the rest of it."""
    stocked.server.fail("graphql", "hang")
    given: list[float] = []

    def base_model(*_: Any, timeout_s: float, **__: Any) -> ModelVersion:
        given.append(timeout_s)
        raise RegistryUnreachable("no base model", why="a test")

    monkeypatch.setattr(resolving, "base_model", base_model)
    began = time.monotonic()
    with pytest.raises(RegistryUnreachable, match=WANTED):
        stocked.resolve(timeout_s=3, within_s=5)
    assert given[0] <= 2
    given.clear()
    with pytest.raises(RegistryUnreachable, match=WANTED):
        stocked.resolve(timeout_s=30, within_s=2)
    assert given == [0]
    assert time.monotonic() - began < 12


@pytest.mark.parametrize("folder", ["references", "tmp"])
def test_a_store_that_cannot_be_written_is_said(folder: str, stocked: Site, fall_pt: Path) -> None:
    """A model error with the folder and the system's words, never an unforeseen one."""
    Store(stocked.cache)
    shutil.rmtree(stocked.cache / folder)
    (stocked.cache / folder).symlink_to("/proc/self/fdinfo")  # where not even root may write
    with pytest.raises(ModelError, match=str(stocked.cache)) as caught:
        stocked.resolve()
    assert type(caught.value) is ModelError
    assert caught.value.why
    assert "XDG_CACHE_HOME" in str(caught.value.hint)


def test_a_temporary_folder_that_cannot_be_written_is_said(stocked: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/proc/self/fdinfo")
    with pytest.raises(ModelError, match="cannot write its temporary files") as caught:
        stocked.resolve()
    assert "TMPDIR" in str(caught.value.hint)


def test_a_serving_instance_is_better_than_the_base_model(stocked: Site) -> None:
    """Never resolved, W&B away, something serves: an error, so that what serves stays as it is."""
    stocked.server.stop()
    with pytest.raises(RegistryUnreachable):
        stocked.resolve(serving=True, timeout_s=GONE_S)
    assert stocked.resolve(serving=False, timeout_s=GONE_S).fallback


def test_a_hang_falls_back_within_the_deadline(stocked: Site) -> None:
    """W&B that accepts and says nothing costs the deadline, not more than two seconds above it."""
    stocked.server.fail("graphql", "hang")
    began = time.monotonic()
    model = stocked.resolve(timeout_s=4)
    assert time.monotonic() - began < 6
    assert model.fallback
    assert "after 4 s" in str(model.reason)


def test_an_artifact_without_checkpoint_is_an_error(stocked: Site) -> None:
    """W&B has answered, and what it has cannot be served: no other model takes its place."""
    stocked.server.log("acme/p/data", {"images.tar": b"x"})
    with pytest.raises(CheckpointRefused, match=r"no model that is served"):
        stocked.resolve("acme/p/data:latest")


def test_no_base_model_either(site: Site) -> None:
    """With nothing to fall back to, the error is the first one, and tells of both."""
    site.server.stop()
    with pytest.raises(RegistryUnreachable) as caught:
        site.resolve(timeout_s=GONE_S)
    assert WANTED in caught.value.what
    assert "connection refused" in str(caught.value.why)
    assert f"{NOWHERE}/yolov8n.pt" in str(caught.value.why)
    assert "--model PATH.pt" in str(caught.value.hint)


def test_mistakes_do_not_fall_back(stocked: Site, tmp_path: Path) -> None:
    """A wrong reference or path is a usage error, and asks nobody."""
    for wrong in ("yolov8z", "registry/yolo", str(tmp_path / "nothing.pt")):
        with pytest.raises(UsageError):
            stocked.resolve(wrong)
    assert stocked.server.requests == []


def test_a_base_model_asked_for_does_not_fall_back_to_another(stocked: Site) -> None:
    """yolov8s that cannot be had is an error although yolov8n is there."""
    with pytest.raises(RegistryUnreachable):
        stocked.resolve("yolov8s")
    assert stocked.resolve("base").name == "yolov8n"
    assert stocked.server.requests == []


def test_a_local_checkpoint_is_copied_by_content(site: Site, fall_pt: Path, tmp_path: Path) -> None:
    """What is served is what the file held at `up`; a known base model's file also serves as that base model."""
    path = tmp_path / "mine.pt"
    shutil.copyfile(fall_pt, path)
    model = site.resolve(str(path))
    path.write_bytes(b"overwritten by the next training")
    assert (model.source, model.name, model.version, model.reference) == ("file", "mine", None, str(path))
    assert model.checkpoint.read_bytes() == fall_pt.read_bytes()


def test_a_base_models_file_given_by_path_is_remembered(site: Site, yolov8n_pt: Path) -> None:
    """After `--model path/to/yolov8n.pt`, `--model base` needs no network."""
    assert site.resolve(str(yolov8n_pt)).source == "file"
    assert site.resolve("base").source == "base"


def test_an_unreadable_file_is_an_error(site: Site) -> None:
    """A file that the system will not give is a model error with the system's words."""
    unreadable = Path("/proc/self/mem")  # opens, and fails at the first byte
    with pytest.raises(ModelError, match="/proc/self/mem"):
        site.resolve(str(unreadable))
