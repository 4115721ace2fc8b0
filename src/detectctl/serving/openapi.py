"""What the OpenAPI description says beside what FastAPI finds out by itself: answers, bodies, errors, keys, classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from detectctl.errors import REQUEST_ERRORS, HostNotKnown
from detectctl.serving.guard import OPEN_ROUTES

if TYPE_CHECKING:
    from collections.abc import Iterable

_ERROR_SCHEMA: Final = {
    "type": "object",
    "required": ["status", "error"],
    "properties": {
        "status": {"const": "error"},
        "error": {
            "type": "object",
            "required": ["code", "message"],
            "properties": {"code": {"type": "string"}, "message": {"type": "string"}},
        },
    },
}
_ERROR_CONTENT: Final = {"application/json": {"schema": _ERROR_SCHEMA}}
_DETECTION_SCHEMA: Final = {
    "type": "object",
    "required": ["status", "objects", "image", "model"],
    "properties": {
        "status": {"enum": ["found", "not found"]},
        "objects": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["class", "coordinates", "confidence", "class_id"],
                "properties": {
                    "class": {"type": "string"},
                    "coordinates": {"type": "array", "items": {"type": "number"}, "minItems": 4, "maxItems": 4},
                    "confidence": {"type": "number", "minimum": 0, "maximum": 1},
                    "class_id": {"type": "integer", "minimum": 0},
                },
            },
        },
        "image": {
            "type": "object",
            "required": ["width", "height"],
            "properties": {"width": {"type": "integer"}, "height": {"type": "integer"}},
        },
        "model": {
            "type": "object",
            "required": ["name", "version", "digest", "fallback"],
            "properties": {
                "name": {"type": "string"},
                "version": {"type": ["string", "null"]},
                "digest": {"type": "string"},
                "fallback": {"type": "boolean"},
                "stale": {"type": "boolean"},
                "reason": {"type": "string"},
            },
        },
    },
}
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


def _responses(ok: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
    by_status: dict[int, list[str]] = {}
    for code, error in REQUEST_ERRORS.items():
        by_status.setdefault(error.status, []).append(code)
    errors: dict[int | str, dict[str, Any]] = {
        status: {"description": ", ".join(codes), "content": _ERROR_CONTENT} for status, codes in by_status.items()
    }
    return {200: {"description": "done", "content": ok}, **errors}


DETECTS: Final = _responses({"application/json": {"schema": _DETECTION_SCHEMA}})
"""The answers of `/detect`."""


def annotates(media: Iterable[str]) -> dict[int | str, dict[str, Any]]:
    """The answers of `/annotate`, which writes these media types."""
    pictures = _responses({one: {"schema": {"type": "string", "format": "binary"}} for one in media})
    return {**pictures, 406: {"description": "not_acceptable", "content": _ERROR_CONTENT}}


def describe(schema: dict[str, Any], classes: Iterable[str], *, keys: bool, own_host: bool) -> None:
    """Add to FastAPI's description what only the running service knows.

    Args:
        schema: changed.
        classes: of the model.
        keys: whether callers need one.
        own_host: whether callers without one have to ask under this machine's own name.
    """
    _describe_classes(schema, sorted(classes))
    if keys:
        _describe_keys(schema)
    elif own_host:
        _describe_errors(schema, 421, HostNotKnown.code)


def _describe_classes(schema: dict[str, Any], names: list[str]) -> None:
    """Say in the OpenAPI description which classes the model has."""
    for operations in schema["paths"].values():
        for operation in operations.values():
            for parameter in operation.get("parameters", ()):
                if parameter["name"] == "class":
                    parameter["schema"] = {
                        "type": "array",
                        "minItems": 1,
                        "items": {"type": "string", "enum": names},
                    }


def _describe_keys(schema: dict[str, Any]) -> None:
    """Say in the OpenAPI description where a key is wanted, and how it is sent."""
    schema.setdefault("components", {})["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }
    for operation in _describe_errors(schema, 401, "unauthorized"):
        operation["security"] = [{"bearer": []}, {"header": []}]


def _describe_errors(schema: dict[str, Any], status: int, code: str) -> list[dict[str, Any]]:
    """Say in the OpenAPI description what the guard may answer; returns the operations that it guards."""
    guarded = [
        operation
        for path, operations in schema["paths"].items()
        if path not in OPEN_ROUTES
        for operation in operations.values()
    ]
    for operation in guarded:
        operation["responses"][str(status)] = {"description": code, "content": _ERROR_CONTENT}
    return guarded
