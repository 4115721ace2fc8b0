"""A reference becomes a pinned model: the asked-for one, or what stands in for it, visibly.

In this order:

1. the asked-for version, verified;
2. if W&B cannot be reached: the version that this reference last resolved to, from the store, marked `stale`;
3. if an instance serves already: an error, and the instance stays as it is;
4. the base model YOLOv8n, marked `fallback`.

Steps 2 to 4 are for what an operator cannot mend at once: W&B unreachable, the artifact gone, access withdrawn.
They are not for these, which are always errors:

- a wrong reference or path (`UsageError`), and any local file: somebody has mistyped something;
- wrong bytes (`ModelCorrupt`) and an artifact without a checkpoint to serve (`CheckpointRefused`): W&B has answered,
  and a different model in place of a damaged one would hide that;
- base models that were asked for themselves: another size is not what was asked for;
- a store that cannot be written.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from detectctl.errors import ModelAccessDenied, ModelCorrupt, ModelError, ModelNotFound, RegistryUnreachable
from detectctl.registry import wandb_source
from detectctl.registry.base_weights import base_model
from detectctl.registry.model_version import ModelVersion
from detectctl.registry.reference import DEFAULT_BASE, Artifact, BaseModel, LocalFile, parse
from detectctl.registry.store import Origin, Store

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path


def resolve(
    reference: str,
    *,
    cache: Path,
    environ: Mapping[str, str],
    timeout_s: float,
    within_s: float | None = None,
    fallback: bool = True,
    serving: bool = False,
    assets_url: str | None = None,
    on_event: Callable[[dict[str, Any]], None] | None = None,
) -> ModelVersion:
    """Pin what `reference` means now; see the module for what may stand in for it.

    Args:
        reference: as the user wrote it.
        cache: detectctl's cache folder.
        environ: the environment for W&B's SDK.
        timeout_s: seconds for the asked-for model; where step 4 has to download, at most as many for that.
        within_s: seconds for everything; None for no limit but these.
        fallback: False allows step 1 only. A stale version is refused too: without W&B nobody knows whether it is
            still what the reference means.
        serving: whether an instance serves already, which is then better left alone than given a base model.
        assets_url: where base models come from, instead of Ultralytics' release.
        on_event: called with `{"event": …}`; downloads send `{"event": "download", "done": bytes, "total": bytes}`.

    Raises:
        UsageError: the reference is wrong.
        ModelError: nothing could be pinned; the class says why.
    """
    wanted = parse(reference)
    store = Store(cache)
    deadline = math.inf if within_s is None else time.monotonic() + within_s
    first_s = _left(deadline, timeout_s)
    match wanted:
        case BaseModel():
            return base_model(wanted.name, store, timeout_s=first_s, assets_url=assets_url, on_event=on_event)
        case LocalFile():
            return _local(wanted, store)
    site = _site(wanted, environ)
    try:
        model = wandb_source.fetch(wanted, store, environ=environ, timeout_s=first_s, on_event=on_event)
    except (RegistryUnreachable, ModelNotFound, ModelAccessDenied) as error:
        stale = _last_resolved(wanted, store, site) if isinstance(error, RegistryUnreachable) and fallback else None
        if stale is not None:
            return replace(stale, stale=True, reason=_reason(error))
        if serving or not fallback:
            raise
        return _fallback(wanted, error, store, _left(deadline, timeout_s), assets_url, on_event)
    store.remember(model, site=site)
    return model


def _left(deadline: float, most_s: float) -> float:
    return max(0.0, min(most_s, deadline - time.monotonic()))


def _local(wanted: LocalFile, store: Store) -> ModelVersion:
    name = wanted.path.stem
    stored = store.copy(wanted.path, Origin(name))
    return ModelVersion(str(wanted), "file", name, None, stored.sha256, stored.path, stored.size)


def _site(wanted: Artifact, environ: Mapping[str, str]) -> str:
    """What gives the reference its meaning beside its words: the server, and the account where no entity is named."""
    host = wanted.page_host or environ.get("WANDB_BASE_URL", "").rstrip("/")
    account = () if wanted.entity else (environ.get("WANDB_ENTITY", ""), environ.get("WANDB_API_KEY", ""))
    return " ".join((host, *account))


def _last_resolved(wanted: Artifact, store: Store, site: str) -> ModelVersion | None:
    pin = store.recall(str(wanted), site=site)
    if pin is None:
        return None
    try:
        stored = store.open(pin["sha256"])
        return ModelVersion(**{**pin, "aliases": tuple(pin["aliases"]), "checkpoint": stored.path})
    except (ModelCorrupt, KeyError, TypeError):  # pruned, damaged, or written by another version of detectctl
        return None


def _fallback(
    wanted: Artifact,
    error: ModelError,
    store: Store,
    timeout_s: float,
    assets_url: str | None,
    on_event: Callable[[dict[str, Any]], None] | None,
) -> ModelVersion:
    try:
        base = base_model(DEFAULT_BASE, store, timeout_s=timeout_s, assets_url=assets_url, on_event=on_event)
    except (RegistryUnreachable, ModelNotFound, ModelCorrupt) as base_error:
        raise type(error)(
            error.what, why=f"{error.why}; and {base_error.what}: {base_error.why}", hint=base_error.hint
        ) from error
    return replace(base, reference=str(wanted), fallback=True, reason=_reason(error))


def _reason(error: ModelError) -> str:
    return f"{error.what}: {error.why}" if error.why else error.what
