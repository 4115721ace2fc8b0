"""Ultralytics' own checkpoints: known by their sha256, so any source will do.

It is one of `KNOWN`; or the one that was recorded when the name was first used on this machine, so that a name keeps
its meaning; or, the first time, what the release or mirror publishes.

They are looked for in the store, then in the cache's `base/` folder (where a site without a network puts them), then
among the assets of Ultralytics' release, or in a mirror of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from filelock import Timeout

from detectctl.addresses import masked
from detectctl.errors import ModelCorrupt, RegistryUnreachable, UsageError
from detectctl.files import sha256_of
from detectctl.progress import silent
from detectctl.registry.assets import ASSETS_URL, Asset, Assets, digest_in
from detectctl.registry.base_names import BASE_NAMES
from detectctl.registry.model_version import ModelVersion
from detectctl.registry.store import Origin, Store, StoredCheckpoint, unusable
from detectctl.waiting import Deadline

if TYPE_CHECKING:
    from detectctl.progress import Report

_SITE = "ultralytics"
"""Under which the store remembers what a base model's name means."""


class _Known(NamedTuple):
    sha256: str
    size: int


# The digests that GitHub publishes for the release assets; each was found the same in two or more unrelated projects.
KNOWN = {
    "yolov8n": _Known("f59b3d833e2ff32e194b5bb8e08d211dc7c5bdf144b90d2c8412c47ccfc83b36", 6_549_796),
    "yolov8s": _Known("1f47a78bf100391c2a140b7ac73a1caae18c32779be7d310658112f7ac9aa78a", 22_588_772),
    "yolov8m": _Known("5d4a90cdc7a21786cc59cd19778e9eafff836df9e2da32524737c7ee6efe4fe5", 52_136_884),
    "yolov8l": _Known("64c9115303f6a25575f82200d1b22ec409fa6bd7d08d0313884fc20d919478cd", 87_792_836),
    "yolov8x": _Known("3df4ada6b4dad6d657868f2fdf7faecfb34dcfccf3a25c4b82079064718524c8", 136_890_692),
    "yolo11n-pose": _Known("869e83fcdffdc7371fa4e34cd8e51c838cc729571d1635e5141e3075e9319dc0", 6_255_593),
}


def base_model(
    name: str, store: Store, *, timeout_s: float, assets_url: str | None = None, report: Report = silent
) -> ModelVersion:
    """The base model `name`, one of `BASE_NAMES`; needs no network if its file is in the cache.

    A download may take `timeout_s`, and ends after `STALL_S` without a byte. It is of `NAME.pt` in the folder
    `assets_url` if that is given, instead of Ultralytics' release.

    Raises:
        RegistryUnreachable: the assets cannot be reached.
        ModelNotFound: the assets have no such file, or no digest of it.
        ModelCorrupt: the file received has another sha256, or what is published now is not what was recorded.
        UsageError: `assets_url` is not http(s).
    """
    stored = _stored(name, store)
    if stored is None:
        stored = _download(name, store, Deadline.after(timeout_s), (assets_url or ASSETS_URL).rstrip("/"), report)
    return _version(name, stored)


def needs_download(name: str, store: Store) -> bool:
    """Whether the base model has to be downloaded before it can be served."""
    return _stored(name, store) is None


def _stored(name: str, store: Store) -> StoredCheckpoint | None:
    return _from_store(name, store) or _from_drop_folder(name, store)


def kept_bases(store: Store) -> dict[str, str]:
    """Names of the base models that are in the store, unverified → sha256."""
    there = {stored.sha256 for stored in store.list()}
    digests = {name: _digest(name, store) for name in BASE_NAMES}
    return {name: sha256 for name, sha256 in digests.items() if sha256 in there}


def _version(name: str, stored: StoredCheckpoint) -> ModelVersion:
    return ModelVersion(name, "base", name, None, stored.sha256, stored.path)


def _digest(name: str, store: Store) -> str | None:
    """The sha256 that the model must have, if it is known without asking anybody."""
    return KNOWN[name].sha256 if name in KNOWN else store.recorded(name, site=_SITE)


def _from_store(name: str, store: Store) -> StoredCheckpoint | None:
    sha256 = _digest(name, store)
    try:
        return store.open(sha256) if sha256 else None
    except ModelCorrupt:  # missing or damaged: downloaded again
        return None


def _from_drop_folder(name: str, store: Store) -> StoredCheckpoint | None:
    """A file of any name that has the right bytes; which these are, `NAME.pt.sha256` beside it may say."""
    folder = store.cache / "base"
    sha256, beside = _digest(name, store), folder / f"{name}.pt.sha256"
    try:
        if sha256 is None and beside.is_file():
            sha256 = digest_in(beside.read_text(errors="replace"))
        for file in sorted(folder.glob("*.pt")) if sha256 else ():
            if sha256_of(file) == sha256:
                return _recorded(name, store, store.copy(file, Origin(name), expected=sha256))
    except OSError as error:
        raise unusable(folder, error) from error
    return None


def _recorded(name: str, store: Store, stored: StoredCheckpoint) -> StoredCheckpoint:
    """The same; from now on the name means these bytes."""
    if name not in KNOWN:
        store.remember(_version(name, stored), site=_SITE)
    return stored


def _download(name: str, store: Store, deadline: Deadline, assets_url: str, report: Report) -> StoredCheckpoint:
    if not assets_url.startswith(("https://", "http://")):
        why = "it must begin with https:// or http://"
        raise UsageError(f"invalid assets URL {masked(assets_url)!r}", why=why, hint="check the setting assets-url")
    recorded = _digest(name, store)
    files = f"{name}.pt" if recorded else f"{name}.pt and {name}.pt.sha256"
    instead = f"pass `--model PATH.pt`, or put {files} into {store.cache / 'base'}"
    assets = Assets(assets_url, deadline, instead)
    try:
        # One at a time per file, so that several `up` download once.
        with store.lock(f"base {name}").acquire(timeout=deadline.left_s), store.scratch() as scratch:
            if stored := _from_store(name, store):
                return stored
            file = f"{name}.pt"
            asset = Asset(f"{assets_url}/{file}", *KNOWN[name]) if name in KNOWN else assets.find(file)
            if recorded not in {None, asset.sha256}:
                raise ModelCorrupt(
                    f"{name} has changed since it was first used here",
                    why=f"its sha256 was {recorded}, and {masked(assets_url)} now says {asset.sha256}",
                    hint=f"put the old {file} into {store.cache / 'base'}; or, to accept the new one, delete "
                    f"{store.record_of(name, site=_SITE)}",
                )
            target = scratch / file
            assets.download(asset, target, report)
            return _recorded(name, store, store.add(target, Origin(name), expected=asset.sha256))
    except Timeout as error:
        what = f"the base model {name} could not be downloaded"
        why = "another process is downloading it and has not finished"
        raise RegistryUnreachable(what, why=why, hint=instead) from error
    except OSError as error:
        raise unusable(store.cache, error) from error
