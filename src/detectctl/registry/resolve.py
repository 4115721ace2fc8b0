"""Turn a reference into a pinned model: the requested one, or a substitute that is visibly marked as such.

In this order:

1. the requested version, verified;
2. if W&B cannot be reached: the version that this reference last resolved to, from the store, marked `stale`;
3. if it failed for as long as was allowed, and no instance serves anything better: the base model YOLOv8n, marked
   `fallback`; unless the reference is known to mean a model for another task than boxes.

All else is an error, because whoever asked can do something about it:

- a mistyped reference, path, entity or organization; an artifact or alias that is gone; a key that is missing, wrong,
  or may not read it; another server, or one whose certificate is not trusted: W&B has answered, or never would;
- a download that was only slow, or that another process has begun: more time is needed;
- wrong bytes (`ModelCorrupt`), and an artifact without a checkpoint to serve (`CheckpointRefused`): another model in
  place of a damaged one would hide that;
- a base model that was requested by name: another size is not what was requested;
- a store that cannot be written.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from detectctl.errors import ModelCorrupt, ModelNotFound, RegistryTimedOut, RegistryUnreachable
from detectctl.exports import network_in, of_another_kind, other_format, pack
from detectctl.progress import silent
from detectctl.registry import wandb_source
from detectctl.registry.base_names import DEFAULT_BASE, ENDINGS
from detectctl.registry.base_weights import base_model
from detectctl.registry.model_version import ModelVersion
from detectctl.registry.reference import Artifact, BaseModel, LocalFile, parse
from detectctl.registry.store import Origin, Store, uncopied
from detectctl.waiting import Deadline

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from detectctl.progress import Report
    from detectctl.registry.store import StoredCheckpoint


def resolve(
    reference: str,
    *,
    cache: Path,
    environ: Mapping[str, str],
    timeout_s: float,
    within_s: float | None = None,
    patience_s: float = math.inf,
    fallback: bool = True,
    serving: bool = False,
    assets_url: str | None = None,
    report: Report = silent,
) -> ModelVersion:
    """Pin what `reference` means now; see the module for what may replace it.

    Args:
        reference: as the user wrote it.
        cache: detectctl's cache folder.
        environ: the environment for W&B's SDK.
        timeout_s: seconds for the requested model; if step 3 has to download, at most as many for that.
        within_s: seconds for everything; None for no further limit.
        patience_s: seconds for which W&B may fail before step 2 or an error; step 3 needs all of `timeout_s`.
        fallback: False allows step 1 only. A stale version is refused too: without W&B nobody knows whether it is
            still what the reference means.
        serving: whether an instance serves something better than a base model, so that it is left alone.
        assets_url: where base models come from, instead of Ultralytics' release.
        report: called at each step, and with the progress of a download.

    Raises:
        UsageError: the reference is wrong.
        ModelError: nothing could be pinned; the class says why.
    """
    wanted = parse(reference)
    store = Store(cache)
    deadline = Deadline.after(math.inf if within_s is None else within_s)
    first_s = min(timeout_s, deadline.left_s)
    match wanted:
        case BaseModel():
            return base_model(wanted.name, store, timeout_s=first_s, assets_url=assets_url, report=report)
        case LocalFile(path):
            name, stored = _local(path, store)
            return ModelVersion(str(wanted), "file", name, None, stored.sha256, stored.path)
    site = _site(wanted, environ)
    try:
        model = wandb_source.fetch(
            wanted, store, environ=environ, timeout_s=first_s, patience_s=patience_s, report=report
        )
    except RegistryUnreachable as error:
        if fallback and (last := store.recall(str(wanted), site=site)):
            return replace(last, stale=True, reason=error.what_and_why)
        if serving or not fallback or not isinstance(error, RegistryTimedOut):
            raise
        _refuse_boxes_for(store.task_of(str(wanted), site=site), error)
        seconds = min(timeout_s, deadline.left_s)
        base = _base_instead(error, store, timeout_s=seconds, assets_url=assets_url, report=report)
        return replace(base, reference=str(wanted))
    store.remember(model, site=site)
    return model


def _base_instead(
    error: RegistryTimedOut, store: Store, *, timeout_s: float, assets_url: str | None, report: Report
) -> ModelVersion:
    """The base model in place of what W&B did not deliver; `error`, if that cannot be had either."""
    try:
        base = base_model(DEFAULT_BASE, store, timeout_s=timeout_s, assets_url=assets_url, report=report)
    except (RegistryUnreachable, ModelNotFound, ModelCorrupt) as base_error:
        why = f"{error.why}; and {base_error.what}: {base_error.why}"
        raise type(error)(error.what, why=why, hint=base_error.hint) from error
    return replace(base, fallback=True, reason=error.what_and_why)


def _refuse_boxes_for(task: str | None, error: RegistryTimedOut) -> None:
    """Raise an error with the same cause if the model that W&B did not deliver is known to be for another task."""
    if task in {None, "detect"}:
        return
    instead = f", or serve Ultralytics' own: `--model {DEFAULT_BASE}{ENDINGS[task]}`" if task in ENDINGS else ""
    raise type(error)(
        error.what,
        why=f"{error.why}; {DEFAULT_BASE}, which finds boxes, does not stand in for it: its task is {task}",
        hint=f"run the same command again later{instead}",
    ) from error


def _local(path: Path, store: Store) -> tuple[str, StoredCheckpoint]:
    """What to call a local model, and the model in the store."""
    if kind := other_format(path.name):
        raise of_another_kind(kind, path.name)
    network = network_in(path) if path.is_dir() else path
    if network is None or network.suffix != ".xml":
        return path.stem, store.copy(path, Origin(path.stem))
    with store.scratch() as scratch:
        try:
            packed = pack(network, scratch / "export.zip")
        except OSError as error:
            raise uncopied(path, error) from error
        return network.stem, store.add(packed, Origin(network.stem))


def _site(wanted: Artifact, environ: Mapping[str, str]) -> str:
    """What else gives the reference its meaning: the server, and the account where no entity is named."""
    host = wanted.page_host or environ.get("WANDB_BASE_URL", "").rstrip("/")
    account = () if wanted.entity else (environ.get("WANDB_ENTITY", ""), environ.get("WANDB_API_KEY", ""))
    return " ".join((host, *account))
