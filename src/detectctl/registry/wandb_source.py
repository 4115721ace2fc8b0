"""W&B artifacts, the parent's side: a child process with a deadline does the work.

The SDK never runs in this process: its transfers have no deadline and ignore Ctrl-C, and importing it is slow.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from detectctl import child
from detectctl.errors import ModelError, RegistryUnreachable
from detectctl.files import describe, remedy
from detectctl.progress import silent
from detectctl.registry.model_version import ModelVersion
from detectctl.registry.wandb_conversation import LONGEST_PAUSE_S, one_line, without_secrets

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from detectctl.progress import Report
    from detectctl.registry.reference import Artifact
    from detectctl.registry.store import Store

_SETTINGS = {
    "WANDB_SILENT": "true",
    "WANDB_ERROR_REPORTING": "false",  # no telemetry either
    "WANDB_HTTP_TIMEOUT": "15",  # of one try
    # The SDK is to try again until our deadline, and not for as long as it thinks right.
    "WANDB__GRAPHQL_RETRY_MAX": "1000000",
    "WANDB__GRAPHQL_RETRY_WAIT_MIN_SECONDS": "1",
    "WANDB__GRAPHQL_RETRY_WAIT_MAX_SECONDS": f"{LONGEST_PAUSE_S:g}",
}
_GRACE_S = 1.0
"""After the deadline, for the child to say what it waited for."""


def fetch(
    reference: Artifact,
    store: Store,
    *,
    environ: Mapping[str, str],
    timeout_s: float,
    patience_s: float = math.inf,
    report: Report = silent,
) -> ModelVersion:
    """Resolve a reference to the version it means now, with its checkpoint verified and in the store.

    Its alias is resolved once, here. The SDK reads `WANDB_*`, proxies, and `HOME` for its login, from `environ`.

    Args:
        reference: of the artifact.
        store: where the checkpoint goes; nothing else of the artifact is downloaded.
        environ: the environment for the SDK.
        timeout_s: seconds for everything, including the wait for another process that downloads the same.
        patience_s: seconds for which one step is tried again while the network or W&B fails.
        report: called with each step, with its progress, and with what is in its way.

    Raises:
        RegistryTimedOut: network and server failed until `timeout_s` had passed.
        RegistryUnreachable: they failed in a way that does not pass, or for `patience_s`.
        ModelNotFound: no such entity, project, collection, alias, or file in the artifact.
        ModelAccessDenied: no key, a wrong one, or one that may not read this.
        ModelCorrupt: a byte or a digest is wrong.
        CheckpointRefused: the artifact has no checkpoint, several, or one that lies outside W&B.
        ModelError: the store cannot be written; or all that is wrong is that `timeout_s` was too short.
        UsageError: the reference is a page of another W&B server than the configured one, or does not tell which
            organization's registry it means.
    """
    request = {"do": "fetch", "reference": asdict(reference), "cache": str(store.cache)}
    pin = _ask(str(reference), request, store, environ, timeout_s, patience_s, report)
    stored = store.open(pin["sha256"])
    name, version = pin["name"], pin["version"]
    artifact = f"{pin['artifact']}:{version}#{pin['member']}"
    return ModelVersion(str(reference), "wandb", name, version, stored.sha256, stored.path, artifact)


def list_versions(
    reference: Artifact, store: Store, *, environ: Mapping[str, str], timeout_s: float
) -> tuple[str, list[dict[str, Any]]]:
    """The collection's full path and its versions, newest first, as the child has them; raises as `fetch`."""
    answer = _ask(
        str(reference), {"do": "list", "reference": asdict(reference)}, store, environ, timeout_s, math.inf, silent
    )
    return answer["artifact"], answer["versions"]


def log_in(store: Store, *, environ: Mapping[str, str], timeout_s: float) -> None:
    """Ask W&B whether it knows the user; never prompts. Raises ModelError as `fetch`."""
    _ask("who uses it", {"do": "log in"}, store, environ, timeout_s, math.inf, silent)


def _ask(
    about: str,
    request: dict[str, Any],
    store: Store,
    environ: Mapping[str, str],
    timeout_s: float,
    patience_s: float,
    report: Report,
) -> child.Message:
    until = time.monotonic() + timeout_s  # a clock that all processes share
    try:
        # The SDK's own temporary files outlive a killed process, but not this folder.
        with store.scratch() as scratch:
            return child.run(
                "detectctl.registry.wandb_source_child",
                {
                    **request,
                    "about": about,
                    "scratch": str(scratch),
                    "until": until,
                    "timeout_s": timeout_s,
                    "patience_s": patience_s,
                },
                timeout_s=timeout_s + _GRACE_S,
                env=_environment(environ, scratch),
                report=report,
            )
    except child.ChildTimeout as error:
        raise RegistryUnreachable(
            f"W&B did not deliver {about} in time",
            why=f"still {error.last.message if error.last else 'starting the SDK'} after {timeout_s:g} s",
            hint="retry, or raise `--model-timeout` (and keep `--timeout` at least as high)",
        ) from error
    except child.ChildCrashed as error:
        failed = ModelError(
            f"W&B's SDK failed on {about}", why=one_line(error.last_words), hint="run again with `--verbose`"
        )
        failed.add_note(without_secrets(error.stderr))
        raise failed from error
    except OSError as error:
        raise ModelError(
            "W&B's SDK cannot write its temporary files",
            why=describe(error),
            hint=remedy(error, "the temporary folder", "TMPDIR"),
        ) from error


def _environment(environ: Mapping[str, str], scratch: Path) -> dict[str, str]:
    """The user's own, so that key, host and proxies keep their meaning; what the SDK writes goes into `scratch`."""
    folders = ("WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_DIR", "WANDB_ARTIFACT_DIR")
    env = {**environ, **_SETTINGS} | {name: str(scratch / name.lower()) for name in folders}
    env.pop("WANDB_SERVICE", None)  # another process's wandb-core has neither our settings nor our deadline
    return env
