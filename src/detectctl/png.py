"""The chunks of a PNG file, so that nothing that a picture does not need can spoil it."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

SIGNATURE = b"\x89PNG\r\n\x1a\n"

_PICTURE = (b"IHDR", b"PLTE", b"IDAT")
_TURN = b"eXIf"
_MAX_PROFILE_BYTES = 4 << 20


def chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Name, begin and end of the content of each chunk, to the end or where the file breaks off."""
    at = len(SIGNATURE)
    while len(name := data[at + 4 : at + 8]) == 4 and name != b"IEND":
        end = at + 8 + int.from_bytes(data[at : at + 4])
        yield name, at + 8, end
        at = end + 4


def essential(data: bytes) -> bytes:
    """The file with no more than its pixels, its palette and its first EXIF; other files unchanged.

    Pillow gives up on a text or profile that it cannot read. OpenCV and browsers go on without it.

    Raises:
        ValueError: a checksum of what makes the picture is wrong, which OpenCV refuses too.
    """
    if not data.startswith(SIGNATURE):
        return data
    view, parts, is_turned = memoryview(data), [memoryview(SIGNATURE)], False
    for name, begin, end in chunks(data):
        if name in _PICTURE or (name == _TURN and not is_turned):
            # Where the file breaks off there is none, and whether any pixel is missing is to be seen.
            if end + 4 <= len(data) and not _is_right(data, begin, end):
                if name == _TURN:
                    continue
                raise ValueError(f"the checksum of its {name.decode()} is wrong")
            parts.append(view[begin - 8 : end + 4])
            is_turned = is_turned or name == _TURN
    return b"".join(parts)


def colour_profile(data: bytes) -> bytes | None:
    """The ICC profile; None if there is none, a damaged one, or one of more than 4 MiB."""
    for name, begin, end in chunks(data):
        if name == b"iCCP" and _is_right(data, begin, end):
            _, _, packed = data[begin:end].partition(b"\0")
            unpack = zlib.decompressobj()
            try:
                profile = unpack.decompress(packed[1:], _MAX_PROFILE_BYTES)
            except zlib.error:
                return None
            return profile if packed.startswith(b"\0") and unpack.eof else None
    return None


def _is_right(data: bytes, begin: int, end: int) -> bool:
    return zlib.crc32(memoryview(data)[begin - 4 : end]).to_bytes(4) == data[end : end + 4]
