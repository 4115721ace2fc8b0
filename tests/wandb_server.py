"""A stand-in W&B server over real HTTP, enough for the unmodified SDK to resolve, list and download artifacts.

    with WandbServer() as wandb:
        wandb.log("acme/registry/yolo", {"best.pt": path})                    # v0, latest
        wandb.link("acme/registry/yolo:v0", "Acme/wandb-registry-Models/yolo", aliases=["production"])
        wandb.fail("file", "hang")
        environ = wandb.env(tmp_path)

Field names and their shapes follow the SDK's own queries. What it serves can change while it runs.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import struct
import sys
import threading
import time
import urllib.parse
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from wandb_forks import FORKED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

API_KEY = "0123456789abcdef0123456789abcdef01234567"  # well-formed, and nobody's
OPERATIONS = {
    "Viewer": "viewer",
    "GetDefaultEntity": "entity",
    "ServerFeaturesQuery": "features",
    "FetchOrgInfoFromEntity": "org",
    "ArtifactMembershipByName": "artifact",
    "FetchArtifactManifest": "manifest",
    "ArtifactMembershipFiles": "file_urls",
    "ProjectArtifacts": "list",
}
"""GraphQL operation → the short name that `fail` and `requests` use. "manifest_file" and "file" are plain GETs."""

FaultKind = Literal[
    "status", "slow", "hang", "reset", "truncated", "short", "wrong_bytes", "wrong_digest", "wrong_version"
]


@dataclass
class Fault:
    """What goes wrong with one operation, `times` times (None: for ever).

    "truncated" cuts the body short of its Content-Length, "short" sends half a body with an honest length,
    "wrong_digest" makes the manifest promise another digest, "wrong_version" be of a form that nobody knows.
    """

    kind: FaultKind
    status: int = 500
    retry_after: str | None = None
    times: int | None = None
    bytes_per_s: int = 100_000


@dataclass
class Artifact:
    """One version as it was logged."""

    id: str
    entity: str
    project: str
    collection: str
    type: str
    index: int
    files: dict[str, bytes]
    references: dict[str, str]
    metadata: dict[str, Any]
    created_at: str

    def manifest(self) -> dict[str, Any]:
        contents: dict[str, Any] = {
            path: {"digest": _md5_b64(data), "size": len(data), "birthArtifactID": self.id}
            for path, data in self.files.items()
        }
        for path, ref in self.references.items():
            contents[path] = {"digest": "etag", "ref": ref, "size": 1}
        config = {"storageLayout": "V2"}
        return {
            "version": 1,
            "storagePolicy": "wandb-storage-policy-v1",
            "storagePolicyConfig": config,
            "contents": contents,
        }

    @property
    def digest(self) -> str:
        hasher = hashlib.md5(b"wandb-artifact-manifest-v1\n", usedforsecurity=False)
        for path, entry in sorted(self.manifest()["contents"].items()):
            hasher.update(f"{path}:{entry['digest']}\n".encode())
        return hasher.hexdigest()


@dataclass
class Collection:
    """Versions (own or linked) and the aliases that point at them."""

    portfolio: bool
    versions: list[Artifact] = field(default_factory=list)
    aliases: dict[str, int] = field(default_factory=dict)


class WandbServer:
    """The server in a thread; `requests` lists the operations it has answered."""

    def __init__(self, port: int = 0, org: str = "Acme", org_entity: str = "acme-org", entity: str = "acme") -> None:
        self.org, self.org_entity, self.entity = org, org_entity, entity
        self.other_orgs: list[str] = []  # with any, `entity` is a person who belongs to all of them
        self.collections: dict[tuple[str, str, str], Collection] = {}
        self.artifacts: dict[str, Artifact] = {}
        self.faults: dict[str, Fault] = {}
        self.requests: list[str] = []
        self.asked_at: list[float] = []  # of each of `requests`, on the monotonic clock
        self.seen_authorization: dict[str, set[str | None]] = {}
        self._stopped = threading.Event()
        self._listen(port)
        self.port = self._http.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.files_at = self.url  # W&B keeps files on another host than its API

    def _listen(self, port: int) -> None:
        self._http = _Http(("127.0.0.1", port), _Handler)
        self._http.wandb = self
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def start(self) -> Self:
        self._thread.start()
        return self

    def come_back(self) -> None:
        """Answer again after `stop`, at the same address, with what there was."""
        self._stopped.clear()
        self._listen(self.port)
        self.start()

    def stop(self) -> None:
        """Refuse connections from now on; answers that hang are dropped."""
        self._stopped.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        if not self._stopped.is_set():
            self.stop()

    def env(self, home: Path, base: Mapping[str, str] | None = None) -> dict[str, str]:
        """An environment whose SDK talks to this server and finds no other settings, keys or running service."""
        home.mkdir(parents=True, exist_ok=True)
        kept = {key: value for key, value in (base or {}).items() if not key.startswith("WANDB_")}
        return {
            "PATH": "/usr/bin:/bin",
            **kept,
            "HOME": str(home),
            "XDG_CONFIG_HOME": str(home / ".config"),
            "WANDB_BASE_URL": self.url,
            "WANDB_API_KEY": API_KEY,
            FORKED: "1",
        }

    # --- what it holds -------------------------------------------------------------------------------------------

    def log(
        self,
        path: str,
        files: Mapping[str, bytes | Path],
        *,
        aliases: Iterable[str] = (),
        references: Mapping[str, str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        artifact_type: str = "model",
    ) -> str:
        """Log a new version of `entity/project/name`, move `latest` and `aliases` to it, and return its `vN`."""
        entity, project, name = path.split("/")
        collection = self.collections.setdefault((entity, project, name), Collection(portfolio=False))
        index = len(collection.versions)
        artifact = Artifact(
            id=base64.b64encode(f"Artifact:{len(self.artifacts)}".encode()).decode(),
            entity=entity,
            project=project,
            collection=name,
            type=artifact_type,
            index=index,
            files={key: data.read_bytes() if isinstance(data, Path) else data for key, data in files.items()},
            references=dict(references or {}),
            metadata=dict(metadata or {}),
            created_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(1_760_000_000 + 60 * len(self.artifacts))),
        )
        self.artifacts[artifact.id] = artifact
        collection.versions.append(artifact)
        collection.aliases |= dict.fromkeys(("latest", *aliases), index)
        return f"v{index}"

    def link(self, source: str, target: str, *, aliases: Iterable[str] = ()) -> str:
        """Link `entity/project/name:vN` into `wandb-registry-NAME/collection`, and return its `vN` there."""
        path, _, version = source.partition(":v")
        artifact = self.collections[tuple(path.split("/"))].versions[int(version)]  # type: ignore[index]
        project, name = target.split("/")[-2:]
        collection = self.collections.setdefault((self.org_entity, project, name), Collection(portfolio=True))
        collection.versions.append(artifact)
        index = len(collection.versions) - 1
        collection.aliases |= dict.fromkeys(("latest", *aliases), index)
        return f"v{index}"

    def move_alias(self, path: str, alias: str, version: str) -> None:
        """Point `alias` of `entity/project/name` at `vN`."""
        self.collections[tuple(path.split("/"))].aliases[alias] = int(version[1:])  # type: ignore[index]

    def fail(self, operation: str, kind: FaultKind, **options: Any) -> None:
        """Let `operation` go wrong from now on; see `OPERATIONS`, or "graphql" for all of them."""
        self.faults[operation] = Fault(kind, **options)

    def heal(self) -> None:
        """Forget all faults."""
        self.faults.clear()

    # --- how it answers ------------------------------------------------------------------------------------------

    def take_fault(self, *operations: str) -> Fault | None:
        for operation in operations:
            fault = self.faults.get(operation)
            if fault is None:
                continue
            if fault.times is not None:
                fault.times -= 1
                if fault.times <= 0:
                    del self.faults[operation]
            return fault
        return None

    def hang(self) -> None:
        self._stopped.wait(600)

    def answer(self, operation: str, variables: dict[str, Any]) -> dict[str, Any]:
        answers: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "viewer": self._viewer,
            "entity": self._viewer,
            "features": lambda _: {"serverInfo": {"features": []}},
            "org": self._organization,
            "artifact": lambda variables: {"project": self._membership(variables)},
            "manifest": self._manifest_url,
            "file_urls": lambda variables: {"project": self._file_urls(variables)},
            "list": lambda variables: {"project": self._listing(variables)},
        }
        return answers[operation](variables)

    def _viewer(self, _: dict[str, Any]) -> dict[str, Any]:
        names = {"entity": self.entity, "username": self.entity, "name": "A", "email": "a@example.invalid"}
        return {"viewer": {"id": "VXNlcjox", **names, "flags": "{}", "admin": False, "teams": {"edges": []}}}

    def _organization(self, _: dict[str, Any]) -> dict[str, Any]:
        org = {"name": self.org, "orgEntity": {"name": self.org_entity}}
        others = [{"name": name, "orgEntity": {"name": f"{name.lower()}-org"}} for name in self.other_orgs]
        return {"entity": {"organization": None if others else org, "user": {"organizations": [*others, org]}}}

    def _manifest_url(self, variables: dict[str, Any]) -> dict[str, Any]:
        url = f"{self.url}/manifest/{urllib.parse.quote(variables['id'])}?Signature=signed-secret"
        return {"artifact": {"currentManifest": {"file": {"directUrl": url}}}}

    def _find(self, variables: dict[str, Any], name: str) -> Collection | None:
        return self.collections.get((variables["entity"], variables["project"], name))

    def _membership(self, variables: dict[str, Any]) -> dict[str, Any] | None:
        if not any(key[:2] == (variables["entity"], variables["project"]) for key in self.collections):
            return None
        name, _, alias = variables["name"].partition(":")
        collection = self._find(variables, name)
        index = None if collection is None else _index(collection, alias or "latest")
        if collection is None or index is None:
            return {"artifactCollectionMembership": None}
        artifact = collection.versions[index]
        names = [alias for alias, at in collection.aliases.items() if at == index]
        membership = {
            "__typename": "ArtifactCollectionMembership",
            "id": f"M{index}",
            "versionIndex": index,
            "createdAt": artifact.created_at,
            "aliases": [_alias(item) for item in (*names, f"v{index}")],
            "artifactCollection": _collection(variables["entity"], variables["project"], name, collection.portfolio),
            "artifact": self._artifact(artifact),
        }
        return {"artifactCollectionMembership": membership}

    def _artifact(self, artifact: Artifact) -> dict[str, Any]:
        aliases = []
        for (entity, project, name), collection in self.collections.items():
            where = _collection(entity, project, name, collection.portfolio)
            aliases += [
                {**_alias(alias), "artifactCollection": where}
                for alias, at in collection.aliases.items()
                if collection.versions[at] is artifact
            ]
        sizes = [entry["size"] for entry in artifact.manifest()["contents"].values()]
        return {
            "__typename": "Artifact",
            "id": artifact.id,
            "artifactSequence": _collection(artifact.entity, artifact.project, artifact.collection, portfolio=False),
            "versionIndex": artifact.index,
            "artifactType": {"name": artifact.type},
            "description": None,
            "metadata": json.dumps(artifact.metadata),
            "ttlDurationSeconds": -2,
            "ttlIsInherited": False,
            "tags": [],
            "historyStep": None,
            "state": "COMMITTED",
            "size": sum(sizes),
            "digest": artifact.digest,
            "digestAlgorithm": "MANIFEST_MD5",
            "commitHash": "c0ffee",
            "fileCount": len(sizes),
            "createdAt": artifact.created_at,
            "updatedAt": artifact.created_at,
            "aliases": aliases,
        }

    def _file_urls(self, variables: dict[str, Any]) -> dict[str, Any] | None:
        collection = self._find(variables, variables["collection"])
        index = None if collection is None else _index(collection, variables["alias"])
        if collection is None or index is None:
            return None
        artifact = collection.versions[index]
        edges = []
        for number, path in enumerate(artifact.files):
            if path not in variables["fileNames"]:
                continue
            place = f"{urllib.parse.quote(artifact.id)}/{urllib.parse.quote(path)}"
            url = f"{self.files_at}/files/{place}?Signature=signed-secret"
            about = dict.fromkeys(("url", "storagePath", "mimetype", "updatedAt", "digest", "md5"))
            size = len(artifact.files[path])
            node = {"__typename": "File", "id": f"F{number}", "name": path, "sizeBytes": size, "directUrl": url}
            edges.append({"node": node | about})
        files = {"pageInfo": _PAGE_INFO, "edges": edges, "totalCount": len(edges)}
        typename = "ArtifactPortfolio" if collection.portfolio else "ArtifactSequence"
        return {"artifactCollection": {"__typename": typename, "artifactMembership": {"files": files}}}

    def _listing(self, variables: dict[str, Any]) -> dict[str, Any] | None:
        collection = self._find(variables, variables["collection"])
        if collection is None:
            return None
        size = variables.get("perPage") or 50
        start = int(variables.get("cursor") or 0)
        page = list(enumerate(collection.versions))[start : start + size]
        more = start + size < len(collection.versions)
        edges = [{"version": f"v{index}", "node": self._artifact(artifact)} for index, artifact in page]
        typename = "ArtifactPortfolio" if collection.portfolio else "ArtifactSequence"
        artifacts = {
            "totalCount": len(collection.versions),
            "pageInfo": {**_PAGE_INFO, "endCursor": str(start + size), "hasNextPage": more},
            "edges": edges,
        }
        return {"artifactType": {"artifactCollection": {"__typename": typename, "artifacts": artifacts}}}


_PAGE_INFO = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}


def _md5(data: bytes) -> bytes:
    return hashlib.md5(data, usedforsecurity=False).digest()


def _md5_b64(data: bytes) -> str:
    return base64.b64encode(_md5(data)).decode()


def _alias(name: str) -> dict[str, str]:
    return {"__typename": "ArtifactAlias", "id": f"A-{name}", "alias": name}


def _collection(entity: str, project: str, name: str, portfolio: bool) -> dict[str, Any]:
    owner = {"id": "UHJvamVjdDox", "internalId": "1", "name": project, "entity": {"name": entity}}
    return {"__typename": "ArtifactPortfolio" if portfolio else "ArtifactSequence", "name": name, "project": owner}


def _index(collection: Collection, alias: str) -> int | None:
    if re.fullmatch(r"v\d+", alias):
        index = int(alias[1:])
        return index if index < len(collection.versions) else None
    return collection.aliases.get(alias)


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # a hanging answer must not keep the test
    wandb: WandbServer

    def handle_error(self, *who: Any) -> None:
        if not isinstance(sys.exc_info()[1], OSError):  # those are clients that went away, which is what tests do
            super().handle_error(*who)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Http

    @property
    def wandb(self) -> WandbServer:
        return self.server.wandb

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
        found = re.search(r"\b(?:query|mutation)\s+(\w+)", body.get("query", ""))
        operation = OPERATIONS.get(found.group(1) if found else "", "unknown")
        fault = self.begin(operation, "graphql")
        if fault is not None and fault.kind != "slow":
            self.misbehave(fault, b"{}")
            return
        if fault is not None:
            time.sleep(1)
        if self.headers.get("Authorization") != _basic(API_KEY):
            self.reply(401, json.dumps({"errors": [{"message": "user is not logged in"}]}).encode())
            return
        if operation == "unknown":
            self.reply(400, json.dumps({"errors": [{"message": f"unknown: {body.get('query')}"}]}).encode())
            return
        answer = {"data": self.wandb.answer(operation, body.get("variables") or {})}
        self.reply(200, json.dumps(answer).encode())

    def do_GET(self) -> None:
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        _, kind, *rest = path.split("/", 3)
        if kind == "manifest" and rest:
            self.send_manifest(self.wandb.artifacts["/".join(rest)])
        elif kind == "files" and len(rest) == 2:
            fault = self.begin("file")
            self.send_file(self.wandb.artifacts[rest[0]].files[rest[1]], fault)
        elif kind == "artifactsV2":  # where the SDK turns, with the key, when a signed address is refused
            fault = self.begin("file")
            files = {_md5(data).hex(): data for item in self.wandb.artifacts.values() for data in item.files.values()}
            self.send_file(files[path.split("/")[-2]], fault)
        else:
            self.begin("unknown")
            self.reply(404, b"not found")

    def send_manifest(self, artifact: Artifact) -> None:
        fault = self.begin("manifest_file")
        manifest = artifact.manifest()
        if fault is not None and fault.kind == "wrong_digest":
            first = next(iter(manifest["contents"].values()))
            first["digest"] = _md5_b64(b"another")
            fault = None
        if fault is not None and fault.kind == "wrong_version":
            manifest["version"] = 99
            fault = None
        self.send_file(json.dumps(manifest).encode(), fault)

    def begin(self, operation: str, *groups: str) -> Fault | None:
        self.wandb.requests.append(operation)
        self.wandb.asked_at.append(time.monotonic())
        self.wandb.seen_authorization.setdefault(operation, set()).add(self.headers.get("Authorization"))
        return self.wandb.take_fault(operation, *groups)

    def send_file(self, data: bytes, fault: Fault | None) -> None:
        if fault is None:
            self.reply(200, data)
        elif fault.kind == "wrong_bytes":
            self.reply(200, data[:-1] + bytes([data[-1] ^ 0xFF]))
        elif fault.kind == "short":
            self.reply(200, data[: len(data) // 2])
        else:
            self.misbehave(fault, data)

    def misbehave(self, fault: Fault, data: bytes) -> None:
        if fault.kind == "status":
            body = json.dumps({"errors": [{"message": f"fault {fault.status}"}]}).encode()
            self.reply(fault.status, body, retry_after=fault.retry_after)
        elif fault.kind == "hang":
            self.wandb.hang()
            self.close_connection = True
        elif fault.kind == "reset":
            # SO_LINGER 0 makes the close a TCP reset instead of an orderly end.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True
        elif fault.kind == "truncated":
            self.reply(200, data[: len(data) // 2], length=len(data))
            self.close_connection = True
        elif fault.kind == "slow":
            self.reply(200, b"", length=len(data))
            step = max(1, fault.bytes_per_s // 10)
            for start in range(0, len(data), step):
                self.send(data[start : start + step])
                if self.wandb._stopped.wait(0.1):
                    return

    def reply(self, status: int, data: bytes, length: int | None = None, retry_after: str | None = None) -> None:
        self.send_response(status)
        if retry_after is not None:
            self.send_header("Retry-After", retry_after)
        self.send_header("Content-Length", str(len(data) if length is None else length))
        self.end_headers()
        self.send(data)

    def send(self, data: bytes) -> None:
        try:
            self.wfile.write(data)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True


def _basic(key: str) -> str:
    return "Basic " + base64.b64encode(f"api:{key}".encode()).decode()
