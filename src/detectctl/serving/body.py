"""The image in a request's body, bounded in bytes and in time while it arrives."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from fastapi import Request
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from detectctl.errors import ImageTooLarge, RequestTimeout, UnsupportedImage
from detectctl.not_images import kind_of
from detectctl.serving.query import refuse_in_form

if TYPE_CHECKING:
    from collections.abc import Callable

UPLOAD_S: Final = 30.0
"""For the whole body: a request that waits for its own body holds a place in the queue."""

_WELL_FORMED: Final = "send it with `curl -F file=@image.jpg …`, or as the body itself"
_MULTIPART_OVERHEAD: Final = 64 * 1024  # boundaries and headers around the file itself


def source(request: Request) -> str:
    """`form` if the image is in a form's field, `body` if it is the body."""
    return "form" if _media_type(request) == "multipart/form-data" else "body"


def is_curl_data(request: Request) -> bool:
    """Whether the body has the type that `curl --data` gives it, which also drops the line ends of an image."""
    return _media_type(request) == "application/x-www-form-urlencoded"


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_image(request: Request, source: str, limit: int) -> bytes:
    """The image, of at most `limit` bytes; `source` is the function's of that name.

    Raises:
        BadParameter: a form with a parameter among its fields.
        ImageTooLarge: more than `limit`, announced or arrived.
        UnsupportedImage: a form that is malformed, or without a file in its field `file`; or no image, but JSON, base64
            or the like.
        RequestTimeout: it did not arrive in `UPLOAD_S` seconds.
    """
    is_form = source == "form"
    most = limit + _MULTIPART_OVERHEAD if is_form else limit
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > most:
        raise _too_long(limit)
    try:
        async with asyncio.timeout(UPLOAD_S):
            data = await (_read_form if is_form else _read_body)(request, most, limit)
    except TimeoutError as error:
        raise RequestTimeout(
            "the image took too long to arrive",
            why=f"the service waits {UPLOAD_S:g} s for a request's body",
            hint="send a smaller image",
        ) from error
    if len(data) > limit:
        raise _too_long(limit)
    if (kind := kind_of(data)) is not None:
        raise UnsupportedImage(
            f"what was sent is {kind}, not an image",
            why="the body, or the form's file, must be an image's file as it is; a URL goes into the query of a GET",
            hint=send_bytes(request),
        )
    return data


def send_bytes(request: Request) -> str:
    """A hint for whoever sent something else, or changed the bytes by `curl --data`."""
    return f"send the bytes as they are: `curl --data-binary @image.jpg …{request.scope['path']}`"


async def _read_body(request: Request, most: int, limit: int) -> bytes:
    receive = _bounded(request.receive, most, limit)
    body = bytearray()  # a list of chunks would cost several times as much if they came byte by byte
    while (message := await receive())["type"] != "http.disconnect":
        chunk: bytes = message.get("body", b"")
        if not message.get("more_body", False):
            return bytes(body + chunk) if body else chunk  # most come in one, which is not copied
        body += chunk
    raise ClientDisconnect


async def _read_form(request: Request, most: int, limit: int) -> bytes:
    bounded = Request(request.scope, _bounded(request.receive, most, limit))
    try:
        async with bounded.form(max_files=1, max_fields=8) as form:
            refuse_in_form(form, request.scope["path"])
            file = form.get("file")
            if file is None or isinstance(file, str):
                names = ", ".join(form)[:80]
                why = f"its fields are {names!a}, and the image is looked for in `file`" if form else "it has no field"
                if file is not None:
                    why = "that field is text, without a file's name; with curl, an @ makes the difference"
                raise UnsupportedImage(
                    "the form has no file in its field `file`", why=why, hint="send it with `curl -F file=@image.jpg …`"
                )
            return await file.read()
    except HTTPException as error:  # how Starlette says that a form is malformed
        raise UnsupportedImage("the form cannot be read", why=str(error.detail), hint=_WELL_FORMED) from error
    except ValueError as error:  # some of Python's codecs, such as `undefined`, refuse all names
        raise UnsupportedImage(
            "the form cannot be read", why="its charset cannot encode its names", hint=_WELL_FORMED
        ) from error


def _bounded(receive: Callable[..., Any], most: int, limit: int) -> Callable[..., Any]:
    size = 0

    async def receive_bounded() -> Any:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > most:
            raise _too_long(limit)
        return message

    return receive_bounded


def _too_long(limit: int) -> ImageTooLarge:
    return ImageTooLarge(
        f"the image has more than {limit} bytes",
        why="that is the service's limit",
        hint="send a smaller image, or raise the limit: `detectctl up --max-image-bytes SIZE`",
    )
