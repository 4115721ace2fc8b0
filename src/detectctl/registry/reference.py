"""What the user may write after `--model`, parsed into what it refers to.

| text | is |
|---|---|
| `base`, `yolo26n`, `yolo11s-seg`, … | one of Ultralytics' own checkpoints |
| an existing file, or anything that ends in `.pt` or `.onnx` | a local checkpoint, or an export |
| an existing folder with one OpenVINO network, or anything that ends in `_openvino_model` | an export |
| `entity/project/name[:alias]` | a W&B artifact; so are `entity/model-registry/…` and `entity/registry/…` |
| `[org/]wandb-registry-NAME/collection[:alias]` | the same in a W&B registry; `org` and `NAME` may hold spaces |
| `wandb://` and one of those, or a copied artifact or registry page address | the same |

The name of a base model is never a path, whatever the current folder holds: a file of that name is `./yolo26n`.
A W&B reference may end in `#path/in/artifact.pt`, or `.onnx`, `.xml`, `.zip`. Without an alias it means `:latest`, as
it does for W&B.
"""

from __future__ import annotations

import difflib
import os
import re
import urllib.parse
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn

from detectctl import exports
from detectctl.errors import UsageError
from detectctl.files import at_home
from detectctl.registry.base_names import BASE_NAMES, DEFAULT_BASE, nearest, refuse_unserved

REGISTRY_PREFIX = "wandb-registry-"

_FORM = "write it as entity/project/name:alias"
_FORMS = "base | yolo26n-seg | path/to/best.pt | entity/project/name:alias | wandb-registry-NAME/collection:alias"


@dataclass(frozen=True, slots=True)
class BaseModel:
    """One of Ultralytics' own checkpoints; `name` is one of `base_names.BASE_NAMES`."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class LocalFile:
    """An existing file, or the folder of an export; `path` is absolute."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True, slots=True)
class Artifact:
    """A version of a W&B artifact collection, by `vN` or by an alias that may move.

    Attributes:
        entity: W&B entity or organization; None where a registry reference leaves it to the user's W&B settings.
        project: project, or `wandb-registry-NAME`.
        collection: the artifact's name.
        alias: `vN` or any alias.
        checkpoint: path of the checkpoint inside the artifact; None where detectctl is to choose it.
        page_host: the server, where the reference was the address of a page; None leaves it to the W&B settings.
    """

    entity: str | None
    project: str
    collection: str
    alias: str = "latest"
    checkpoint: str | None = None
    page_host: str | None = field(default=None, compare=False)

    @property
    def path(self) -> str:
        """What W&B's SDK calls the artifact's name, without alias."""
        return "/".join(part for part in (self.entity, self.project, self.collection) if part)

    def __str__(self) -> str:
        return f"{self.path}:{self.alias}" + (f"#{self.checkpoint}" if self.checkpoint else "")


Reference = BaseModel | LocalFile | Artifact


def parse(text: str) -> Reference:
    """Tell what `text` refers to; UsageError names the part that is wrong, and the right form.

    A `.pt` file or an export that does not exist is an error here already.
    """
    text = text.strip()
    if not text:
        _refuse(text, "it is empty")
    if text == "base" or text in BASE_NAMES:
        return BaseModel(DEFAULT_BASE if text == "base" else text)
    if text.startswith(("http://", "https://")):
        return _parse_page(text)
    if text.startswith("wandb://"):
        return _parse_artifact(text.removeprefix("wandb://"), text)
    path = Path(at_home(text))
    # Not `Path.is_file`: a name that is too long for the file system is not an error here: it is not a file.
    if os.path.isfile(path):  # noqa: PTH113
        return LocalFile(path.absolute())
    folder = os.path.isdir(path)  # noqa: PTH112
    if folder and (exports.network_in(path) or exports.other_format(path.name)):
        return LocalFile(path.absolute())
    if "#" not in text and text.endswith((".pt", ".onnx", exports.FOLDER)):
        _refuse_missing_file(path)
    if folder and ":" not in text:
        _refuse(text, "it is a folder", "name the checkpoint in it: " + str(path / "best.pt"))
    if "/" not in text:
        _refuse_word(text)
    return _parse_artifact(text, text)


def _refuse(text: str, why: str, hint: str = f"write one of: {_FORMS}") -> NoReturn:
    raise UsageError(f"{text!r} is not a model reference", why=why, hint=hint)


def _refuse_missing_file(path: Path) -> NoReturn:
    hint, is_name, near = "check the path", path.name == str(path), nearest(path.stem)
    if is_name:
        refuse_unserved(path.stem)
    if path.stem.lower() in {name.lower() for name in near}:
        hint = f"for Ultralytics' own checkpoint use `--model {near[0]}`"
    elif path.parent.is_dir():
        there = sorted(item.name for item in path.parent.glob(f"*{path.suffix or exports.FOLDER}"))
        like = difflib.get_close_matches(path.name, there, n=1) or ([] if is_name and near else there[:1])
        if like:
            hint = f"did you mean {path.parent / like[0]}?"
        elif is_name and near:
            hint = f"check the path, or use one of Ultralytics' own: `--model {near[0]}`"
    if path.name.endswith(exports.FOLDER) and path.is_dir():
        raise UsageError(
            f"{path} is not an OpenVINO export",
            why="such a folder holds exactly one network: an .xml file with its .bin",
            hint="give the folder that `yolo export format=openvino` writes",
        )
    ending = path.suffix or exports.FOLDER
    raise UsageError(f"file {path} not found", why=f"a reference that ends in {ending} is a local model", hint=hint)


def _refuse_word(text: str) -> NoReturn:
    word = text.partition(":")[0]
    refuse_unserved(word)
    if near := nearest(word):
        _refuse(text, "no base model has this name", f"did you mean {', '.join(near)}?")
    _refuse(text, "it is neither a base model nor an existing file, and a W&B artifact is written entity/project/name")


def _parse_artifact(body: str, text: str) -> Artifact:
    """`body` is `[entity/]project/name[:alias][#path]`; `text` is what the user wrote, for errors."""
    body, hash_sign, inner = body.partition("#")
    if hash_sign:
        _check_inner(inner, text)
    path, colon, alias = body.partition(":")
    if colon and (not alias or "/" in alias or ":" in alias):
        found = "it is empty" if not alias else f"{alias!r} holds a '/' or ':'"
        _refuse(text, f"the alias is wrong: {found}", f"{_FORM}, as in :latest or :v3")
    parts = path.split("/")
    for part in parts:
        _check_part(part, text)
    registry = len(parts) >= 2 and parts[-2].startswith(REGISTRY_PREFIX)
    if registry and parts[-2] == REGISTRY_PREFIX:
        _refuse(text, "the registry's name is missing", "write it as wandb-registry-NAME/collection:alias")
    match parts:
        case [entity, project, name]:
            return Artifact(entity, project, name, alias or "latest", inner or None)
        case [project, name] if registry:
            return Artifact(None, project, name, alias or "latest", inner or None)
        case [_, _]:
            why = "it has two parts: the entity is missing, or the file does not exist"
            _refuse(text, why, f"{_FORM}, as in ENTITY/{body}")
        case [_]:
            _refuse(text, "the entity and the project are missing", _FORM)
        case _:
            _refuse(text, f"it has {len(parts)} parts", _FORM)


def _check_part(part: str, text: str) -> None:
    if not part:
        _refuse(text, "a part between the slashes is empty", _FORM)
    if part in {".", ".."}:
        _refuse(text, f"the part {part!r} is a folder, and no such file exists", _FORM)
    if part != part.strip():
        _refuse(text, f"the part {part!r} begins or ends with a space", _FORM)
    wrong = re.search(r"[\\?%\x00-\x1f\x7f]", part)
    if wrong:
        _refuse(text, f"the part {part!r} holds {wrong.group()!r}", _FORM)


def _check_inner(inner: str, text: str) -> None:
    form = f"{_FORM}#path/in/artifact.pt"
    if not inner.endswith((".pt", *exports.SUFFIXES)) and not exports.other_format(inner):
        _refuse(text, f"{inner!r} after '#' is not the path of a .pt file or an export", form)
    if inner.startswith("/") or any(part in {"", ".", ".."} for part in inner.split("/")):
        _refuse(text, f"{inner!r} after '#' is not a plain path in the artifact", form)


def _parse_page(text: str) -> Artifact:
    """A page's address is told by its path: every company's W&B has its own host, to be compared later."""
    url = urllib.parse.urlsplit(text)
    parts = [urllib.parse.unquote(part) for part in url.path.split("/") if part]
    query = dict(urllib.parse.parse_qsl(url.query))
    if "selectionPath" in query:
        # …/orgs/ORG/registry/NAME?selectionPath=ENTITY/wandb-registry-NAME/COLLECTION&version=vN
        body = f"{query['selectionPath']}:{query.get('version', 'latest')}"
    elif "artifacts" in parts[2:3] and len(parts) >= 5:
        # …/ENTITY/PROJECT/artifacts/TYPE/NAME[/vN[/files/PATH]]
        entity, project, _, _, name, *rest = parts
        alias = rest[0] if rest else "latest"
        inner = "/".join(rest[2:]) if rest[1:2] == ["files"] else ""
        body = f"{entity}/{project}/{name}:{alias}" + (f"#{inner}" if inner else "")
    else:
        _refuse(
            text,
            "it is not the address of a W&B artifact page, and models are not downloaded from elsewhere",
            "copy the address of a version's page: https://HOST/ENTITY/PROJECT/artifacts/TYPE/NAME/vN",
        )
    return replace(_parse_artifact(body, text), page_host=url.netloc)
