"""All checks, side by side, each with a deadline; they report in a fixed order."""

from __future__ import annotations

import threading
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from detectctl.doctor import cluster, compute, folders, model_sources, neighbours, network, packages, running, system
from detectctl.doctor.finding import Finding, Subject, failure, ok
from detectctl.errors import ConversionFailed, DetectctlError, ModelAccessDenied, NotReady, RegistryUnreachable
from detectctl.keys import read_keys
from detectctl.lifecycle import exposure
from detectctl.registry.reference import parse
from detectctl.serving.url_policy import parse_allow
from detectctl.waiting import Deadline

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


class Check(NamedTuple):
    """What is looked at, and how long that may take in seconds."""

    name: str
    look: Callable[[Subject], Iterable[Finding]]
    deadline_s: float = 10.0


def _settings(subject: Subject) -> Iterator[Finding]:
    """Whether `up` would accept them."""
    if subject.problem is not None:
        raise subject.problem
    settings = subject.settings
    # Whoever asks about a cluster says to `up` alone who may use the service.
    exposure.check(settings if settings.address is None else replace(settings, address=None, host="localhost"))
    parse_allow(settings.allow_url)
    parse(settings.model)
    if settings.api_key_file is not None:
        read_keys(settings.api_key_file)
    yield ok("can be read")


_HERE: tuple[Check, ...] = (
    Check("settings", _settings),
    Check("open files", system.open_files),
    Check("threads", system.threads),
    Check("processors", system.processors),
    Check("memory", system.memory),
    Check("shared memory", system.shared_memory),
    Check("temporary folder", folders.temporary),
    Check("state folder", folders.state),
    Check("cache folder", folders.cache),
    Check("port", network.port),
    Check("Ray", neighbours.ray_clusters),
    Check("leftovers", neighbours.leftovers),
    Check("Python", packages.python),
    Check("packages", packages.packages),
)
_COMPUTE: tuple[Check, ...] = (Check("OpenVINO", compute.processor, 25.0), Check("GPU", compute.gpu, 65.0))
_WAY: tuple[Check, ...] = (
    Check("names", network.names),
    Check("proxies", network.proxies),
    Check("clock", network.clock),
)
_SOURCES: tuple[Check, ...] = (Check("W&B", model_sources.wandb, 20.0), Check("base model", model_sources.base_model))
ALL = (
    *_HERE,
    *_COMPUTE,
    *_WAY,
    *_SOURCES,
    Check("traces", network.traces),
    Check("service", running.service, 15.0),
    Check("fonts", running.fonts),
)
_CLUSTER = Check("cluster", cluster.dashboard, 30.0)
_CONVERTS = ("settings", "state folder", "cache folder", "Python", "packages", "OpenVINO")
OF_CLUSTER = (
    _CLUSTER,
    Check("nodes", cluster.nodes, 100.0),
    *(check for check in (*_HERE, *_COMPUTE) if check.name in _CONVERTS),
    *_WAY,
    *_SOURCES,
    Check("service", cluster.service, 25.0),
)
"""Of a cluster, and of what a model goes through on this machine on its way there."""


def examine(subject: Subject, checks: Iterable[Check] | None = None) -> Iterator[Finding]:
    """What the checks find, in their order; what several of them say is said once."""
    said = set()
    if checks is None:
        checks = ALL if subject.settings.address is None else OF_CLUSTER
    for check, begun, deadline in [
        (check, _begin(check, subject), Deadline.after(check.deadline_s)) for check in checks
    ]:
        for finding in _outcome(check, begun, deadline):
            if finding.level == "ok" or (finding.message, finding.fix) not in said:
                said.add((finding.message, finding.fix))
                yield replace(finding, check=finding.check or check.name)


def explain(error: DetectctlError, subject: Subject) -> Finding | None:
    """The failure that may be why `up` ended with this error; None if there is none, or if the error says it itself."""
    if isinstance(error, (RegistryUnreachable, ModelAccessDenied)):
        found = examine(subject, _WAY)
    elif isinstance(error, NotReady) and subject.settings.address is not None:
        found = examine(subject, [_CLUSTER])  # its nodes were looked at by `up` itself
    elif isinstance(error, (NotReady, ConversionFailed)):
        found = chain(
            examine(subject, _HERE), examine(subject, _COMPUTE)
        )  # which takes long, if nothing else explains it
    else:
        return None
    first = next((finding for finding in found if finding.level == "failure"), None)
    return None if first is None or error.what in first.message else first


def _begin(check: Check, subject: Subject) -> tuple[threading.Thread, list[Finding]]:
    """In a thread that may be left behind: a network's file system, and looking a name up, have no deadline."""
    findings: list[Finding] = []

    def run() -> None:
        try:
            findings.extend(check.look(subject))
        except DetectctlError as error:
            findings.append(Finding.of(error))
        except BaseException as error:  # noqa: BLE001 - a check of ours that fails must not hide what was found
            findings.append(
                failure(
                    f"the check itself failed: {type(error).__name__}: {error}",
                    "run `detectctl --verbose doctor`, and report this",
                )
            )

    thread = threading.Thread(target=run, daemon=True, name=f"check {check.name}")
    thread.start()
    return thread, findings


def _outcome(check: Check, begun: tuple[threading.Thread, list[Finding]], deadline: Deadline) -> list[Finding]:
    thread, findings = begun
    thread.join(deadline.left_s)
    if not thread.is_alive():
        return findings
    late = failure(f"the check did not end within {check.deadline_s:g} s", "see whether a disk or the network hangs")
    return [*findings, late]
