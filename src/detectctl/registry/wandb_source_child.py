"""The child process that talks to W&B: the only place that imports its SDK.

`wandb_source` runs it. The request has the fields of the `reference`, an `Artifact`, a `scratch` folder, and what to
`do`:

- `fetch`: resolve, choose the checkpoint, and put it into the store below `cache` unless it is there. The result has
  the fields of its `Origin`, and `sha256`.
- `list`: the versions of the collection, newest first.

It reports each step in words that go with "still": `downloading a/b/c:v1 (10 of 20 bytes)`. The SDK's errors become
ours here, where their types are known.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import threading
import urllib.parse
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detectctl import child
from detectctl.errors import (
    CheckpointRefused,
    ModelAccessDenied,
    ModelCorrupt,
    ModelError,
    ModelNotFound,
    RegistryUnreachable,
    UsageError,
)
from detectctl.files import reason
from detectctl.progress import Progress
from detectctl.registry.reference import Artifact
from detectctl.registry.store import Origin, Store

if TYPE_CHECKING:
    from detectctl.progress import Report

_SAMPLE_S = 0.2


def work(request: child.Message, report: Report) -> child.Message:
    """Do what the request asks, see the module; raises as `wandb_source.fetch`."""
    import wandb
    from wandb.sdk import wandb_setup

    reference = Artifact(**request["reference"])
    report(Progress("resolve", "connecting to W&B"))
    try:
        _check_host(reference.page_host, wandb_setup.singleton().settings.app_url)
        api = wandb.Api()
        report(Progress("resolve", f"looking up {reference.path}:{reference.alias}"))
        if request["do"] == "list":
            return _list(api, reference)
        return _fetch(api, reference, request, report)
    except _sdk_errors() as error:
        raise _by_cause(error, reference) from error
    except OSError as error:
        raise ModelError(
            "the model could not be stored", why=reason(error), hint="check the cache folder's owner and free space"
        ) from error


def _check_host(wanted: str | None, app_url: str) -> None:
    """The same path may mean another model on another server."""
    ours = urllib.parse.urlsplit(app_url).netloc
    if wanted is not None and wanted.lower().removeprefix("www.") != ours.lower():
        raise UsageError(
            f"the page is on {wanted}",
            why=f"the configured server is {ours}",
            hint=f"set WANDB_BASE_URL to the API of {wanted}, or give the reference as entity/project/name:alias",
        )


def _list(api: Any, reference: Artifact) -> child.Message:
    try:
        artifact = _look_up(api, reference)
    except ModelNotFound:
        # Only its type matters here, and the first version exists even where nobody has set that alias.
        artifact = _look_up(api, replace(reference, alias="v0"))
    versions = [
        {  # the first fields of a `CollectionVersion`
            # In a listing of links, `.version` is that of the source; the collection's own is in the name.
            "version": version.name.rpartition(":")[2],
            "aliases": version.aliases,
            "created": version.created_at,
            "size": version.size,
            "digest": version.digest,
        }
        for version in api.artifacts(artifact.type, reference.path)
    ]
    return {
        "artifact": _path(artifact),
        "versions": sorted(versions, key=lambda version: -int(str(version["version"]).removeprefix("v"))),
    }


def _fetch(api: Any, reference: Artifact, request: child.Message, report: Report) -> child.Message:
    artifact = _look_up(api, reference)
    # The SDK recomputes the digest once it has the manifest, so keep what the server said first.
    digest, size = artifact.digest, artifact.size
    manifest = artifact.manifest
    _check_manifest(reference, artifact, manifest, digest)
    member = reference.checkpoint or choose_checkpoint(list(manifest.entries), f"{reference.path}:{reference.alias}")
    if member not in manifest.entries:
        raise _missing(reference, f"the artifact has no file {member!r} ({_listing(manifest.entries)})")
    origin = Origin(artifact.name.split(":")[0], _path(artifact), artifact.version, digest, member)
    store = Store(Path(request["cache"]))
    version = f"{origin.artifact}:{origin.version}"
    report(Progress("resolve", f"waiting for another process that downloads {version}"))
    with store.lock(f"{origin.artifact} {digest}"):
        stored = store.find(origin)
        if stored is None:
            scratch = Path(request["scratch"])
            _download(artifact, scratch / "artifact", scratch / "wandb_cache_dir", size, version, report)
            report(Progress("resolve", f"verifying {version}"))
            _verify(reference, artifact, manifest, scratch / "artifact")
            stored = store.add(scratch / "artifact" / member, origin)
    return {**asdict(origin), "sha256": stored.sha256}


def _look_up(api: Any, reference: Artifact) -> Any:
    """The artifact: only here does a plain ValueError of the SDK mean that it was not found."""
    try:
        return api.artifact(f"{reference.path}:{reference.alias}")
    except _sdk_errors() as error:
        raise _by_cause(error, reference, looking_up=True) from error


def _path(artifact: Any) -> str:
    return f"{artifact.entity}/{artifact.project}/{artifact.name.split(':')[0]}"


def _check_manifest(reference: Artifact, artifact: Any, manifest: Any, digest: str) -> None:
    if manifest.digest() != digest:
        why = f"W&B's record says {digest}, its manifest {manifest.digest()}"
        raise _corrupt(reference, f"the artifact's manifest does not have the digest it should ({why})")
    for path, entry in manifest.entries.items():
        if entry.ref is not None:
            raise CheckpointRefused(
                f"{artifact.name} has references to files outside W&B",
                why=f"{path} points to {entry.ref}, whose content no digest verifies",
                hint="log the artifact with the files themselves",
            )


def choose_checkpoint(paths: list[str], reference: str) -> str:
    """The path of the only `.pt`, or of `best.pt` where there are several; CheckpointRefused if that is not one."""
    checkpoints = sorted(path for path in paths if path.endswith(".pt"))
    if not checkpoints:
        raise CheckpointRefused(
            f"{reference} has no .pt checkpoint",
            why=_listing(paths),
            hint="log an artifact with the .pt that Ultralytics saved, and give its reference",
        )
    best = [path for path in checkpoints if Path(path).name == "best.pt"]
    for candidates in (checkpoints, best):
        if len(candidates) == 1:
            return candidates[0]
    raise CheckpointRefused(
        f"{reference} has {len(checkpoints)} checkpoints",
        why=_listing(checkpoints),
        hint=f"name one: `--model '{reference}#{(best or checkpoints)[0]}'`",
    )


def _listing(paths: Any) -> str:
    there = sorted(paths)
    more = f" and {len(there) - 10} more" if len(there) > 10 else ""
    return f"it has {', '.join(there[:10]) or 'nothing'}{more}"


def _download(artifact: Any, root: Path, cache: Path, total: int, version: str, report: Report) -> None:
    """Into a root and a cache that are ours alone: the SDK trusts any file of the right size in a shared one."""
    finished = threading.Event()

    def tell(done: int) -> None:
        words = f"downloading {version} ({done} of {total} bytes)"
        report(Progress("resolve", words, fraction=done / total if total else None))

    def sample() -> None:
        while not finished.wait(_SAMPLE_S):
            tell(min(total, _bytes_below(cache)))

    tell(0)
    reporter = threading.Thread(target=sample, daemon=True)
    reporter.start()
    try:
        artifact.download(root=str(root))
    finally:
        finished.set()
        reporter.join()
    tell(total)


def _bytes_below(folder: Path) -> int:
    total = 0
    for file in (Path(parent, name) for parent, _, names in os.walk(folder) for name in names):
        with contextlib.suppress(FileNotFoundError):  # renamed since
            total += file.stat().st_size
    return total


def _verify(reference: Artifact, artifact: Any, manifest: Any, root: Path) -> None:
    """Check every byte: `download` checks no digest, and reports success even without a file."""
    for path, entry in manifest.entries.items():
        file = root / path
        if not file.is_file():
            raise _corrupt(reference, f"{path} is missing after the download")
        if file.stat().st_size != entry.size:
            why = f"it has {file.stat().st_size} bytes instead of {entry.size}"
            raise _corrupt(reference, f"{path} is not the file it should be ({why})")
    try:
        artifact.verify(str(root))
    except ValueError as error:
        raise _corrupt(reference, f"a file is not what the artifact's manifest promises ({error})") from error


def _sdk_errors() -> tuple[type[Exception], ...]:
    import requests
    import wandb
    from wandb.sdk.lib.service.service_connection import WandbApiFailedError

    return (wandb.errors.Error, WandbApiFailedError, requests.RequestException, ValueError)


def _by_cause(error: Exception, reference: Artifact, *, looking_up: bool = False) -> ModelError:
    """The SDK's many errors, told apart by HTTP status and by what they wrap, not by their wording."""
    import wandb

    causes = _causes(error)
    status = next(filter(None, map(_status, causes)), None)
    message = one_line(str(error))
    with_status = f"{message} (HTTP {status})" if status else message
    # Without a further cause, an AuthenticationError is about a key that was never sent.
    keyless = isinstance(causes[-1], (wandb.errors.UsageError, wandb.errors.AuthenticationError))
    if keyless or status in {401, 403}:
        log_in = "" if "`wandb login`" in message else " or run `wandb login`"  # the SDK may have said it already
        return ModelAccessDenied(
            f"W&B refuses access to {reference}",
            why=with_status,
            hint=f"set WANDB_API_KEY{log_in}, with an account that may read it",
        )
    if status in {404, 410}:
        return _missing(reference, with_status)
    if looking_up and type(causes[-1]) is ValueError:
        return _missing(reference, message)
    # A manifest that is not JSON; the SDK's own complaints about one are plain ValueErrors.
    unreadable = isinstance(causes[-1], (json.JSONDecodeError, UnicodeDecodeError))
    if not looking_up and (unreadable or type(causes[-1]) is ValueError):
        return _corrupt(reference, f"what came cannot be read ({message})")
    return RegistryUnreachable(
        f"W&B could not be reached for {reference}", why=message, hint="retry once the network and W&B are available"
    )


def _missing(reference: Artifact, why: str) -> ModelNotFound:
    return ModelNotFound(
        f"W&B has no {reference}", why=why, hint=f"see what there is: `detectctl models {reference.path!r}`"
    )


def _corrupt(reference: Artifact, why: str) -> ModelCorrupt:
    return ModelCorrupt(
        f"what W&B sent for {reference} is not what it promised",
        why=why,
        hint="retry; if it persists, log the artifact to W&B again",
    )


def _causes(error: BaseException) -> list[BaseException]:
    """The error and its causes, outermost first."""
    causes = [error]
    while len(causes) < 10:
        inner = getattr(causes[-1], "exc", None) or causes[-1].__cause__
        if not isinstance(inner, BaseException) or inner in causes:
            break
        causes.append(inner)
    return causes


def _status(error: BaseException) -> int | None:
    response = getattr(error, "response", None)
    for name in ("http_status", "status_code"):
        status = getattr(response, name, None)
        if isinstance(status, int) and status:
            return status
    return None


def one_line(text: str) -> str:
    """`text` as one line without secrets: a signed URL has its signature after the question mark."""
    # What precedes these words, which the transport below may say too, repeats what follows them.
    text = re.sub(r'^.* while retrying: (Post "[^"]*": )?', "", " ".join(text.split()))
    return without_secrets(text)[:300]


def without_secrets(text: str) -> str:
    """`text` without keys and signatures."""
    text = re.sub(r"\?[^\s'\")>]+", "?…", text)
    return re.sub(r"\b(?:local-)?[0-9a-f]{40,}\b|\bwandb_v1_\w+", "…", text)


if __name__ == "__main__":
    child.serve_parent(work)
