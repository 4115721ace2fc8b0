"""Checkpoints on this machine, stored by the sha256 of their bytes, and what references last resolved to.

Below the cache folder, readable only by its owner:

```
checkpoints/SHA256/checkpoint.pt    the bytes, verified each time they are opened
checkpoints/SHA256/origins.json     where they came from: a checkpoint may be several versions of several artifacts
references/KEY.json                 the pin that a reference last resolved to, and what it turned out to be for
base/*.pt, base/*.pt.sha256         Ultralytics' own checkpoints, put there by hand; see `base_weights`
tmp/, locks/                        unfinished work, and its locks
locks/in-use-SHA256-*.lock          held while a process needs a checkpoint that no instance's state names
```
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import Timeout

from detectctl import files
from detectctl.errors import ModelCorrupt, ModelError
from detectctl.files import describe, remedy, sha256_of, temporary_folder, write_atomically
from detectctl.registry.model_version import ModelVersion

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from filelock import BaseFileLock

    from detectctl.wire import Task

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
    """The checkpoints below one cache folder, which processes may share: what is added appears at once and whole.

    All that reads or writes the folder raises ModelError if it cannot.
    """

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self._checkpoints = cache / "checkpoints"
        self._references = cache / "references"
        self._tmp = cache / "tmp"
        self._locks = cache / "locks"
        with self._usable():
            for folder in (cache, self._checkpoints, self._references, self._tmp, self._locks):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    @contextlib.contextmanager
    def _usable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise unusable(self.cache, error) from error

    def lock(self, key: str) -> BaseFileLock:
        """A lock between processes, released even if its holder dies; `key` is any text."""
        return files.lock(self._locks / f"{_short(key)}.lock")

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """A private folder on the store's file system, removed at the end, as are those that dead processes left."""
        with contextlib.ExitStack() as kept:
            with self._usable():
                for old in self._tmp.iterdir():
                    with contextlib.suppress(FileNotFoundError):
                        if time.time() - old.stat().st_mtime > _FORGOTTEN_AFTER_S:
                            shutil.rmtree(old, ignore_errors=True)
                folder = kept.enter_context(temporary_folder(self._tmp))
            yield folder

    def add(self, file: Path, origin: Origin, *, expected: str | None = None) -> StoredCheckpoint:
        """Move `file`, which is in a `scratch` folder, into the store; ModelCorrupt if its sha256 is not `expected`."""
        with self._usable():
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
                    origins = json.dumps([asdict(known) for known in stored.origins], indent=1)
                    write_atomically(stored.path.parent / "origins.json", origins, mode=0o600)
        return stored

    def copy(self, file: Path, origin: Origin, *, expected: str | None = None) -> StoredCheckpoint:
        """Add a copy of a file from anywhere; raises what `add` raises."""
        with self.scratch() as scratch:
            try:
                copied = Path(shutil.copyfile(file, scratch / "copy.pt"))
            except OSError as error:
                raise uncopied(file, error) from error
            return self.add(copied, origin, expected=expected)

    def open(self, sha256: str) -> StoredCheckpoint:
        """The checkpoint, verified; ModelCorrupt if it is not in the store, or was damaged there."""
        with self._usable():
            stored = self._sound(sha256)
        if stored is None:
            raise ModelCorrupt(
                f"the checkpoint {sha256[:12]} in {self._checkpoints} is missing or damaged",
                why="its bytes do not have the sha256 that they were stored under",
                hint="download it again: `detectctl up`",
            )
        return stored

    def find(self, origin: Origin) -> StoredCheckpoint | None:
        """The verified checkpoint of exactly this origin, or None if it is missing or damaged."""
        there = next((stored for stored in self.list() if origin in stored.origins), None)
        return self._sound(there.sha256) if there else None

    def list(self) -> tuple[StoredCheckpoint, ...]:
        """All checkpoints, unverified, by sha256."""
        with self._usable():
            return tuple(
                self._read(folder.name)
                for folder in sorted(self._checkpoints.iterdir())
                if (folder / "checkpoint.pt").is_file()
            )

    def remember(self, model: ModelVersion, *, site: str) -> None:
        """Note what `model.reference` means now; `site` separates servers and accounts that use the same names.

        What its version before was for stays noted, until the new one's task is.
        """
        with self._usable(), self.lock("store"):
            pin = asdict(model) | {"task": self.task_of(model.reference, site=site)}
            del pin["checkpoint"]
            write_atomically(self.record_of(model.reference, site=site), json.dumps(pin, indent=1), mode=0o600)

    def recall(self, reference: str, *, site: str) -> ModelVersion | None:
        """What `remember` noted of `reference`, verified; None if there is nothing, or nothing sound."""
        pin = self._pin(reference, site)
        # Never remembered, damaged, or pruned.
        with contextlib.suppress(OSError, KeyError, TypeError, ModelCorrupt):
            # Other versions of detectctl write other keys besides; a reference must outlive an upgrade.
            known = {item.name: pin[item.name] for item in fields(ModelVersion) if item.name in pin}
            return ModelVersion(**known | {"checkpoint": self.open(pin["sha256"]).path})
        return None

    def recorded(self, reference: str, *, site: str) -> str | None:
        """The sha256 that `remember` noted of `reference`, whether or not its bytes are still there."""
        return self._pin(reference, site).get("sha256")

    def task_of(self, reference: str, *, site: str) -> str | None:
        """What the version of `reference` was for whose task was noted last; None if none was."""
        return self._pin(reference, site).get("task")

    def note_task(self, sha256: str, task: Task) -> None:
        """Note what a checkpoint is for with each reference that means it."""
        with self._usable(), self.lock("store"):
            for record in self._references.glob("*.json"):
                pin = _read_pin(record)
                if pin.get("sha256") == sha256 and pin.get("task") != task:
                    write_atomically(record, json.dumps(pin | {"task": task}, indent=1), mode=0o600)

    def record_of(self, reference: str, *, site: str) -> Path:
        """The file in which `remember` notes what the reference means."""
        return self._references / f"{_short(f'{site} {reference}')}.json"

    def _pin(self, reference: str, site: str) -> dict[str, Any]:
        pin = _read_pin(self.record_of(reference, site=site))
        return pin if pin.get("reference") == reference else {}

    def hold(self, sha256: str) -> BaseFileLock:
        """Keep a checkpoint from `prune` until the lock is released, or its process ends in whatever way."""
        with self._usable(), self.lock("store"):
            held = files.lock(self._locks / f"in-use-{sha256}-{secrets.token_hex(4)}.lock")
            held.acquire(timeout=0)
        return held

    def held(self) -> frozenset[str]:
        """Sha256 of what living processes `hold`; the marks of dead ones are removed."""
        with self._usable(), self.lock("store"):
            return self._held()

    def _held(self) -> frozenset[str]:
        found = set()
        for mark in self._locks.glob("in-use-*.lock"):
            try:
                with files.lock(mark).acquire(timeout=0):
                    mark.unlink(missing_ok=True)
            except Timeout:
                found.add(mark.name.split("-")[2])
        return frozenset(found)

    def prune(self, keep: Collection[str], derived: Mapping[Path, str | None]) -> tuple[StoredCheckpoint, ...]:
        """Remove checkpoints, with what was made from them, whose sha256 is neither in `keep` nor held.

        Args:
            keep: sha256 of checkpoints.
            derived: folders below the cache → sha256 of the checkpoint that each was made from, None if unknown.

        Returns:
            The checkpoints that were removed.
        """
        with self._usable(), self.lock("store"):
            keep = self._held().union(keep)
            removed = tuple(stored for stored in self.list() if stored.sha256 not in keep)
            for stored in removed:
                self._remove(stored.path.parent)
            for folder, sha256 in derived.items():
                if sha256 not in keep:
                    self._remove(folder)
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
        except (OSError, ValueError, TypeError):  # only the bytes matter; where they came from is noted again
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

    def _remove(self, folder: Path) -> None:
        """Rename first, so that nobody finds half of it."""
        away = Path(tempfile.mkdtemp(dir=self._tmp))
        folder.rename(away / "removed")
        shutil.rmtree(away, ignore_errors=True)

    def _file(self, sha256: str) -> Path:
        return self._checkpoints / sha256 / "checkpoint.pt"


def uncopied(file: Path, error: OSError) -> ModelError:
    """The error for a file or folder that cannot be read, or a store that has no space for it."""
    return ModelError(f"{file} could not be copied into the store", why=describe(error), hint="check who may read it")


def unusable(cache: Path, error: OSError) -> ModelError:
    """The error for a cache folder that cannot be read or written."""
    return ModelError(
        f"the model store {cache} cannot be used",
        why=describe(error),
        hint=remedy(error, cache, "XDG_CACHE_HOME"),
    )


def _read_pin(record: Path) -> dict[str, Any]:
    """Empty if it is missing or damaged."""
    with contextlib.suppress(OSError, ValueError):
        pin = json.loads(record.read_text(encoding="utf-8"))
        return pin if isinstance(pin, dict) else {}
    return {}


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
