"""Ultralytics' own YOLOv8 checkpoints for COCO: known by sha256, so any source will do.

They are looked for in the store, then in the cache's `base/` folder (where a site without a network puts them, by any
name), then among the assets of Ultralytics' release, or in a mirror of them.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, NamedTuple

from filelock import Timeout

from detectctl.errors import ModelCorrupt, ModelNotFound, RegistryUnreachable, UsageError
from detectctl.files import sha256_of
from detectctl.http import Downloads, NoAnswer, Refused, TooLarge, TooSlow
from detectctl.progress import Progress, silent
from detectctl.registry.model_version import ModelVersion
from detectctl.registry.store import Origin, Store, StoredCheckpoint, unusable
from detectctl.waiting import Deadline

if TYPE_CHECKING:
    from pathlib import Path

    from detectctl.progress import Report

ASSETS_URL = "https://github.com/ultralytics/assets/releases/download/v8.4.0"

STALL_S = 15.0
"""After so long without a byte the assets count as unreachable, however much time is left."""


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
}


def base_model(
    name: str, store: Store, *, timeout_s: float, assets_url: str | None = None, report: Report = silent
) -> ModelVersion:
    """The base model `name`, a key of `KNOWN`; needs no network if its file is in the cache.

    A download may take `timeout_s`, and ends after `STALL_S` without a byte. It is of `NAME.pt` in the folder
    `assets_url` if that is given, instead of Ultralytics' release.

    Raises:
        RegistryUnreachable: the assets cannot be reached.
        ModelNotFound: the assets have no such file.
        ModelCorrupt: the file received has another sha256.
        UsageError: `assets_url` is not http(s).
    """
    known = KNOWN[name]
    stored = _from_store(store, known) or _from_drop_folder(name, store, known)
    if stored is None:
        stored = _download(name, store, Deadline.after(timeout_s), assets_url or ASSETS_URL, report)
    return ModelVersion(name, "base", name, None, stored.sha256, stored.path)


def _from_store(store: Store, known: _Known) -> StoredCheckpoint | None:
    try:
        return store.open(known.sha256)
    except ModelCorrupt:  # missing or damaged: downloaded again
        return None


def _from_drop_folder(name: str, store: Store, known: _Known) -> StoredCheckpoint | None:
    try:
        for file in sorted((store.cache / "base").glob("*.pt")):
            if file.stat().st_size == known.size and sha256_of(file) == known.sha256:
                return store.copy(file, Origin(name), expected=known.sha256)
    except OSError as error:
        raise unusable(store.cache / "base", error) from error
    return None


def _download(name: str, store: Store, deadline: Deadline, assets_url: str, report: Report) -> StoredCheckpoint:
    if not assets_url.startswith(("https://", "http://")):
        why = "it must begin with https:// or http://"
        raise UsageError(f"invalid assets URL {assets_url!r}", why=why, hint="check the setting assets-url")
    known, url = KNOWN[name], f"{assets_url.rstrip('/')}/{name}.pt"
    what = f"the base model {name} could not be downloaded from {url}"
    instead = f"pass `--model PATH.pt`, or put {name}.pt into {store.cache / 'base'}"
    try:
        # One at a time per file, so that several `up` download once.
        with store.lock(f"base {name}").acquire(timeout=deadline.left_s), store.scratch() as scratch:
            if stored := _from_store(store, known):
                return stored
            target = scratch / f"{name}.pt"
            with contextlib.suppress(TooLarge):  # too many bytes are the wrong bytes, as their digest will show
                _fetch(url, target, known.size, deadline, report)
            return store.add(target, Origin(name), expected=known.sha256)
    except NoAnswer as error:
        if isinstance(error, Refused) and error.answer.status in {404, 410}:
            raise ModelNotFound(f"{url} not found", why=str(error), hint=instead) from error
        raise RegistryUnreachable(what, why=str(error), hint=instead) from error
    except Timeout as error:
        why = "another process is downloading it and has not finished"
        raise RegistryUnreachable(what, why=why, hint=instead) from error
    except OSError as error:
        raise unusable(store.cache, error) from error


def _fetch(url: str, target: Path, size: int, deadline: Deadline, report: Report) -> None:
    done = 0
    try:
        with (
            target.open("wb") as file,
            contextlib.closing(Downloads()) as downloads,
            contextlib.closing(downloads.stream(url, deadline, max_bytes=size, stall_s=STALL_S)) as chunks,
        ):
            for chunk in chunks:
                done += file.write(chunk)
                report(Progress("resolve", f"downloading {target.stem}", fraction=done / size))
    except TooSlow as error:
        late = "in the time allowed" if deadline.passed else f"and then nothing for {STALL_S:g} s"
        raise TooSlow(f"received {done} of {size} bytes {late}") from error
