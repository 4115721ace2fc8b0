"""Ultralytics' own YOLOv8 checkpoints for COCO: known by sha256, so it does not matter who hands them over.

In this order: the store; a file dropped into the cache's `base/` folder (any name, recognized by its bytes; for sites
without a network); Ultralytics' release assets, or a mirror of them, over HTTPS.
"""

from __future__ import annotations

import queue
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from detectctl.errors import ModelCorrupt, ModelError, ModelNotFound, RegistryUnreachable, UsageError
from detectctl.registry.model_version import ModelVersion
from detectctl.registry.store import Origin, Store, StoredCheckpoint, describe, sha256_of, unusable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any

    import httpx

RELEASE = "v8.4.0"
ASSETS_URL = f"https://github.com/ultralytics/assets/releases/download/{RELEASE}"

STALL_S = 15.0
"""Without a byte for so long, the assets count as unreachable, whatever time is left."""


@dataclass(frozen=True, slots=True)
class _Known:
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
    name: str,
    store: Store,
    *,
    timeout_s: float,
    assets_url: str | None = None,
    on_event: Callable[[dict[str, Any]], None] | None = None,
) -> ModelVersion:
    """The base model `name`, without a network if its file is in the cache already.

    Args:
        name: a key of `KNOWN`.
        store: where it is looked for and put.
        timeout_s: seconds for the download; it also ends after `STALL_S` without a byte.
        assets_url: the address of a folder with `NAME.pt`, instead of Ultralytics' release.
        on_event: called with `{"event": "download", "done": bytes, "total": bytes}`.

    Raises:
        RegistryUnreachable: the assets cannot be reached.
        ModelNotFound: the assets have no such file.
        ModelCorrupt: what came has another sha256.
        UsageError: `assets_url` is not http(s).
    """
    known = KNOWN[name]
    stored = _from_store(store, known) or _from_drop_folder(name, store, known)
    if stored is None:
        stored = _download(name, store, known, timeout_s, assets_url or ASSETS_URL, on_event)
    return ModelVersion(name, "base", name, None, stored.sha256, stored.path, stored.size)


def import_base(file: Path, store: Store) -> str | None:
    """Put a base model's file that lies elsewhere into the store; its name, or None if the bytes are no base model's.

    Raises:
        ModelError: the file cannot be read, or the store not be written.
    """
    try:
        sha256 = sha256_of(file)
    except OSError as error:
        raise ModelError(f"{file} cannot be read", why=describe(error)) from error
    for name, known in KNOWN.items():
        if known.sha256 == sha256:
            store.copy(file, Origin(name), expected=sha256)
            return name
    return None


def _from_store(store: Store, known: _Known) -> StoredCheckpoint | None:
    try:
        return store.open(known.sha256)
    except ModelCorrupt:  # missing or damaged: it is fetched again
        return None


def _from_drop_folder(name: str, store: Store, known: _Known) -> StoredCheckpoint | None:
    try:
        for file in sorted((store.cache / "base").glob("*.pt")):
            if file.stat().st_size == known.size and sha256_of(file) == known.sha256:
                return store.copy(file, Origin(name), expected=known.sha256)
    except OSError as error:
        raise unusable(store.cache / "base", error) from error
    return None


def _download(
    name: str,
    store: Store,
    known: _Known,
    timeout_s: float,
    assets_url: str,
    on_event: Callable[[dict[str, Any]], None] | None,
) -> StoredCheckpoint:
    if not assets_url.startswith(("https://", "http://")):
        raise UsageError(f"{assets_url!r} is no address of assets", why="it does not begin with https:// or http://")
    url = f"{assets_url.rstrip('/')}/{name}.pt"
    # One at a time per file, so that several `up` download once.
    lock = store.lock(f"base {name}")
    deadline = time.monotonic() + timeout_s
    try:
        lock.acquire(timeout=max(0.0, timeout_s))  # to filelock less than nothing means for ever
    except TimeoutError as error:
        raise _unreachable(name, store, url, "another process downloads it and did not finish") from error
    except OSError as error:
        raise unusable(store.cache, error) from error
    with lock, store.scratch() as scratch:
        stored = _from_store(store, known)
        if stored is not None:
            return stored
        target = scratch / f"{name}.pt"
        _fetch(_Transfer(url, target, known.size), name, store, deadline, on_event)
        return store.add(target, Origin(name), expected=known.sha256)


class _Transfer:
    """One download in a thread: name resolution and connecting to many addresses know no deadline of their own.

    `progress` gets the number of bytes so far, then None at the end or the exception that ended it.
    """

    def __init__(self, url: str, target: Path, size: int) -> None:
        self.url, self.target, self.size = url, target, size
        self.progress: queue.SimpleQueue[int | Exception | None] = queue.SimpleQueue()
        self.cancelled = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._run, daemon=True, name=f"download {self.url}").start()

    def _run(self) -> None:
        import httpx

        try:  # ValueError and ImportError are httpx's words for a proxy setting that it cannot use
            with (
                httpx.Client(follow_redirects=True, timeout=STALL_S) as client,
                client.stream("GET", self.url) as response,
                self.target.open("wb") as file,
            ):
                response.raise_for_status()
                done = 0
                for chunk in response.iter_bytes(1 << 16):
                    done += len(chunk)
                    if done > self.size or self.cancelled.is_set():
                        break  # too many bytes are the wrong bytes, which their digest will tell
                    file.write(chunk)
                    self.progress.put(done)
            self.progress.put(None)
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, ImportError, OSError) as error:
            self.progress.put(error)


def _fetch(
    transfer: _Transfer,
    name: str,
    store: Store,
    deadline: float,
    on_event: Callable[[dict[str, Any]], None] | None,
) -> None:
    import httpx

    done = 0
    transfer.start()
    try:
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                why = f"only {done} of {transfer.size} bytes came in the time given"
                raise _unreachable(name, store, transfer.url, why)
            step = transfer.progress.get(timeout=min(STALL_S, left))
            if step is None:
                return
            if isinstance(step, Exception):
                raise step
            done = step
            if on_event is not None:
                on_event({"event": "download", "done": done, "total": transfer.size})
    except queue.Empty as error:
        why = f"{done} of {transfer.size} bytes came, then nothing more"
        raise _unreachable(name, store, transfer.url, why) from error
    except httpx.HTTPStatusError as error:
        raise _refused(name, store, transfer.url, error) from error
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, ImportError) as error:
        raise _unreachable(name, store, transfer.url, str(error) or type(error).__name__) from error
    except OSError as error:
        raise unusable(store.cache, error) from error
    finally:
        transfer.cancelled.set()


def _refused(name: str, store: Store, url: str, error: httpx.HTTPStatusError) -> ModelError:
    status = error.response.status_code
    if status in {404, 410}:
        return ModelNotFound(f"there is no {name} at {url}", why=f"HTTP {status}", hint=_way_round(name, store))
    return _unreachable(name, store, url, f"HTTP {status}")


def _unreachable(name: str, store: Store, url: str, why: str) -> RegistryUnreachable:
    return RegistryUnreachable(
        f"the base model {name} could not be downloaded from {url}", why=why, hint=_way_round(name, store)
    )


def _way_round(name: str, store: Store) -> str:
    return f"--model PATH.pt serves a checkpoint you have; {name}.pt in {store.cache / 'base'} serves as {name}"
