"""The W&B child against a real server that fails in every way: class of error, its words, its time, no process left."""

from __future__ import annotations

import email.utils
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from detectctl.child import ChildCrashed
from detectctl.errors import (
    CheckpointRefused,
    ModelAccessDenied,
    ModelCorrupt,
    ModelError,
    ModelNotFound,
    RegistryTimedOut,
    RegistryUnreachable,
    UsageError,
)
from detectctl.exports import pack
from detectctl.files import sha256_of
from detectctl.registry import wandb_source
from detectctl.registry.artifact_content import choose_checkpoint
from detectctl.registry.reference import Artifact, parse
from detectctl.registry.store import Store
from self_signed import untrusted_tls
from wandb_forks import FORKED
from wandb_server import API_KEY, FaultKind, WandbServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from detectctl.progress import Progress
    from detectctl.registry.model_version import ModelVersion

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("forks")]

CHECKPOINT = os.urandom(300_000)
SHA256 = hashlib.sha256(CHECKPOINT).hexdigest()
DEADLINE_S = 20.0
"""For rows that would never end: enough to come to where they hang, with others beside them."""
FILE_DEADLINE_S = 2 * DEADLINE_S
"""The same where they hang at a file: the SDK's helper process must have started, asked and failed by then."""
ALONE_S = 6.0
"""The same, for tests that have nobody beside them."""
PLENTY_S = 60.0
"""For rows that end by themselves, on a machine that has other things to do."""
MARK = "DETECTCTL_TEST_MARK"


def artifact(text: str) -> Artifact:
    reference = parse(text)
    assert isinstance(reference, Artifact)
    return reference


def marked(mark: str) -> list[psutil.Process]:
    """Living processes that inherited `mark` in their environment: the child, wandb-core, and whatever they start."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


@dataclass
class Site:
    """A server with one artifact, an empty store, and an environment whose processes can be told from others'."""

    server: WandbServer
    store: Store
    environ: dict[str, str]
    mark: str

    def fetch(
        self, text: str = "acme/registry/yolo:latest", timeout_s: float = PLENTY_S, **options: Any
    ) -> ModelVersion:
        return wandb_source.fetch(artifact(text), self.store, environ=self.environ, timeout_s=timeout_s, **options)


def build(folder: Path) -> Site:
    mark = uuid.uuid4().hex
    server = WandbServer()
    server.log("acme/registry/yolo", {"best.pt": CHECKPOINT, "args.yaml": b"epochs: 3"}, metadata={"map50": 0.5})
    return Site(server, Store(folder / "cache"), {**server.env(folder / "home", base=os.environ), MARK: mark}, mark)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """One whose children start as a user's do."""
    site = build(tmp_path)
    del site.environ[FORKED]
    with site.server:
        yield site
    assert marked(site.mark) == []


@pytest.fixture
def quick_site(tmp_path: Path) -> Iterator[Site]:
    """One whose children are forks."""
    site = build(tmp_path)
    with site.server:
        yield site
    assert marked(site.mark) == []


# --- the table --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """What goes wrong, and what the user is promised then. `error` None: it works all the same."""

    name: str
    error: type[ModelError] | None
    says: str = ""
    fault: tuple[str, FaultKind] | None = None
    options: tuple[tuple[str, Any], ...] = ()
    reference: str = "acme/registry/yolo:latest"
    environ: tuple[tuple[str, str | None], ...] = ()
    by_deadline: bool = False

    @property
    def timeout_s(self) -> float:
        if not self.by_deadline:
            return PLENTY_S
        at_a_file = self.fault is not None and self.fault[0] in {"file", "manifest_file"}
        return FILE_DEADLINE_S if at_a_file else DEADLINE_S


def status(code: int, times: int | None = None) -> tuple[tuple[str, Any], ...]:
    return (("status", code), ("times", times))


FAULTY: tuple[tuple[str, FaultKind]] = (("artifact", "status"),)
ROWS = [
    Row("no key", ModelAccessDenied, "No API key", environ=(("WANDB_API_KEY", None),)),
    Row("malformed key", ModelAccessDenied, "40+ characters", environ=(("WANDB_API_KEY", "abc"),)),
    Row("wrong key", ModelAccessDenied, "HTTP 401", environ=(("WANDB_API_KEY", "f" * 40),)),
    Row("may not read", ModelAccessDenied, "HTTP 403", ("artifact", "status"), status(403)),
    Row("session ended", ModelAccessDenied, "HTTP 401", ("artifact", "status"), status(401)),
    Row("file forbidden", ModelAccessDenied, "HTTP 403", ("file", "status"), status(403)),
    Row("no entity", ModelNotFound, "under entity 'nobody'", reference="nobody/registry/yolo:latest"),
    Row("no project", ModelNotFound, "project 'nothing'", reference="acme/nothing/yolo:latest"),
    Row("no collection", ModelNotFound, "'nothing:latest' not found", reference="acme/registry/nothing:latest"),
    Row("no alias", ModelNotFound, "'yolo:nothing' not found", reference="acme/registry/yolo:nothing"),
    Row("no version", ModelNotFound, "'yolo:v7' not found", reference="acme/registry/yolo:v7"),
    Row("no member", ModelNotFound, "it has args.yaml, best.pt", reference="acme/registry/yolo:v0#last.pt"),
    Row("server says 404", ModelNotFound, "HTTP 404", ("artifact", "status"), status(404)),
    Row("file is gone", ModelNotFound, "HTTP 404", ("file", "status"), status(404)),
    Row("server says 405", RegistryUnreachable, "HTTP 405: fault 405", ("artifact", "status"), status(405)),
    Row("server says no in GraphQL", RegistryUnreachable, "fault 200", ("artifact", "status"), status(200)),
    Row(
        "refused",
        RegistryTimedOut,
        "connection refused",
        environ=(("WANDB_BASE_URL", "http://127.0.0.1:9"),),
        by_deadline=True,
    ),
    Row("reset", RegistryTimedOut, "reset", ("graphql", "reset"), by_deadline=True),
    Row("reset twice", None, fault=("artifact", "reset"), options=(("times", 2),)),
    Row("500 for ever", RegistryTimedOut, "latest (HTTP 500: fault 500)", *FAULTY, status(500), by_deadline=True),
    Row("429 for ever", RegistryTimedOut, "latest (HTTP 429: fault 429)", *FAULTY, status(429), by_deadline=True),
    Row("429 four times", None, fault=("artifact", "status"), options=status(429, 4)),
    Row("503 at the first question", None, fault=("viewer", "status"), options=status(503, 3)),
    Row("502, then 3 s", None, fault=("manifest", "status"), options=(*status(502, 1), ("retry_after", "3"))),
    Row(
        "503, then an hour",
        RegistryTimedOut,
        "HTTP 503",
        ("artifact", "status"),
        (*status(503), ("retry_after", "3600")),
        by_deadline=True,
    ),
    Row("answer cut", RegistryTimedOut, "EOF", ("artifact", "truncated"), by_deadline=True),
    Row("answer cut twice", None, fault=("artifact", "truncated"), options=(("times", 2),)),
    Row(
        "server hangs",
        RegistryTimedOut,
        "still connecting to W&B",
        ("graphql", "hang"),
        by_deadline=True,
    ),
    Row("lookup hangs", RegistryTimedOut, "still looking up", ("artifact", "hang"), by_deadline=True),
    Row("features hang", RegistryTimedOut, f"after {DEADLINE_S:.0f} s", ("features", "hang"), by_deadline=True),
    Row("file URLs hang", RegistryTimedOut, "of 300000 bytes", ("file_urls", "hang"), by_deadline=True),
    Row("file host 500", RegistryTimedOut, "bytes; HTTP 500", ("file", "status"), status(500), by_deadline=True),
    Row("file host 503 four times", None, fault=("file", "status"), options=status(503, 4)),
    Row("file host 429, then 3 s", None, fault=("file", "status"), options=(*status(429, 1), ("retry_after", "3"))),
    Row("file host resets", RegistryTimedOut, "reset", ("file", "reset"), by_deadline=True),
    Row("file host hangs", RegistryTimedOut, "of 300000 bytes", ("file", "hang"), by_deadline=True),
    Row(
        "file host drips",
        ModelError,
        "of 300000 bytes",
        ("file", "slow"),
        (("bytes_per_s", 5000),),
        by_deadline=True,
    ),
    Row("manifest host 500", RegistryTimedOut, "HTTP 500", ("manifest_file", "status"), status(500), by_deadline=True),
    Row("manifest cut", RegistryTimedOut, "IncompleteRead", ("manifest_file", "truncated"), by_deadline=True),
    Row("file cut", RegistryTimedOut, "IncompleteRead", ("file", "truncated"), by_deadline=True),
    Row("file cut twice", None, fault=("file", "truncated"), options=(("times", 2),)),
    Row("short, honest length", ModelCorrupt, "bytes instead of", ("file", "short")),
    Row("wrong bytes, right length", ModelCorrupt, "does not have the digest", ("file", "wrong_bytes")),
    Row("wrong digest in the manifest", ModelCorrupt, "its manifest", ("manifest_file", "wrong_digest")),
    Row("half a manifest", ModelCorrupt, "cannot be read", ("manifest_file", "short")),
    Row("a manifest of wrong bytes", ModelCorrupt, "cannot be read", ("manifest_file", "wrong_bytes")),
    Row("a manifest of no known version", ModelCorrupt, "manifest version", ("manifest_file", "wrong_version")),
    Row("the user's W&B cache is broken", None, environ=(("WANDB_CACHE_DIR", "/dev/null/cache"),)),
]


@dataclass
class Outcome:
    model: ModelVersion | None
    error: ModelError | None
    elapsed_s: float
    left: list[psutil.Process]
    stored: int
    scratch: int


def play(row: Row, folder: Path) -> Outcome:
    site = build(folder)
    with site.server:
        for name, value in row.environ:
            site.environ.pop(name, None)
            if value is not None:
                site.environ[name] = value
        if row.fault is not None:
            site.server.fail(*row.fault, **dict(row.options))
        model, error = None, None
        began = time.monotonic()
        try:
            model = site.fetch(row.reference, timeout_s=row.timeout_s)
        except ModelError as caught:
            error = caught
        elapsed_s = time.monotonic() - began
        left = marked(site.mark)
    return Outcome(model, error, elapsed_s, left, len(site.store.list()), len([*(site.store.cache / "tmp").iterdir()]))


@pytest.fixture(scope="module")
def pool(forks: None) -> Iterator[ThreadPoolExecutor]:
    """A few at a time: most wait, but each starts the SDK's helper process, which takes a second of a processor."""
    with ThreadPoolExecutor(max_workers=8) as threads:
        yield threads


@pytest.fixture(scope="module")
def outcomes(pool: ThreadPoolExecutor, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Future[Outcome]]:
    """All rows: those that wait first, so that the others fill the gaps."""
    rows = sorted(ROWS, key=lambda row: not row.by_deadline)
    return {row.name: pool.submit(play, row, tmp_path_factory.mktemp("row")) for row in rows}


PAUSES = [(operation, form) for operation in ("artifact", "file") for form in ("seconds", "date")]


def pause(folder: Path, operation: str, form: str) -> float:
    """Seconds from an answer with `Retry-After` to the next question."""
    date = email.utils.formatdate(time.time() + 20, usegmt=True)  # enough for the child to come to where it is asked
    site = build(folder)
    with site.server:
        retry_after = {"seconds": "4", "date": date}[form]
        site.server.fail(operation, "status", status=429, times=1, retry_after=retry_after)
        site.fetch()
    asked = zip(site.server.requests, site.server.asked_at, strict=True)
    first, second = (at for what, at in asked if what == operation)
    return second - first


@pytest.fixture(scope="module")
def pauses(pool: ThreadPoolExecutor, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Future[float]]:
    """After the rows."""
    return {which: pool.submit(pause, tmp_path_factory.mktemp("pause"), *which) for which in PAUSES}


# --- what works -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("outcomes", "pauses")
def test_a_version_is_pinned_and_verified(site: Site) -> None:
    """The answer names version and digest as W&B has them, and the file has the logged bytes."""
    model = site.fetch()
    assert model.checkpoint.read_bytes() == CHECKPOINT
    assert model.sha256 == SHA256
    assert (model.name, model.version) == ("yolo", "v0")
    (origin,) = site.store.open(SHA256).origins
    assert origin.artifact_digest == site.server.collections["acme", "registry", "yolo"].versions[0].digest
    assert model.reference == "acme/registry/yolo:latest"


@pytest.mark.parametrize("entity", ["", "Acme/"])
def test_a_registry_link_knows_both_versions(quick_site: Site, entity: str) -> None:
    """A link has the registry's version and the version it was linked from, with and without the organization."""
    quick_site.server.log("acme/registry/yolo", {"best.pt": CHECKPOINT})
    quick_site.server.link("acme/registry/yolo:v1", "wandb-registry-Fall Models/detector", aliases=["production"])
    model = quick_site.fetch(f"{entity}wandb-registry-Fall Models/detector:production")
    assert (model.name, model.version) == ("detector", "v0")


def test_the_same_version_is_not_downloaded_again(quick_site: Site) -> None:
    """A second resolve asks W&B what the alias means, and fetches no file; a moved alias fetches the other version."""
    quick_site.fetch()
    files = quick_site.server.requests.count("file")
    assert quick_site.fetch().version == "v0"
    assert quick_site.server.requests.count("file") == files
    quick_site.server.log("acme/registry/yolo", {"best.pt": b"another"})
    assert quick_site.fetch().version == "v1"
    quick_site.server.move_alias("acme/registry/yolo", "latest", "v0")
    files = quick_site.server.requests.count("file")
    assert quick_site.fetch().sha256 == SHA256
    assert quick_site.server.requests.count("file") == files


def test_a_damaged_stored_checkpoint_is_downloaded_again(quick_site: Site) -> None:
    """One flipped byte in the store is noticed, and replaced by what W&B has."""
    path = quick_site.fetch().checkpoint
    path.write_bytes(bytes([CHECKPOINT[0] ^ 1]) + CHECKPOINT[1:])
    assert quick_site.fetch().checkpoint.read_bytes() == CHECKPOINT


def test_progress_counts_bytes(quick_site: Site) -> None:
    """The bytes reported rise from 0 to the artifact's size while it arrives."""
    quick_site.server.fail("file", "slow", bytes_per_s=150_000)
    reported: list[Progress] = []
    quick_site.fetch(report=reported.append)
    downloads = [progress for progress in reported if progress.fraction is not None]
    done = [progress.fraction for progress in downloads if progress.fraction is not None]
    assert done == sorted(done)
    assert done[0] == 0
    assert done[-1] == 1
    assert any(0.1 < value < 0.9 for value in done)
    assert downloads[-1].message == "downloading acme/registry/yolo:v0 (300000 of 300000 bytes)"


@pytest.mark.parametrize(
    ("files", "chosen"),
    [
        (["weights/epoch9.pt", "a.yaml"], "weights/epoch9.pt"),
        (["last.pt", "weights/best.pt", "best.onnx"], "weights/best.pt"),
        (["notbest.pt", "best.pt"], "best.pt"),
        (["best.onnx", "a.yaml"], "best.onnx"),
        (["m/best.onnx", "m/best.xml", "m/best.bin", "labels/1.xml"], "m/best.xml"),
        (["best_openvino_model.zip", "best.engine"], "best_openvino_model.zip"),
    ],
)
def test_the_checkpoint_is_chosen(files: list[str], chosen: str) -> None:
    """The one `.pt`, or `best.pt` among several; without any, an export."""
    assert choose_checkpoint(files, "acme/p/m:v0") == chosen


@pytest.mark.parametrize(
    ("files", "what", "why"),
    [
        (["a.pt", "b.pt"], "2 checkpoints", "it has a.pt, b.pt\nname one: `--model 'acme/p/m:v0#a.pt'`"),
        (["x/best.pt", "c.pt", "y/best.pt"], "3 checkpoints", "--model 'acme/p/m:v0#x/best.pt'"),
        (["a.onnx", "b.onnx"], "2 checkpoints", "--model 'acme/p/m:v0#a.onnx'"),
        (["best.engine", "a.yaml"], "best.engine is a TensorRT export", "give the .pt that it was made from"),
        (["best.xml", "a.yaml"], "no model that is served", "it has a.yaml, best.xml"),
        ([], "no model that is served", "it has nothing"),
        ([f"{index:02}.txt" for index in range(30)], "no model that is served", "09.txt and 20 more"),
    ],
)
def test_no_choice_is_an_error_that_lists(files: list[str], what: str, why: str) -> None:
    """Several checkpoints without one `best.pt`, or none: the error lists what is there."""
    with pytest.raises(CheckpointRefused) as caught:
        choose_checkpoint(files, "acme/p/m:v0")
    assert what in caught.value.what
    assert why in f"{caught.value.why}\n{caught.value.hint}"


def test_several_checkpoints_need_a_path(quick_site: Site) -> None:
    """The error offers a reference that works, and before it no file is downloaded."""
    quick_site.server.log("acme/p/m", {"a.pt": b"a", "b.pt": b"b"})
    with pytest.raises(CheckpointRefused, match="2 checkpoints") as caught:
        quick_site.fetch("acme/p/m:v0")
    assert caught.value.why == "it has a.pt, b.pt"
    assert "file" not in quick_site.server.requests
    offered = str(caught.value.hint).split("'")[1]
    assert offered == "acme/p/m:v0#a.pt"
    assert quick_site.fetch(offered).checkpoint.read_bytes() == b"a"


ELSEWHERE = {
    "data": "s3://bucket/data",
    "best.pt.sig": "gs://bucket/best.pt.sig",
    "images/1.jpg": "https://example.com/1.jpg",
    "labels": "file:///data/labels",
}


def test_only_the_checkpoint_is_downloaded(quick_site: Site) -> None:
    """Not what lies beside it, above it, or begins with its name; the manifest's digest still vouches for all of it."""
    others = {"best.pt.zip": os.urandom(1000), "data/images.tar": os.urandom(1000), "weights/best.pt.txt": b"x"}
    quick_site.server.log("acme/p/m", {"weights/best.pt": CHECKPOINT, "last.pt": b"last", **others})
    reported: list[Progress] = []
    model = quick_site.fetch("acme/p/m:v0", report=reported.append)
    assert model.sha256 == SHA256
    (origin,) = quick_site.store.open(SHA256).origins
    assert origin.artifact_digest == quick_site.server.collections["acme", "p", "m"].versions[0].digest
    assert quick_site.server.requests.count("file") == 1
    assert any(progress.message.endswith("(300000 of 300000 bytes)") for progress in reported)
    assert quick_site.fetch("acme/p/m:v0#last.pt").checkpoint.read_bytes() == b"last"
    assert quick_site.server.requests.count("file") == 2


EXPORT = {"m/best.xml": b"<net/>", "m/best.bin": os.urandom(1000), "m/metadata.yaml": b"task: detect"}


def test_an_export_is_stored_as_one_file_and_verified_in_all_its_parts(quick_site: Site, tmp_path: Path) -> None:
    """Its digest is that of the same folder on this machine, under another name."""
    quick_site.server.log("acme/p/m", {**EXPORT, "labels/1.xml": b"<annotation/>"})
    model = quick_site.fetch("acme/p/m:v0")
    assert model.artifact == "acme/p/m:v0#m/best.xml"
    assert quick_site.server.requests.count("file") == 3
    for path, data in EXPORT.items():
        (tmp_path / Path(path).name.replace("best", "mine")).write_bytes(data)
    assert sha256_of(pack(tmp_path / "mine.xml", tmp_path / "packed")) == model.sha256
    assert quick_site.fetch("acme/p/m:v0#m/best.xml").sha256 == model.sha256
    assert quick_site.server.requests.count("file") == 3


@pytest.mark.parametrize("damaged", EXPORT)
def test_damage_in_a_part_of_an_export_is_noticed(quick_site: Site, damaged: str) -> None:
    quick_site.server.log("acme/p/m", EXPORT)
    artifact = quick_site.server.collections["acme", "p", "m"].versions[0]
    manifest = artifact.manifest()
    artifact.manifest = lambda: manifest  # type: ignore[method-assign]
    artifact.files[damaged] = EXPORT[damaged][::-1]
    with pytest.raises(ModelCorrupt, match="not what it promised"):
        quick_site.fetch("acme/p/m:v0")


def test_an_export_without_its_metadata_or_with_a_part_elsewhere_is_refused(quick_site: Site) -> None:
    """Before anything of it is downloaded."""
    parts = {path: data for path, data in EXPORT.items() if not path.endswith(".yaml")}
    quick_site.server.log("acme/p/m", parts)
    with pytest.raises(CheckpointRefused) as caught:
        quick_site.fetch("acme/p/m:v0")
    assert caught.value.why == "metadata.yaml is not beside it"
    quick_site.server.log("acme/p/n", parts, references={"m/metadata.yaml": "s3://bucket/metadata.yaml"})
    with pytest.raises(CheckpointRefused, match=r"m/metadata\.yaml of acme/p/n:v0 is not stored in W&B"):
        quick_site.fetch("acme/p/n:v0")
    assert "file" not in quick_site.server.requests


def test_a_file_that_is_not_served_may_be_damaged(quick_site: Site) -> None:
    """What is not downloaded is not checked; what is, is."""
    quick_site.server.log("acme/p/m", {"best.pt": CHECKPOINT, "best.onnx": b"onnx"})
    artifact = quick_site.server.collections["acme", "p", "m"].versions[0]
    manifest = artifact.manifest()
    artifact.manifest = lambda: manifest  # type: ignore[method-assign]
    artifact.files["best.onnx"] = b"xnno"
    assert quick_site.fetch("acme/p/m:v0").sha256 == SHA256
    artifact.files["best.pt"] = CHECKPOINT[::-1]
    with pytest.raises(ModelCorrupt):
        Site(quick_site.server, Store(quick_site.store.cache / "other"), quick_site.environ, quick_site.mark).fetch(
            "acme/p/m:v0"
        )


def test_references_beside_the_checkpoint_are_left_alone(quick_site: Site) -> None:
    """The checkpoint has a digest; what the artifact points to elsewhere is neither fetched nor served."""
    quick_site.server.log("acme/p/m", {"best.pt": CHECKPOINT}, references=ELSEWHERE)
    assert quick_site.fetch("acme/p/m:v0").sha256 == SHA256
    assert quick_site.server.requests.count("file") == 1


@pytest.mark.parametrize("address", ELSEWHERE.values())
def test_a_checkpoint_elsewhere_is_refused(quick_site: Site, address: str) -> None:
    """No digest of W&B's vouches for a file that the artifact only points to; one that it has is offered."""
    quick_site.server.log("acme/p/m", {"last.pt": b"last"}, references={"best.pt": address})
    with pytest.raises(CheckpointRefused, match=r"best\.pt of acme/p/m:v0 is not stored in W&B") as caught:
        quick_site.fetch("acme/p/m:v0")
    assert address in str(caught.value.why)
    assert "file" not in quick_site.server.requests
    offered = str(caught.value.hint).split("'")[1]
    assert quick_site.fetch(offered).checkpoint.read_bytes() == b"last"


# --- whose registry ---------------------------------------------------------------------------------------------------


def test_a_registry_of_one_of_several_organizations_has_to_be_named(quick_site: Site) -> None:
    """Without it, the error lists them, and offers what works; an organization named in the settings is enough."""
    quick_site.server.link("acme/registry/yolo:v0", "wandb-registry-Models/yolo")
    quick_site.server.other_orgs = ["Umbrella", "Initech"]
    short = "wandb-registry-Models/yolo:latest"
    with pytest.raises(UsageError, match="does not say of which organization") as caught:
        quick_site.fetch(short)
    assert caught.value.why == "acme belongs to Acme, Initech, Umbrella"
    offered = str(caught.value.hint).split("'")[1]
    assert offered == f"Acme/{short}"
    assert quick_site.fetch(offered).sha256 == SHA256
    quick_site.environ["WANDB_ORGANIZATION"] = "Acme"
    assert quick_site.fetch(short).sha256 == SHA256
    with pytest.raises(UsageError):
        wandb_source.list_versions(
            artifact("Other/wandb-registry-Models/yolo"),
            quick_site.store,
            environ=quick_site.environ,
            timeout_s=PLENTY_S,
        )


@pytest.mark.parametrize("others", [[], ["Umbrella"]])
def test_an_organization_that_is_not_the_accounts_is_a_mistake(quick_site: Site, others: list[str]) -> None:
    """Which the error says, with those that are; a registry that its organization does not have is simply not found."""
    quick_site.server.other_orgs = others
    quick_site.server.link("acme/registry/yolo:v0", "wandb-registry-Models/yolo")
    with pytest.raises(UsageError, match="that acme does not belong to") as caught:
        quick_site.fetch("Other/wandb-registry-Models/yolo:latest")
    assert caught.value.why == f"acme belongs to {', '.join(['Acme', *others])}"
    with pytest.raises(ModelNotFound):
        quick_site.fetch("Acme/wandb-registry-Nothing/yolo:latest")


# --- patience ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["API", "storage"])
def test_a_certificate_that_is_not_trusted_is_not_waited_for(quick_site: Site, which: str, tmp_path: Path) -> None:
    """It would not change; so it ends at once, and not as a failure that a base model stands in for."""
    with WandbServer() as other:
        other._http.socket = untrusted_tls(tmp_path).wrap_socket(
            other._http.socket, server_side=True, do_handshake_on_connect=False
        )
        secured = other.url.replace("http://", "https://")
        if which == "API":
            quick_site.environ["WANDB_BASE_URL"] = secured
        quick_site.server.files_at = secured
        with pytest.raises(RegistryUnreachable, match="could not be asked") as caught:
            quick_site.fetch()
    assert type(caught.value) is RegistryUnreachable
    assert "certificate" in str(caught.value.why)


def test_impatience_ends_with_the_true_reason(quick_site: Site) -> None:
    """One that looks again later does not have to wait for the deadline, during which others wait for it."""
    quick_site.server.fail("artifact", "status", status=503)
    with pytest.raises(RegistryUnreachable) as caught:
        quick_site.fetch(patience_s=1)
    assert not isinstance(caught.value, RegistryTimedOut)
    assert caught.value.why == "HTTP 503: fault 503"


def test_what_is_in_the_way_is_told_while_it_is(quick_site: Site) -> None:
    """A person who waits sees why."""
    quick_site.server.fail("artifact", "status", status=429, times=2)
    reported: list[Progress] = []
    quick_site.fetch(report=reported.append)
    assert "looking up acme/registry/yolo:latest (HTTP 429: fault 429)" in [one.message for one in reported]


# --- processes, secrets, concurrency ----------------------------------------------------------------------------------


def test_eight_at_once_download_once(site: Site) -> None:
    """Eight concurrent resolves into one empty store all succeed, and the store holds one verified copy."""
    with ThreadPoolExecutor(8) as pool:
        models = [future.result() for future in [pool.submit(site.fetch) for _ in range(8)]]
    assert {(model.version, model.sha256) for model in models} == {("v0", SHA256)}
    assert [stored.sha256 for stored in site.store.list()] == [SHA256]
    assert site.store.open(SHA256).path.read_bytes() == CHECKPOINT
    assert site.server.requests.count("file") == 1


def test_a_lock_whose_holder_does_not_finish_is_no_wait_for_ever(quick_site: Site) -> None:
    """Waiting for another's download ends at the deadline, and the error says what it waited for."""
    digest = quick_site.server.collections["acme", "registry", "yolo"].versions[0].digest
    with quick_site.store.lock(f"acme/registry/yolo {digest}"), pytest.raises(ModelError) as caught:
        quick_site.fetch(timeout_s=ALONE_S)
    assert type(caught.value) is ModelError  # nothing stands in for what is about to come
    assert "still waiting for another process that downloads acme/registry/yolo:v0" in str(caught.value.why)


def test_a_file_host_that_refuses_while_the_api_lives_ends_at_the_deadline(quick_site: Site) -> None:
    """The SDK would try for minutes."""
    quick_site.server.files_at = "http://127.0.0.1:9"
    began = time.monotonic()
    with pytest.raises(RegistryUnreachable) as caught:
        quick_site.fetch(timeout_s=ALONE_S)
    assert time.monotonic() - began < ALONE_S + 2
    assert "of 300000 bytes" in str(caught.value.why)
    assert "file_urls" in quick_site.server.requests
    assert quick_site.store.list() == ()


@pytest.mark.parametrize("timeout_s", [0.3, 1.0, ALONE_S])
def test_a_deadline_leaves_no_folder(
    site: Site, timeout_s: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the child is still importing the SDK, or its helper is downloading: nobody writes there afterwards."""
    site.server.fail("file", "hang")
    folder = tmp_path / ("a name that leaves no room for that of a socket" * 3)
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    made = folder.stat().st_mtime_ns
    with pytest.raises(RegistryUnreachable):
        site.fetch(timeout_s=timeout_s)
    assert list((site.store.cache / "tmp").iterdir()) == []
    assert folder.stat().st_mtime_ns == made  # where nobody clears away what a killed process has left


def test_the_key_shows_nowhere(site: Site) -> None:
    """While a download hangs, no process has the key in its arguments; files are fetched without it."""
    site.server.fail("file", "hang")
    seen: list[list[str]] = []
    finished = threading.Event()

    def watch() -> None:
        while not finished.wait(0.2):
            for process in marked(site.mark):
                try:
                    seen.append(process.cmdline())
                except psutil.NoSuchProcess:
                    continue

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with pytest.raises(RegistryTimedOut):
            site.fetch(timeout_s=ALONE_S)
    finally:
        finished.set()
        watcher.join()
    assert any("wandb-core" in " ".join(arguments) for arguments in seen)
    assert API_KEY not in str(seen)
    assert site.server.seen_authorization["file"] == {None}
    assert site.server.seen_authorization["artifact"] != {None}


def test_a_crash_of_the_sdk_brings_its_last_words(quick_site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hint promises more with --verbose: it is a note, which the traceback shows, and it holds no secret."""

    def crash(*_: object, **__: object) -> None:
        raise ChildCrashed(1, f"Traceback\n  GET https://files/x?Signature=signed-secret {API_KEY}\nKeyError: 'x'\n")

    monkeypatch.setattr("detectctl.child.run", crash)
    with pytest.raises(ModelError, match="SDK failed") as caught:
        quick_site.fetch()
    assert caught.value.why == "KeyError: 'x'"
    (note,) = caught.value.__notes__
    assert "Traceback\n  GET https://files/x" in note
    assert API_KEY not in note
    assert "signed-secret" not in note


def test_the_key_is_not_kept(site: Site) -> None:
    """Nothing below the cache folder holds the key."""
    site.fetch()
    files = [path for path in site.store.cache.rglob("*") if path.is_file()]
    assert files
    assert not any(API_KEY.encode() in path.read_bytes() for path in files)


RESOLVE = """
import json, os, pathlib, sys
from detectctl.registry.resolve import resolve
model = resolve(sys.argv[1], cache=pathlib.Path(sys.argv[2]), environ=os.environ, timeout_s=60, fallback=False)
print(json.dumps([model.version, sorted({"wandb", "ray", "torch", "httpx", "requests"} & set(sys.modules))]))
"""


def start(site: Site, reference: str = "acme/registry/yolo:latest") -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", RESOLVE, reference, str(site.store.cache)]
    pipe = subprocess.PIPE
    return subprocess.Popen(arguments, env=site.environ, stdout=pipe, stderr=pipe, text=True)


def test_the_callers_process_never_imports_wandb(site: Site) -> None:
    """A process that has resolved a W&B reference has neither wandb nor another heavy module loaded."""
    with start(site) as process:
        out, err = process.communicate(timeout=60)
    assert out.strip() == '["v0", []]', err


def wait_until(condition: Any, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "kill -9"])
def test_a_hung_download_dies_with_its_caller(site: Site, sent: signal.Signals) -> None:
    """Ctrl-C ends a hung download at once, and even after `kill -9` no child stays."""
    site.server.fail("file", "hang")
    with start(site) as process:
        wait_until(lambda: "file" in site.server.requests, 40)
        assert len(marked(site.mark)) >= 3  # the caller, the child, wandb-core
        process.send_signal(sent)
        process.communicate(timeout=3)
    wait_until(lambda: marked(site.mark) == [], 5)
    if sent == signal.SIGINT:
        assert list((site.store.cache / "tmp").iterdir()) == []


# --- the table, which was begun with the first test -------------------------------------------------------------------


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_failure_keeps_its_promise(row: Row, outcomes: dict[str, Future[Outcome]]) -> None:
    """A failure is of its promised class, says why, comes in time, and leaves no process, file or secret."""
    outcome = outcomes[row.name].result()
    assert outcome.left == []
    assert outcome.scratch == 0
    assert outcome.elapsed_s < row.timeout_s + 2
    if row.error is None:
        assert outcome.error is None
        assert outcome.model is not None
        assert outcome.model.sha256 == SHA256
        return
    error = outcome.error
    assert type(error) is row.error
    assert row.reference in error.what
    assert row.says in str(error.why)
    assert error.hint
    assert f"{error.why} {error.hint}".count("wandb login") <= 1  # the SDK's own words may say it
    assert error.exit_code == 5
    assert outcome.stored == 0
    words = f"{error.what} {error.why} {error.hint} {error.__cause__}"
    assert API_KEY not in words
    assert "signed-secret" not in words
    assert all("\n" not in str(line) for line in (error.what, error.why, error.hint))


@pytest.mark.parametrize(("operation", "form"), PAUSES)
def test_retry_after_is_waited_for(operation: str, form: str, pauses: dict[tuple[str, str], Future[float]]) -> None:
    """By the SDK's helper process and by what downloads files, whether it is a number of seconds or a date."""
    assert pauses[operation, form].result() > 3
