"""The body of a `/detect` answer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from detectctl.wire import DetectionResult

MEDIA_TYPE: Final = "application/json"

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
"""As `JSONResponse`, which makes an encoder for each answer."""


def encoded(result: DetectionResult) -> bytes:
    """The answer as JSON; to be called in a thread, for masks can be megabytes of it.

    Object by object, because the encoder lets no other thread run before it is through: the event loop would stand
    still after all.
    """
    data = result.to_json()
    objects = ",".join(map(_encode, data["objects"]))
    members = [f'"{key}":' + (f"[{objects}]" if key == "objects" else _encode(value)) for key, value in data.items()]
    return f"{{{','.join(members)}}}".encode()
