"""The child process that talks to W&B: the only place that imports its SDK.

`wandb_source` runs it. The request has what it is `about`, for errors, a `scratch` folder, and what to `do`, for the
first two with the fields of the `reference`, an `Artifact`:

- `fetch`: resolve, choose the checkpoint, and put it into the store below `cache` unless it is there. The result has
  the fields of its `Origin`, and `sha256`.
- `list`: the versions of the collection, newest first.
- `log in`: ask W&B who the user is; the result is empty.

It has until the moment `until` of the monotonic clock, which is `timeout_s` after the caller began. The SDK's errors
become ours here, where their types are known.
"""

from __future__ import annotations

import json
import os
import re
import time
import urllib.parse
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detectctl import child
from detectctl.errors import (
    ModelAccessDenied,
    ModelCorrupt,
    ModelError,
    ModelNotFound,
    UsageError,
)
from detectctl.exports import files_of, pack
from detectctl.files import plain_path, reason, remedy
from detectctl.registry.artifact_content import served_file
from detectctl.registry.reference import REGISTRY_PREFIX, Artifact
from detectctl.registry.store import Origin, Store
from detectctl.registry.wandb_conversation import LONGEST_PAUSE_S, Conversation, not_understood, one_line, pauses_s
from detectctl.waiting import Deadline

if TYPE_CHECKING:
    from detectctl.progress import Report


def work(request: child.Message, report: Report) -> child.Message:
    """Do what the request asks, see the module; raises as `wandb_source.fetch`."""
    temporary = Path(request["scratch"]) / "tmp"
    temporary.mkdir(mode=0o700)
    # Its helper process has a socket there. If the path is too long for one, it makes a folder in /tmp.
    os.environ["TMPDIR"] = str(plain_path(temporary))
    import wandb  # noqa: F401 - here rather than below, where its half a second would look like W&B's

    conversation = Conversation(
        request["about"],
        Path(request["scratch"]) / "wandb_cache_dir",
        Deadline(request["until"]),
        timeout_s=request["timeout_s"],
        patience_s=request["patience_s"],
        report=report,
    )
    _hear_storage(conversation)
    return conversation.watch(lambda: _talk(request, conversation))


def _hear_storage(conversation: Conversation) -> None:
    """From now on, `conversation` is told of each transfer in this process that `urllib3` is to try again.

    A certificate that is not trusted ends it at once, and no pause is longer than `LONGEST_PAUSE_S`, unless the server
    asks for that: the SDK's own policy is silent, and comes to pauses of two minutes.
    """
    from urllib3.exceptions import SSLError
    from urllib3.util.retry import Retry

    plain_increment, plain_backoff = Retry.increment, Retry.get_backoff_time

    def increment(self: Retry, *request: Any, response: Any = None, error: Any = None, **more: Any) -> Retry:
        if isinstance(error, SSLError):
            raise error
        conversation.hinder(_in_words(error) if response is None else f"HTTP {response.status}")
        method, url = request
        return plain_increment(self, method, url, response=response, error=error, **more)

    def get_backoff_time(self: Retry) -> float:
        return min(LONGEST_PAUSE_S, plain_backoff(self))

    Retry.increment = increment  # type: ignore[assignment, method-assign]
    Retry.get_backoff_time = get_backoff_time  # type: ignore[method-assign]


def _talk(request: child.Message, conversation: Conversation) -> child.Message:
    """Try until it works, or fails in a way that will not change; somebody else watches the deadline."""
    for pause_s in pauses_s():
        try:
            return _try(request, conversation)
        except _sdk_errors() as error:
            if not _may_pass(error):
                raise _by_cause(error, _subject(request)) from error
            conversation.hinder(_in_words(error), broken_off=True)
        except OSError as error:
            raise ModelError(
                "the model could not be stored",
                why=reason(error),
                hint=remedy(error, "the cache folder", "XDG_CACHE_HOME"),
            ) from error
        time.sleep(pause_s)
    raise AssertionError  # the pauses do not end


def _try(request: child.Message, conversation: Conversation) -> child.Message:
    import wandb
    from wandb.sdk import wandb_setup

    # How long the SDK waits for its helper process, which does not give up earlier.
    timeout_s = conversation.deadline.left_s + 1
    if request["do"] == "log in":
        _ = wandb.Api(timeout=timeout_s).default_entity  # asks
        return {}
    reference = _subject(request)
    assert isinstance(reference, Artifact)  # noqa: S101 - narrows the type
    _check_host(reference.page_host, wandb_setup.singleton().settings.app_url)
    api = wandb.Api(timeout=timeout_s)
    conversation.begin(f"looking up {reference.path}:{reference.alias}")
    if request["do"] == "list":
        return _list(api, reference)
    return _fetch(api, reference, request, conversation)


def _subject(request: child.Message) -> Artifact | str:
    return Artifact(**request["reference"]) if "reference" in request else str(request["about"])


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


def _fetch(api: Any, reference: Artifact, request: child.Message, conversation: Conversation) -> child.Message:
    artifact = _look_up(api, reference)
    # The SDK recomputes the digest once it has the manifest, so keep what the server said first.
    digest = artifact.digest
    manifest = artifact.manifest
    if manifest.digest() != digest:
        why = f"W&B's record says {digest}, its manifest {manifest.digest()}"
        raise _corrupt(reference, f"the artifact's manifest does not have the digest it should ({why})")
    member = served_file({path: entry.ref for path, entry in manifest.entries.items()}, reference)
    origin = Origin(artifact.name.split(":")[0], _path(artifact), artifact.version, digest, member)
    store = Store(Path(request["cache"]))
    version = f"{origin.artifact}:{origin.version}"
    conversation.begin(f"waiting for another process that downloads {version}", here=True)
    with store.lock(f"{origin.artifact} {digest}"):
        stored = store.find(origin)
        if stored is None:
            root = Path(request["scratch"]) / "artifact"
            entries = [artifact.get_entry(path) for path in files_of(member)]
            conversation.begin(f"downloading {version}", total=sum(entry.size for entry in entries))
            files = [_download(reference, artifact, entry, root) for entry in entries]
            conversation.received()
            conversation.begin(f"verifying {version}", here=True)
            for entry, file in zip(entries, files, strict=True):
                _verify(reference, entry, file)
            (file,) = files if len(files) == 1 else [pack(root / member, root / "export.zip")]
            stored = store.add(file, origin)
    return {**asdict(origin), "sha256": stored.sha256}


def _look_up(api: Any, reference: Artifact) -> Any:
    """The artifact: only here does a plain ValueError of the SDK mean that it was not found."""
    if reference.project.startswith(REGISTRY_PREFIX):
        _check_organization(api, reference)
    try:
        return api.artifact(f"{reference.path}:{reference.alias}")
    except _sdk_errors() as error:
        if _may_pass(error):
            raise
        raise _by_cause(error, reference, looking_up=True) from error


def _check_organization(api: Any, reference: Artifact) -> None:
    """Ask what the SDK would ask to find a registry's organization, so that its errors can be told from the others."""
    from wandb.sdk.artifacts._gqlutils import org_info_from_entity

    account = api.settings["entity"] or api.default_entity
    named = reference.entity or api.settings["organization"]
    try:
        api._resolve_org_entity_name(non_org_entity=account, org_or_entity=named)
    except ValueError as error:
        user = getattr(org_info_from_entity(api._service_api, account), "user", None) if account else None
        names = sorted(organization.name for organization in getattr(user, "organizations", None) or ())
        if named:
            what = f"{reference} is of an organization that {account} does not belong to"
        else:
            what = f"{reference} does not say of which organization"
        raise UsageError(
            what,
            why=f"{account} belongs to {', '.join(names)}" if names else one_line(str(error)),
            hint=f"put the organization in front: `--model '{names[0] if names else 'ORGANIZATION'}/"
            f"{reference.project}/{reference.collection}:{reference.alias}'`",
        ) from error


def _path(artifact: Any) -> str:
    return f"{artifact.entity}/{artifact.project}/{artifact.name.split(':')[0]}"


def _download(reference: Artifact, artifact: Any, entry: Any, root: Path) -> Path:
    """The one file, into a root that is ours alone; its signed address is asked for as the SDK's own download does."""
    found = next(iter(artifact.files(names=[str(entry.path)], per_page=1)), None)
    if found is None:
        raise _corrupt(reference, f"{entry.path} is in the artifact's manifest, but W&B has no such file")
    entry._download_url = found.direct_url
    return Path(entry.download(root=str(root)))


def _verify(reference: Artifact, entry: Any, file: Path) -> None:
    """Check every byte: `download` checks no digest, and reports success even without a file."""
    from wandb.sdk.lib.hashutil import md5_file_b64, xxh128_file_b64

    if not file.is_file():
        raise _corrupt(reference, f"{entry.path} is missing after the download")
    if file.stat().st_size != entry.size:
        why = f"it has {file.stat().st_size} bytes instead of {entry.size}"
        raise _corrupt(reference, f"{entry.path} is not the file it should be ({why})")
    hashed = xxh128_file_b64 if entry.digest_algorithm().value.endswith("XXH128") else md5_file_b64
    if hashed(str(file)) != entry.digest:
        raise _corrupt(reference, f"{entry.path} does not have the digest that the artifact's manifest promises")


def _sdk_errors() -> tuple[type[Exception], ...]:
    import requests
    import wandb
    from wandb.sdk.lib.service.service_connection import WandbApiFailedError

    return (wandb.errors.Error, WandbApiFailedError, requests.RequestException, ValueError)


def _by_cause(error: Exception, about: Artifact | str, *, looking_up: bool = False) -> ModelError:
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
            f"W&B refuses access to {about}",
            why=with_status,
            hint=f"set WANDB_API_KEY{log_in}, with an account that may read it",
        )
    if isinstance(about, str):
        return not_understood(about, with_status)
    if status in {404, 410}:
        return _missing(about, with_status)
    if looking_up and type(causes[-1]) is ValueError:
        return _missing(about, message)
    # A manifest that is not JSON; the SDK's own complaints about one are plain ValueErrors.
    unreadable = isinstance(causes[-1], (json.JSONDecodeError, UnicodeDecodeError))
    if not looking_up and (unreadable or type(causes[-1]) is ValueError):
        return _corrupt(about, f"what came cannot be read ({message})")
    return not_understood(str(about), with_status)


def _may_pass(error: Exception) -> bool:
    """Whether it was the network, or a server that broke off, beneath the tries that the SDK makes by itself."""
    import requests
    from wandb.sdk.lib.service.service_connection import WandbApiFailedError

    causes = _causes(error)
    if any(isinstance(cause, requests.exceptions.SSLError) for cause in causes):
        return False
    for cause in causes:
        if isinstance(cause, WandbApiFailedError):
            # Errors of GraphQL begin like this, and Go's about certificates have that in them.
            return _status(cause) is None and not re.match("input:|.*x509: ", str(cause), re.DOTALL)
    passing = requests.exceptions
    broken_off = (passing.ConnectionError, passing.ChunkedEncodingError, passing.Timeout, passing.RetryError)
    return any(isinstance(cause, broken_off) for cause in causes)


def _in_words(error: BaseException) -> str:
    """What is in a message that `requests` and `urllib3` have wrapped, and in the system's error beside it."""
    while error.args and isinstance(error.args[0], BaseException):
        error = error.args[0]
    told = [arg.strerror for arg in error.args[1:] if isinstance(arg, OSError) and arg.strerror]
    return one_line(str((*told, *error.args, error)[0]))


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


if __name__ == "__main__":
    child.serve_parent(work)
