"""Checkpoints on this machine, kept by the sha256 of their bytes, and what references last resolved to.

Below the cache folder, readable by its owner only:

```
checkpoints/SHA256/checkpoint.pt    the bytes, verified whenever they are opened
checkpoints/SHA256/origins.json     where they came from: a checkpoint may be several versions of several artifacts
references/KEY.json                 the pin that a reference last resolved to
base/*.pt                           for a person to drop Ultralytics' own checkpoints in; see `base`
tmp/, locks/                        unfinished work, and who does it
locks/in-use-SHA256-*.lock          held while a process needs a checkpoint that no instance's state names
```
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from detectctl.errors import ModelCorrupt, ModelError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from filelock import BaseFileLock

    from detectctl.registry.model_version import ModelVersion

_FORGOTTEN_AFTER_S = 24 * 3600


@dataclass(frozen=True, slots=True)
class Origin:
    """One place that a checkpoint came from.

    Attributes:
        name: what answers call the model.
        artifact: `entity/project/collection` on W&B; None for base models and local files.
        version: W&B's `vN`.
        artifact_digest: W&B's digest of the whole artifact.
        member: path of the checkpoint inside the artifact.
    """

    name: str
    artifact: str | None = None
    version: str | None = None
    artifact_digest: str | None = None
    member: str | None = None


@dataclass(frozen=True, slots=True)
class StoredCheckpoint:
    """A checkpoint in the store; `size` in bytes."""

    sha256: str
    path: Path
    size: int
    origins: tuple[Origin, ...]


class Store:
    """The checkpoints below one cache folder. Processes may share it: what is added appears at once and whole."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self._checkpoints = cache / "checkpoints"
        self._references = cache / "references"
        self._tmp = cache / "tmp"
        self._locks = cache / "locks"
        try:
            for folder in (cache, self._checkpoints, self._references, self._tmp, self._locks):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise unusable(cache, error) from error

    def lock(self, key: str) -> FileLock:
        """A lock between processes, unlocked also when its holder dies; `key` is any text."""
        return FileLock(self._locks / f"{_short(key)}.lock", mode=0o600)

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """A private folder on the store's file system, removed at the end; remains of the dead are removed too."""
        try:
            for old in self._tmp.iterdir():
                with contextlib.suppress(FileNotFoundError):
                    if time.time() - old.stat().st_mtime > _FORGOTTEN_AFTER_S:
                        shutil.rmtree(old, ignore_errors=True)
            folder = Path(tempfile.mkdtemp(dir=self._tmp))
        except OSError as error:
            raise unusable(self.cache, error) from error
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def add(self, file: Path, origin: Origin, *, expected: str | None = None) -> StoredCheckpoint:
        """Move `file`, which lies in a `scratch` folder, into the store.

        Raises:
            ModelCorrupt: its sha256 is not `expected`.
            ModelError: the file system refuses.
        """
        try:
            sha256 = sha256_of(file)
            if expected is not None and sha256 != expected:
                raise ModelCorrupt(
                    f"{origin.name} is not the file it should be",
                    why=f"its sha256 is {sha256}, not {expected}",
                    hint="try again; if it persists, check the file at its source",
                )
            with self.lock("store"):
                if self._sound(sha256) is None:
                    self._put(file, sha256)
                stored = self._read(sha256)
                if origin not in stored.origins:
                    stored = replace(stored, origins=(*stored.origins, origin))
                    self._write_origins(stored)
        except OSError as error:
            raise unusable(self.cache, error) from error
        return stored

    def copy(self, file: Path, origin: Origin, *, expected: str | None = None) -> StoredCheckpoint:
        """Add a copy of a file that lies anywhere; see `add` for what it raises."""
        with self.scratch() as scratch:
            try:
                copied = Path(shutil.copyfile(file, scratch / "copy.pt"))
            except OSError as error:
                raise ModelError(
                    f"{file} could not be copied into the store", why=describe(error), hint="check who may read it"
                ) from error
            return self.add(copied, origin, expected=expected)

    def open(self, sha256: str) -> StoredCheckpoint:
        """A checkpoint whose bytes have just been verified.

        Raises:
            ModelCorrupt: it is not in the store, or was damaged there.
        """
        try:
            stored = self._sound(sha256)
        except OSError as error:
            raise unusable(self.cache, error) from error
        if stored is None:
            raise ModelCorrupt(
                f"the checkpoint {sha256[:12]} in {self._checkpoints} is missing or damaged",
                why="its bytes do not have the sha256 that they were stored under",
                hint="download it again: `detectctl up`",
            )
        return stored

    def find(self, artifact: str, version: str, artifact_digest: str, member: str) -> StoredCheckpoint | None:
        """The verified checkpoint of exactly this version, or None if it is missing or damaged."""
        for stored in self.list():
            for origin in stored.origins:
                found = (origin.artifact, origin.version, origin.artifact_digest, origin.member)
                if found == (artifact, version, artifact_digest, member):
                    return self._sound(stored.sha256)
        return None

    def list(self) -> tuple[StoredCheckpoint, ...]:
        """All checkpoints, unverified, by sha256; ModelError if the folder cannot be read."""
        try:
            return tuple(
                self._read(folder.name)
                for folder in sorted(self._checkpoints.iterdir())
                if (folder / "checkpoint.pt").is_file()
            )
        except OSError as error:
            raise unusable(self.cache, error) from error

    def remember(self, model: ModelVersion, *, site: str) -> None:
        """Note what `model.reference` means now; `site` tells servers and accounts apart that use the same names.

        Raises:
            ModelError: the file system refuses.
        """
        pin = asdict(model)
        del pin["checkpoint"]
        try:
            _write_atomically(self._reference(model.reference, site), json.dumps(pin, indent=1))
        except OSError as error:
            raise unusable(self.cache, error) from error

    def recall(self, reference: str, *, site: str) -> dict[str, Any] | None:
        """The fields of the `ModelVersion` remembered for `reference`, its `checkpoint` aside; None if there is none.

        Whether the checkpoint is still there and sound is for `open` to say.
        """
        try:
            pin = json.loads(self._reference(reference, site).read_text(encoding="utf-8"))
        except (OSError, ValueError):  # never remembered, or damaged: both mean that nothing is known
            return None
        return pin if isinstance(pin, dict) and pin.get("reference") == reference else None

    def hold(self, sha256: str) -> BaseFileLock:
        """Keep a checkpoint from `prune` until the lock is released, or its process ends, however that happens."""
        try:
            with self.lock("store"):
                held = FileLock(self._locks / f"in-use-{sha256}-{secrets.token_hex(4)}.lock", mode=0o600)
                held.acquire(timeout=0)
        except OSError as error:
            raise unusable(self.cache, error) from error
        return held

    def held(self) -> frozenset[str]:
        """Sha256 of what living processes `hold`; the marks of others are removed."""
        try:
            with self.lock("store"):
                return self._held()
        except OSError as error:
            raise unusable(self.cache, error) from error

    def _held(self) -> frozenset[str]:
        found = set()
        for mark in self._locks.glob("in-use-*.lock"):
            probe = FileLock(mark, mode=0o600)
            try:
                with probe.acquire(timeout=0):
                    mark.unlink(missing_ok=True)
            except Timeout:
                found.add(mark.name.split("-")[2])
        return frozenset(found)

    def prune(self, keep: Collection[str]) -> tuple[StoredCheckpoint, ...]:
        """Remove checkpoints, with their compiled models, whose sha256 is neither in `keep` nor held.

        Returns:
            What was removed.
        """
        from detectctl.engine.compiled import MANIFEST

        try:
            with self.lock("store"):
                keep = self._held().union(keep)
                removed = tuple(stored for stored in self.list() if stored.sha256 not in keep)
                for stored in removed:
                    self._remove(stored.path.parent)
                for manifest in (self.cache / "compiled").glob(f"*/{MANIFEST}"):
                    if _checkpoint_of(manifest) not in keep:
                        self._remove(manifest.parent)
        except OSError as error:
            raise unusable(self.cache, error) from error
        return removed

    def _sound(self, sha256: str) -> StoredCheckpoint | None:
        try:
            sound = sha256_of(self._file(sha256)) == sha256
        except FileNotFoundError:
            return None
        return self._read(sha256) if sound else None

    def _read(self, sha256: str) -> StoredCheckpoint:
        file = self._file(sha256)
        try:
            origins = json.loads((file.parent / "origins.json").read_text(encoding="utf-8"))
            known = tuple(Origin(**origin) for origin in origins)
        except (OSError, ValueError, TypeError):  # the bytes are what counts; their story can be told again
            known = ()
        return StoredCheckpoint(sha256, file, file.stat().st_size, known)

    def _put(self, file: Path, sha256: str) -> None:
        target = self._file(sha256).parent
        prepared = Path(tempfile.mkdtemp(dir=self._tmp))
        file.rename(prepared / "checkpoint.pt")
        (prepared / "checkpoint.pt").chmod(0o600)
        if target.exists():  # a damaged one
            self._remove(target)
        prepared.rename(target)

    def _write_origins(self, stored: StoredCheckpoint) -> None:
        origins = [asdict(origin) for origin in stored.origins]
        _write_atomically(stored.path.parent / "origins.json", json.dumps(origins, indent=1))

    def _remove(self, folder: Path) -> None:
        """Rename first, so that nobody finds half of it."""
        away = Path(tempfile.mkdtemp(dir=self._tmp))
        folder.rename(away / "removed")
        shutil.rmtree(away, ignore_errors=True)

    def _file(self, sha256: str) -> Path:
        return self._checkpoints / sha256 / "checkpoint.pt"

    def _reference(self, reference: str, site: str) -> Path:
        return self._references / f"{_short(f'{site} {reference}')}.json"


def sha256_of(file: Path) -> str:
    """Hex digest of the file's bytes; raises OSError."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def unusable(cache: Path, error: OSError) -> ModelError:
    """The error for a cache folder in which nothing can be written or read."""
    return ModelError(
        f"the model store {cache} cannot be used",
        why=describe(error),
        hint="check the folder's owner and free space, or point XDG_CACHE_HOME elsewhere",
    )


def describe(error: OSError) -> str:
    """One line: what the system says, and about which file."""
    return f"{error.strerror or error}" + (f": {error.filename}" if error.filename else "")


def _checkpoint_of(manifest: Path) -> str | None:
    try:
        data = json.loads(manifest.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return data.get("checkpoint_sha256") if isinstance(data, dict) else None


def _write_atomically(path: Path, text: str) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(name).rename(path)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
