"""What OpenAPI describes beyond the names of the routes: queries, bodies, answers, errors, keys, classes.

The schemas are made from the types of `detectctl.wire`, so an answer and its description cannot differ.
"""

from __future__ import annotations

import re
from types import UnionType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Final,
    Literal,
    NotRequired,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from detectctl import errors
from detectctl.serving import query
from detectctl.wire import ErrorJSON, ResultJSON, ServiceInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from pydantic import BaseModel

_PRIMITIVES: Final = {str: "string", float: "number", int: "integer", bool: "boolean", type(None): "null"}

_ANY: Final = (errors.InternalError, errors.BadGateway, errors.Overloaded, errors.Unavailable, errors.GatewayTimeout)
_IMAGE: Final = (*_ANY, errors.BadRequest, errors.BadParameter, errors.ImageTooLarge, errors.UnsupportedImage)
_FROM_URL: Final = (*_IMAGE, errors.BadUrl, errors.UrlNotAllowed, errors.FetchFailed, errors.FetchTimeout)
_FROM_BODY: Final = (*_IMAGE, errors.RequestTimeout)

PICTURES: Final = {"image/jpeg": "jpeg", "image/png": "png", "image/webp": "webp"}
"""The media types that `/annotate` writes, with Pillow's name of each."""

Route = dict[str, Any]
"""What the description of a route adds to the arguments of its decorator."""

METRICS_TYPES: Final = ("text/plain", "application/openmetrics-text")
"""What `/metrics` is written in, as `Accept` asks for."""
_TEXT: Final = {"schema": {"type": "string"}}
_FILE: Final = {"schema": {"type": "string", "format": "binary"}}
_FORM: Final = {"type": "object", "required": ["file"], "properties": {"file": _FILE["schema"]}}
_BODY_TYPES: Final = {"application/octet-stream": _FILE, "image/*": _FILE, "multipart/form-data": {"schema": _FORM}}
_BODY: Final = {"requestBody": {"required": True, "content": _BODY_TYPES}}


def schema_of(kind: Any) -> dict[str, Any]:
    """JSON Schema of a type of `detectctl.wire`: a dataclass, a TypedDict, or what their fields are made of.

    `Annotated` adds the keywords in a dictionary beside the type, or gives a type of the wire to a plain dictionary.
    """
    origin = get_origin(kind)
    if origin is None:
        if kind in _PRIMITIVES:
            return {"type": _PRIMITIVES[kind]}
        hints = get_type_hints(kind, include_extras=True)
        required = [name for name, hint in hints.items() if get_origin(hint) is not NotRequired]
        properties = {name: schema_of(hint) for name, hint in hints.items()}
        return {"type": "object", "required": required, "properties": properties}
    first, *others = get_args(kind)
    if origin is Annotated:
        return {**schema_of(first), **others[0]} if isinstance(others[0], dict) else schema_of(others[0])
    schemas: dict[Any, Callable[[], dict[str, Any]]] = {
        NotRequired: lambda: schema_of(first),
        Literal: lambda: {"enum": [first, *others]},
        Union: lambda: {"anyOf": [schema_of(one) for one in (first, *others)]},
        list: lambda: {"type": "array", "items": schema_of(first)},
        dict: lambda: {"type": "object", "additionalProperties": schema_of(others[0])},
    }
    return schemas[Union if origin is UnionType else origin]()


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _error(status: int, codes: list[str]) -> dict[str, Any]:
    error = schema_of(ErrorJSON)
    error["properties"]["code"] = {"enum": codes}
    schema = {
        "type": "object",
        "required": ["status", "error"],
        "properties": {"status": {"const": "error"}, "error": error},
    }
    answer: dict[str, Any] = {"description": ", ".join(codes), "content": _json(schema)}
    if status in {errors.Overloaded.status, errors.FetchFailed.status}:
        answer["headers"] = {"Retry-After": {"description": "seconds to wait", "schema": {"type": "integer"}}}
    return answer


def _responses(content: dict[str, Any], kinds: Iterable[type[errors.RequestError]]) -> dict[int | str, dict[str, Any]]:
    codes: dict[int, list[str]] = {}
    for kind in sorted(kinds, key=lambda kind: (kind.status, kind.code)):
        codes.setdefault(kind.status, []).append(kind.code)
    return {
        200: {"description": "done", "content": content},
        **{status: _error(status, names) for status, names in codes.items()},
    }


def _image_route(kind: type[BaseModel], content: dict[str, Any], kinds: Iterable[type[errors.RequestError]]) -> Route:
    body = {} if "image_url" in kind.model_fields else _BODY
    return {"responses": _responses(content, kinds), "openapi_extra": {"parameters": query.parameters(kind), **body}}


_RESULT: Final = _json(schema_of(ResultJSON))
_PICTURE: Final = dict.fromkeys(PICTURES, _FILE)

DETECT_URL: Final[Route] = _image_route(query.DetectUrlQuery, _RESULT, _FROM_URL)
DETECT_BODY: Final[Route] = _image_route(query.DetectQuery, _RESULT, _FROM_BODY)
ANNOTATE_URL: Final[Route] = _image_route(query.AnnotateUrlQuery, _PICTURE, (*_FROM_URL, errors.NotAcceptable))
ANNOTATE_BODY: Final[Route] = _image_route(query.AnnotateQuery, _PICTURE, (*_FROM_BODY, errors.NotAcceptable))
INFO: Final[Route] = {"responses": _responses(_json(schema_of(ServiceInfo)), _ANY)}
METRICS: Final[Route] = {"responses": _responses(dict.fromkeys(METRICS_TYPES, _TEXT), _ANY)}
HEAD: Final[Route] = {"responses": {200: {"description": "done", "content": {}}}}


def _thresholds(classes: Iterable[str]) -> str:
    """The pattern of thresholds for some of these classes, none of them twice."""
    number = r"(?:0(?:\.\d+)?|1(?:\.0+)?)"
    names = (re.sub(r"[\\^$.*+?()[\]{}|]", r"\\\g<0>", name) for name in classes)  # `re.escape` is Python's own
    one = f"(?:{'|'.join(names)})={number}"
    return rf"^(?!(?:.*,)?([^,]*)=[^,]*,(?:.*,)?\1=)(?:{number},)?{one}(?:,{one})*$"


def describe(
    schema: dict[str, Any], classes: Iterable[str], *, keys: bool, own_host: bool, open_routes: Collection[str]
) -> None:
    """Add to FastAPI's description what only the running service knows.

    Args:
        schema: changed.
        classes: of the model; they become the values of the parameter `class`, and what `conf` may name.
        keys: whether callers need one.
        own_host: whether callers without a key must use this machine's own name.
        open_routes: paths for which neither holds.
    """
    refusal = errors.Unauthorized if keys else errors.HostNotKnown if own_host else None
    known = sorted(set(classes))
    names = {"type": "array", "minItems": 1, "items": {"type": "string", "enum": known}}
    for path, operations in schema["paths"].items():
        for operation in operations.values():
            for parameter in operation.get("parameters", ()):
                if parameter["name"] == "class":
                    parameter["schema"] = names
                if parameter["name"] == "conf":
                    parameter["schema"]["anyOf"][1]["pattern"] = _thresholds(known)
            if refusal is not None and path not in open_routes:
                operation["responses"][str(refusal.status)] = _error(refusal.status, [refusal.code])
                if keys:
                    operation["security"] = [{"bearer": []}, {"header": []}]
    if keys:
        schema.setdefault("components", {})["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        }
