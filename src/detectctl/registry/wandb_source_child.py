"""The child process that talks to W&B: the only place that imports its SDK.

`wandb_source` runs it. The request is one of

- `{"do": "fetch", "path", "alias", "member", "cache", "scratch", "downloads"}`: resolve, choose the checkpoint, and put
  it into the store unless it is there. The result has the fields of a pinned version.
- `{"do": "list", "path", "alias"}`: the versions of the collection, newest first.

Both have the `host` of the W&B page that the reference was given as, or null.

It reports each step in words that go with "still": `downloading a/b/c:v1 (10 of 20 bytes)`. Errors are `ChildFailed`: a
kind in `KINDS`, the message says what failed, and `detail` why and, on a second line, what to do.
"""

from __future__ import annotations

import json
import os
import re
import threading
import urllib.parse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detectctl import child
from detectctl.errors import ModelCorrupt, ModelError
from detectctl.files import reason, sha256_of
from detectctl.progress import Progress
from detectctl.registry.store import Origin, Store

if TYPE_CHECKING:
    from detectctl.progress import Report

KINDS = ("access", "not_found", "unreachable", "corrupt", "refused", "elsewhere", "store")

_SAMPLE_S = 0.2
# A manifest that is not JSON; the SDK's own complaints about one are plain ValueErrors.
_UNREADABLE = (json.JSONDecodeError, UnicodeDecodeError)


def work(request: child.Message, report: Report) -> child.Message:
    """Do what the request asks; see the module.

    Raises:
        ChildFailed: anything that can be expected to go wrong.
    """
    import requests
    import wandb
    from wandb.sdk import wandb_setup
    from wandb.sdk.lib.service.service_connection import WandbApiFailedError

    report(Progress("resolve", "connecting to W&B"))
    try:
        _check_host(request["host"], wandb_setup.singleton().settings.app_url)
        api = wandb.Api()
        report(Progress("resolve", f"looking up {request['path']}:{request['alias']}"))
        if request["do"] == "list":
            return _list(api, request)
        return _fetch(api, request, report)
    except (wandb.errors.Error, WandbApiFailedError, requests.RequestException, ValueError) as error:
        raise _by_cause(error) from error
    except ModelCorrupt as error:
        raise child.ChildFailed("corrupt", error.what, error.why or "") from error
    except ModelError as error:
        raise child.ChildFailed("store", error.what, error.why or "") from error
    except OSError as error:
        raise child.ChildFailed("store", reason(error)) from error


def _check_host(wanted: str | None, app_url: str) -> None:
    """The same path may mean another model on another server."""
    ours = urllib.parse.urlsplit(app_url).netloc
    if wanted is not None and wanted.lower().removeprefix("www.") != ours.lower():
        hint = f"set WANDB_BASE_URL to the API of {wanted}, or give the reference as entity/project/name:alias"
        raise child.ChildFailed("elsewhere", f"the page is on {wanted}", f"the configured server is {ours}\n{hint}")


def _list(api: Any, request: child.Message) -> child.Message:
    try:
        artifact = _look_up(api, f"{request['path']}:{request['alias']}")
    except child.ChildFailed as error:
        # Only its type matters here, and the first version exists even where nobody has set that alias.
        if error.kind != "not_found":
            raise
        artifact = _look_up(api, f"{request['path']}:v0")
    versions = [
        {
            # In a listing of links, `.version` is that of the source; the collection's own is in the name.
            "version": version.name.rpartition(":")[2],
            "aliases": version.aliases,
            "created": version.created_at,
            "size": version.size,
            "digest": version.digest,
        }
        for version in api.artifacts(artifact.type, request["path"])
    ]
    return {
        "artifact": _path(artifact),
        "versions": sorted(versions, key=lambda version: -int(str(version["version"]).removeprefix("v"))),
    }


def _fetch(api: Any, request: child.Message, report: Report) -> child.Message:
    artifact = _look_up(api, f"{request['path']}:{request['alias']}")
    # The SDK recomputes the digest once it has the manifest, so keep what the server said first.
    digest, size = artifact.digest, artifact.size
    manifest = artifact.manifest
    _check_manifest(artifact, manifest, digest)
    member = request["member"] or choose_checkpoint(list(manifest.entries), f"{request['path']}:{request['alias']}")
    if member not in manifest.entries:
        raise child.ChildFailed("not_found", f"the artifact has no file {member!r}", _listing(manifest.entries))
    pin = {
        "name": artifact.name.split(":")[0],
        "artifact": _path(artifact),
        "version": artifact.version,
        "artifact_digest": digest,
        "member": member,
    }
    store = Store(Path(request["cache"]))
    version = f"{pin['artifact']}:{pin['version']}"
    report(Progress("resolve", f"waiting for another process that downloads {version}"))
    with store.lock(f"{pin['artifact']} {digest}"):
        where = (pin["artifact"], pin["version"], digest, member)
        stored = store.find(*where)
        if stored is None:
            root = Path(request["scratch"]) / "artifact"
            _download(artifact, root, Path(request["downloads"]), size, version, report)
            report(Progress("resolve", f"verifying {version}"))
            _verify(artifact, manifest, root)
            file = root / member
            origin = Origin(pin["name"], *where)
            stored = store.add(file, origin, expected=sha256_of(file))
    return {**pin, "sha256": stored.sha256, "size": stored.size}


def _look_up(api: Any, name: str) -> Any:
    """The artifact, or ChildFailed: only here does a plain ValueError of the SDK mean that it was not found."""
    try:
        return api.artifact(name)
    except _sdk_errors() as error:
        raise _by_cause(error, looking_up=True) from error


def _path(artifact: Any) -> str:
    return f"{artifact.entity}/{artifact.project}/{artifact.name.split(':')[0]}"


def _check_manifest(artifact: Any, manifest: Any, digest: str) -> None:
    if manifest.digest() != digest:
        why = f"W&B's record says {digest}, its manifest {manifest.digest()}"
        raise child.ChildFailed("corrupt", "the artifact's manifest does not have the digest it should", why)
    references = [path for path, entry in manifest.entries.items() if entry.ref is not None]
    if references:
        why = f"{references[0]} points to {manifest.entries[references[0]].ref}, whose content no digest verifies"
        hint = "log the artifact with the files themselves"
        raise child.ChildFailed("refused", f"{artifact.name} has references to files outside W&B", f"{why}\n{hint}")


def choose_checkpoint(paths: list[str], reference: str) -> str:
    """The path of the checkpoint to serve: the only `.pt`, or `best.pt` where there are several.

    Raises:
        ChildFailed: there is none, or no way to choose.
    """
    checkpoints = sorted(path for path in paths if path.endswith(".pt"))
    if not checkpoints:
        hint = "log an artifact with the .pt that Ultralytics saved, and give its reference"
        raise child.ChildFailed("refused", f"{reference} has no .pt checkpoint", f"{_listing(paths)}\n{hint}")
    best = [path for path in checkpoints if Path(path).name == "best.pt"]
    for candidates in (checkpoints, best):
        if len(candidates) == 1:
            return candidates[0]
    hint = f"name one: `--model '{reference}#{(best or checkpoints)[0]}'`"
    raise child.ChildFailed(
        "refused", f"{reference} has {len(checkpoints)} checkpoints", f"{_listing(checkpoints)}\n{hint}"
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
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += Path(parent, name).stat().st_size
            except FileNotFoundError:  # renamed since
                continue
    return total


def _verify(artifact: Any, manifest: Any, root: Path) -> None:
    """Check every byte: `download` checks no digest, and reports success even without a file."""
    for path, entry in manifest.entries.items():
        file = root / path
        if not file.is_file():
            raise child.ChildFailed("corrupt", f"{path} is missing after the download")
        if file.stat().st_size != entry.size:
            why = f"it has {file.stat().st_size} bytes instead of {entry.size}"
            raise child.ChildFailed("corrupt", f"{path} is not the file it should be", why)
    try:
        artifact.verify(str(root))
    except ValueError as error:
        raise child.ChildFailed("corrupt", "a file is not what the artifact's manifest promises", str(error)) from error


def _sdk_errors() -> tuple[type[Exception], ...]:
    import wandb
    from wandb.sdk.lib.service.service_connection import WandbApiFailedError

    return (wandb.errors.Error, WandbApiFailedError, ValueError)


def _by_cause(error: BaseException, *, looking_up: bool = False) -> child.ChildFailed:
    """The SDK's many errors, told apart by HTTP status and by what they wrap, not by their wording."""
    import wandb

    causes = _causes(error)
    status = next(filter(None, map(_status, causes)), None)
    message = one_line(str(error))
    # Without a further cause, an AuthenticationError is about a key that was never sent.
    keyless = isinstance(causes[-1], (wandb.errors.UsageError, wandb.errors.AuthenticationError))
    if keyless or status in {401, 403}:
        return child.ChildFailed("access", message, f"HTTP {status}" if status else "")
    if status in {404, 410}:
        return child.ChildFailed("not_found", message, f"HTTP {status}")
    if type(causes[-1]) is ValueError and looking_up:
        return child.ChildFailed("not_found", message)
    if not looking_up and (type(causes[-1]) is ValueError or isinstance(causes[-1], _UNREADABLE)):
        return child.ChildFailed("corrupt", "what came cannot be read", message)
    return child.ChildFailed("unreachable", message)


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
    # What precedes these words repeats what follows them.
    text = re.sub(r"^.* while retrying: (Post \"[^\"]*\": )?", "", text, flags=re.DOTALL)
    text = " ".join(text.split())
    # The same from the transport below it.
    text = re.sub(r'^.* while retrying: (Post "[^"]*": )?', "", text)
    return without_secrets(text)[:300]


def without_secrets(text: str) -> str:
    """`text` without keys and signatures."""
    text = re.sub(r"\?[^\s'\")>]+", "?…", text)
    return re.sub(r"\b(?:local-)?[0-9a-f]{40,}\b|\bwandb_v1_\w+", "…", text)


if __name__ == "__main__":
    child.serve_parent(work)
