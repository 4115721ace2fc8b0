"""What the OpenAPI description adds to what FastAPI finds out by itself: answers, bodies, errors, keys, classes.

The schemas are made from the types of `detectctl.wire`, so an answer and its description cannot differ.
"""

from __future__ import annotations

from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Union, get_args, get_origin, get_type_hints

from detectctl.errors import (
    BadGateway,
    BadParameter,
    BadRequest,
    BadUrl,
    FetchFailed,
    FetchTimeout,
    GatewayTimeout,
    HostNotKnown,
    ImageTooLarge,
    InternalError,
    NotAcceptable,
    Overloaded,
    RequestError,
    RequestTimeout,
    Unauthorized,
    Unavailable,
    UnsupportedImage,
    UrlNotAllowed,
)
from detectctl.serving.guard import OPEN_ROUTES
from detectctl.wire import ErrorInfo, ResultJSON, ServiceInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_PRIMITIVES: Final = {str: "string", float: "number", int: "integer", bool: "boolean", type(None): "null"}

_ANY: Final = (InternalError, BadGateway, Overloaded, Unavailable, GatewayTimeout)
_IMAGE: Final = (*_ANY, BadRequest, BadParameter, ImageTooLarge, UnsupportedImage)
_FROM_URL: Final = (*_IMAGE, BadUrl, UrlNotAllowed, FetchFailed, FetchTimeout)
_FROM_BODY: Final = (*_IMAGE, RequestTimeout)

PICTURES: Final = {"image/jpeg": "jpeg", "image/png": "png", "image/webp": "webp"}
"""The media types that `/annotate` writes, with Pillow's name of each."""

Responses = dict[int | str, dict[str, Any]]

BODY: Final = {
    "requestBody": {
        "required": True,
        "content": {
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            "image/*": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {"file": {"type": "string", "format": "binary"}},
                }
            },
        },
    }
}
"""OpenAPI of an image in the request's body."""


def schema_of(kind: Any) -> dict[str, Any]:
    """JSON Schema of a type of `detectctl.wire`: a dataclass, a TypedDict, or what their fields are made of.

    `Annotated` adds the keywords in a dictionary beside the type, or gives a type of the wire to a plain dictionary.
    """
    origin = get_origin(kind)
    if origin is None:
        if kind in _PRIMITIVES:
            return {"type": _PRIMITIVES[kind]}
        fields = {name: schema_of(hint) for name, hint in get_type_hints(kind, include_extras=True).items()}
        return {"type": "object", "required": list(fields), "properties": fields}
    first, *others = get_args(kind)
    if origin is Annotated:
        return {**schema_of(first), **others[0]} if isinstance(others[0], dict) else schema_of(others[0])
    schemas: dict[Any, Callable[[], dict[str, Any]]] = {
        Literal: lambda: {"enum": [first, *others]},
        Union: lambda: {"anyOf": [schema_of(one) for one in (first, *others)]},
        list: lambda: {"type": "array", "items": schema_of(first)},
        dict: lambda: {"type": "object", "additionalProperties": schema_of(others[0])},
    }
    return schemas[Union if origin is UnionType else origin]()


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _error(status: int, codes: list[str]) -> dict[str, Any]:
    error = schema_of(ErrorInfo)
    error["properties"]["code"] = {"enum": codes}
    schema = {
        "type": "object",
        "required": ["status", "error"],
        "properties": {"status": {"const": "error"}, "error": error},
    }
    answer: dict[str, Any] = {"description": ", ".join(codes), "content": _json(schema)}
    if status == Overloaded.status:
        answer["headers"] = {"Retry-After": {"description": "seconds to wait", "schema": {"type": "integer"}}}
    return answer


def _responses(content: dict[str, Any], errors: Iterable[type[RequestError]]) -> Responses:
    codes: dict[int, list[str]] = {}
    for error in errors:
        codes.setdefault(error.status, []).append(error.code)
    return {
        200: {"description": "done", "content": content},
        **{status: _error(status, sorted(names)) for status, names in sorted(codes.items())},
    }


_PICTURE_CONTENT: Final = {one: {"schema": {"type": "string", "format": "binary"}} for one in PICTURES}

DETECT_URL: Final = _responses(_json(schema_of(ResultJSON)), _FROM_URL)
DETECT_BODY: Final = _responses(_json(schema_of(ResultJSON)), _FROM_BODY)
ANNOTATE_URL: Final = _responses(_PICTURE_CONTENT, (*_FROM_URL, NotAcceptable))
ANNOTATE_BODY: Final = _responses(_PICTURE_CONTENT, (*_FROM_BODY, NotAcceptable))
INFO: Final = _responses(_json(schema_of(ServiceInfo)), _ANY)
HEAD: Final[Responses] = {200: {"description": "done", "content": {}}}


def describe(schema: dict[str, Any], classes: Iterable[str], *, keys: bool, own_host: bool) -> None:
    """Add to FastAPI's description what only the running service knows.

    Args:
        schema: changed.
        classes: of the model.
        keys: whether callers need one.
        own_host: whether callers without a key must use this machine's own name.
    """
    _describe_classes(schema, sorted(classes))
    if keys:
        schema.setdefault("components", {})["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        }
        for operation in _add_error(schema, Unauthorized):
            operation["security"] = [{"bearer": []}, {"header": []}]
    elif own_host:
        _add_error(schema, HostNotKnown)


def _describe_classes(schema: dict[str, Any], names: list[str]) -> None:
    """List the model's classes as the values of the parameter `class`."""
    for operations in schema["paths"].values():
        for operation in operations.values():
            for parameter in operation.get("parameters", ()):
                if parameter["name"] == "class":
                    parameter["schema"] = {"type": "array", "minItems": 1, "items": {"type": "string", "enum": names}}


def _add_error(schema: dict[str, Any], error: type[RequestError]) -> list[dict[str, Any]]:
    """Add an answer of the guard to the operations that it guards, which are returned."""
    guarded = [
        operation
        for path, operations in schema["paths"].items()
        if path not in OPEN_ROUTES
        for operation in operations.values()
    ]
    for operation in guarded:
        operation["responses"][str(error.status)] = _error(error.status, [error.code])
    return guarded
