"""What a cluster is sent, and what a node makes of it."""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING

import pytest

from detectctl.errors import ModelCorrupt
from detectctl.hosts.cluster import carrier
from detectctl.serving import carried as carried_module
from detectctl.serving.carried import Carried

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

FILES = {"manifest.json": b"{}", "model.bin": bytes(range(256)) * 10, "model.xml": b"<net/>"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "compiled"
    made.mkdir()
    for name, data in FILES.items():
        (made / name).write_bytes(data)
    return made


def _fetched(sent: Iterable[carrier.Package], node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Ray does it on a node: each package in a folder of its own, all of them on Python's path."""
    for package in sent:
        home = node / package.file_name.removesuffix(".zip")
        with zipfile.ZipFile(io.BytesIO(package.data)) as archive:
            archive.extractall(home)
        monkeypatch.syspath_prepend(str(home))


def test_the_same_content_is_the_same_package() -> None:
    """Else each `up` would carry, and replace, what is there already."""
    assert carrier.code() == carrier.code()
    names = zipfile.ZipFile(io.BytesIO(carrier.code().data)).namelist()
    assert {"detectctl/serving/app.py", "detectctl/serving/page/app.js"} <= set(names)
    assert not any("__pycache__" in name for name in names)


@pytest.mark.parametrize("max_bytes", [carrier.MAX_BYTES, 1000, 37])
def test_a_model_arrives_as_it_was_whatever_the_packages_size(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, max_bytes: int
) -> None:
    monkeypatch.setattr(carrier, "MAX_BYTES", max_bytes)
    carried, sent = carrier.model(folder)
    assert all(len(package.data) < max_bytes + 1000 for package in sent)
    _fetched(sent, tmp_path / "node", monkeypatch)
    carried = Carried.from_json({"modules": list(carried.modules), "files": carried.files, "file": carried.file})
    for _ in range(2):  # by the next replica of the node as well
        there = carried.unpack()
        assert {name: (there / name).read_bytes() for name in FILES} == FILES


def test_a_checkpoint_arrives_as_a_file(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    carried, sent = carrier.model(folder / "model.bin")
    _fetched(sent, tmp_path / "node", monkeypatch)
    assert carried.unpack().read_bytes() == FILES["model.bin"]


def test_what_was_joined_and_then_changed_is_joined_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(carrier, "MAX_BYTES", 1000)
    carried, sent = carrier.model(folder)
    _fetched(sent, tmp_path / "node", monkeypatch)
    (carried.unpack() / "model.bin").write_bytes(b"other")
    assert (carried.unpack() / "model.bin").read_bytes() == FILES["model.bin"]


@pytest.mark.parametrize("max_bytes", [carrier.MAX_BYTES, 1000])
def test_changed_or_missing_bytes_are_fetched_anew(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, max_bytes: int
) -> None:
    """From where the cluster keeps them; a file that a replica has mapped is not written into."""
    monkeypatch.setattr(carrier, "MAX_BYTES", max_bytes)
    carried, sent = carrier.model(folder)
    _fetched(sent, tmp_path / "node", monkeypatch)
    monkeypatch.setattr(carried_module, "_kept", {package.uri: package.data for package in sent}.get)
    weights = carried.unpack() / "model.bin"
    for part in (tmp_path / "node").glob("*/*/model.bin"):
        other = part.with_name("other")
        other.write_bytes(part.read_bytes()[::-1])
        other.replace(part)
    weights.unlink()
    assert {name: (carried.unpack() / name).read_bytes() for name in FILES} == FILES
    with weights.open("rb") as mapped:
        for part in (tmp_path / "node").glob("*/*/model.xml"):
            part.unlink()
        weights.with_name("model.xml").unlink(missing_ok=True)
        assert {name: (carried.unpack() / name).read_bytes() for name in FILES} == FILES
        assert mapped.read() == FILES["model.bin"]


def test_changed_or_missing_bytes_are_never_served(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the cluster has nothing else, or no more."""
    carried, sent = carrier.model(folder)
    with pytest.raises(ModelCorrupt, match="is not on this node"):
        carried.unpack()
    _fetched(sent, tmp_path / "node", monkeypatch)
    [package] = sent
    weights = carried.unpack() / "model.bin"
    weights.write_bytes(FILES["model.bin"][::-1])
    monkeypatch.setattr(carried_module, "_kept", {}.get)
    with pytest.raises(ModelCorrupt, match="could not be fetched anew") as refused:
        carried.unpack()
    assert package.uri in str(refused.value.why)
    (folder / "model.bin").write_bytes(b"other")
    [other] = [bytes(one.data) for one in carrier.model(folder)[1]]
    renamed = other.replace(carrier.model(folder)[0].modules[0].encode(), carried.modules[0].encode())
    monkeypatch.setattr(carried_module, "_kept", {package.uri: renamed}.get)
    with pytest.raises(ModelCorrupt, match=r"model\.bin of the model is not what was sent"):
        carried.unpack()
