"""Where models come from: W&B with the user's account, and Ultralytics' base models."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from detectctl.addresses import masked
from detectctl.doctor.finding import Finding, Subject, failure, ok
from detectctl.errors import ModelError
from detectctl.http import Downloads, NoAnswer
from detectctl.registry import wandb_source
from detectctl.registry.base_names import DEFAULT_BASE
from detectctl.registry.base_weights import needs_download
from detectctl.registry.reference import BaseModel, parse
from detectctl.registry.store import Store
from detectctl.waiting import Deadline

if TYPE_CHECKING:
    from collections.abc import Iterator

_REACH_S = 3.0
WANDB_S = 15.0
"""For the SDK, which takes seconds to start on a busy machine."""


def wandb(subject: Subject) -> Iterator[Finding]:
    """Whether W&B can be reached, and knows the user."""
    lack = _lack_of_wandb(subject)
    if lack is None:
        yield ok(f"{masked(subject.wandb_url)} knows the user")
    else:
        yield lack if subject.wants_wandb else lack.mild


def _lack_of_wandb(subject: Subject) -> Finding | None:
    url, store = subject.wandb_url, Store(subject.paths.cache)
    obstacle = _obstacle_to(url)
    if obstacle is not None:  # the SDK would try again until its deadline
        fix = "check WANDB_BASE_URL, the network and HTTPS_PROXY"
        return failure(f"{masked(url)} cannot be reached: {obstacle}", fix)
    try:
        wandb_source.log_in(store, environ=subject.environ, timeout_s=WANDB_S)
    except ModelError as error:
        return Finding.of(error)
    return None


def base_model(subject: Subject) -> Iterator[Finding]:
    """Whether the base model that is configured, or that would stand in for the configured one, can be had."""
    wanted = parse(subject.settings.model)
    name = wanted.name if isinstance(wanted, BaseModel) else DEFAULT_BASE
    store = Store(subject.paths.cache)
    if not needs_download(name, store):
        yield ok(f"{name} is stored")
        return
    url = subject.assets_url
    obstacle = _obstacle_to(url)
    if obstacle is None:
        yield ok(f"{name} is not stored; `up` downloads it from {masked(url)}")
        return
    found = failure(
        f"{name} is not stored, and {masked(url)} cannot be reached: {obstacle}",
        f"put {name}.pt into {store.cache / 'base'}, or set HTTPS_PROXY or the setting assets-url",
    )
    yield found if isinstance(wanted, BaseModel) else found.mild


def _obstacle_to(url: str) -> str | None:
    try:
        with contextlib.closing(Downloads()) as downloads:
            downloads.head(url, Deadline.after(_REACH_S))
    except NoAnswer as error:
        return str(error)
    return None
