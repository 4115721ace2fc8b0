"""Folders that a service needs: whether they can be written, have room, and let programs run."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from detectctl import files
from detectctl.doctor.finding import Finding, Subject, failure, ok, warning
from detectctl.files import reason, remedy
from detectctl.hosts.local.ray_head import temporary_parent
from detectctl.registry.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_ENOUGH = 1 << 30
"""Bytes for logs, downloads and conversions; Ray complains when 95 % of a disk are used."""


def temporary(subject: Subject) -> Iterator[Finding]:
    """Where Ray and HAProxy have their files."""
    wanted, found = subject.variables.get("TMPDIR"), temporary_parent(subject.variables)
    if wanted:
        try:
            files.probe(wanted)
        except OSError as error:
            yield warning(
                f"TMPDIR={_shortened(wanted)} cannot be used: {reason(error)}; {found} is used instead",
                remedy(error, _shortened(wanted), "TMPDIR"),
            )
    if os.statvfs(found).f_flag & os.ST_NOEXEC:
        yield warning(
            f"{found} is mounted noexec: libraries that compile or unpack programs there fail",
            "set TMPDIR to a folder that is not mounted noexec",
        )
    yield _room(found, "TMPDIR")


def state(subject: Subject) -> Iterator[Finding]:
    """What runs, and generated keys."""
    folder = subject.paths.state
    there = next(each for each in (folder, *folder.parents) if os.path.lexists(each))
    try:
        files.probe(there)
        if there == folder:
            probe = folder / f".doctor-{os.getpid()}.lock"
            try:
                with files.lock(probe, 0):
                    pass
            finally:
                probe.unlink(missing_ok=True)
    except OSError as error:
        fix = remedy(error, there, "HOME or XDG_STATE_HOME")
        yield failure(f"{there} cannot be used for {folder}: {reason(error)}", fix)
        return
    yield _room(there, "XDG_STATE_HOME")


def cache(subject: Subject) -> Iterator[Finding]:
    """Models as they were downloaded, and converted."""
    store = Store(subject.paths.cache)
    with store.lock("doctor"), store.scratch() as scratch:
        try:
            files.probe(scratch)
        except OSError as error:
            yield failure(
                f"{store.cache} cannot be used: {reason(error)}", remedy(error, store.cache, "XDG_CACHE_HOME")
            )
            return
    yield _room(store.cache, "XDG_CACHE_HOME")


def _room(folder: Path, variable: str) -> Finding:
    free = shutil.disk_usage(folder).free
    if free < _ENOUGH:
        return warning(
            f"{folder} has {free >> 20} MiB free, which models and logs may need",
            f"free some space, or set {variable} to a folder that has {_ENOUGH >> 30} GiB",
        )
    return ok(f"{folder} has {free >> 30} GiB free")


def _shortened(path: str) -> str:
    return path if len(path) <= 80 else f"{path[:60]}… ({len(path)} characters)"
