"""How many parts an image file has, counted before a codec sees it.

Pillow walks over markers, chunks, blocks and tags in Python, and for some it copies all those before: megabytes of
empty ones take it many seconds. Honest files have far fewer than the limits here.
"""

from __future__ import annotations

import re
import struct
import zlib
from itertools import count
from typing import TYPE_CHECKING

from detectctl import png
from detectctl.errors import UnsupportedImage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_MAX_SCANS = 32  # a scan may have ten bytes and cover the whole picture; honest progressive files have about ten
_MAX_MARKERS = 4096
_MAX_FILL = 65536
_MAX_APPENDED = 32  # segments that Pillow appends to those before
_MAX_CHUNKS = 16384  # 20 MiB in chunks of 8 KiB, as libpng writes them, are 2560
_MAX_PACKED = 128  # each may unpack to a megabyte
_MAX_BLOCKS = 65536
_MAX_ENTRIES = 4096
_MAX_VALUES = 65536  # one strip per line
_MAX_TILES = 4096  # 64 megapixels in tiles of 128x128

# Markers followed by a length; between them is fill, or coded pixels, in which 0x00 or RST always follows 0xff.
_JPEG_MARKER = re.compile(rb"\xff([\xc0-\xc7\xc9-\xcf\xd9-\xef\xfe])")
_EOI, _SOS = 0xD9, 0xDA
_CODESTREAM = re.compile(rb"\xff\x4f\xff\x51.{4}(.{24})", re.DOTALL)  # its first two markers, and what the second has
_APPENDED = (b"Exif\0\0", b"Photoshop 3.0\0")
_PACKED_CHUNKS = (b"iCCP", b"iTXt", b"zTXt")
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))  # PNG, §8.2
_TIFF_BYTES = (1, 2, 6, 7)
_TIFF_OFFSETS = (273, 279, 324, 325)


def check_parts(data: bytes) -> None:
    """UnsupportedImage for a file with absurdly many parts; what is damaged or not an image is left to the codec."""
    for magic, check in _CHECKS.items():
        if data.startswith(magic):
            check(data)


def _check_jpeg(data: bytes) -> None:
    """The first picture only: thumbnails in its segments, and pictures and videos after it, are not decoded."""
    scans = fill = appended = 0
    for number, (between, marker, segment) in enumerate(_jpeg_segments(data)):
        fill += 0 if scans else between
        scans += marker == _SOS
        appended += data.startswith(_APPENDED, segment + 2)
        if marker == _EOI and scans:
            return
        _refuse_over(_MAX_MARKERS, number, "markers")
        _refuse_over(_MAX_FILL, fill, "bytes between markers")
        _refuse_over(_MAX_SCANS, scans, "scans")
        _refuse_over(_MAX_APPENDED, appended, "segments of EXIF")


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Bytes skipped before each marker, the marker, and where its segment begins; finally what follows the last."""
    at, scanned = 2, False
    while match := _next_marker(data, at, len(data) if scanned else at + 1):
        marker, segment = match[1][0], match.end()
        yield match.start() - at, marker, segment
        at = segment if marker == _EOI else segment + max(2, int.from_bytes(data[segment : segment + 2]))
        scanned = scanned or marker == _SOS
    yield len(data) - at, _EOI, len(data)


def _next_marker(data: bytes, at: int, until: int) -> re.Match[bytes] | None:
    """The first that begins at `at`, or as far behind it as is accepted before the first scan; or then before `until`.

    In steps of that length, because no other thread runs before a search has ended.
    """
    for begin in range(at, until, _MAX_FILL + 1):
        if match := _JPEG_MARKER.search(data, begin, begin + _MAX_FILL + 2):
            return match
    return None


def _check_png(data: bytes) -> None:
    packed = 0
    for number, (name, _, _) in enumerate(png.chunks(data), 1):
        packed += name in _PACKED_CHUNKS
        _refuse_over(_MAX_CHUNKS, number, "chunks")
        _refuse_over(_MAX_PACKED, packed, "compressed descriptions")


def has_all_pixels(data: bytes) -> bool:
    """Whether a valid PNG's compressed data reaches its last line; Pillow leaves black what is missing."""
    width, height, depth, colour, interlaced = struct.unpack_from(">IIBB2xB", data, 16)
    bits = depth * _PNG_CHANNELS[colour]
    missing = 0
    for x, y, right, down in _ADAM7 if interlaced else ((0, 0, 1, 1),):
        columns, rows = -((x - width) // right), -((y - height) // down)
        missing += rows * (1 + (columns * bits + 7) // 8) if columns > 0 else 0
    unpack = zlib.decompressobj()
    for name, begin, end in png.chunks(data):
        packed = data[begin:end] if name == b"IDAT" else b""
        while packed and missing > 0 and not unpack.eof:
            missing -= len(unpack.decompress(packed, 1 << 20))
            packed = unpack.unconsumed_tail
    return missing <= 0


def _check_gif(data: bytes) -> None:
    """What comes before the first frame."""
    at = 13 + (3 << (data[10] & 7) + 1 if data[10:11] >= b"\x80" else 0)
    in_extension = False
    for number in count(1):
        byte = data[at : at + 1]
        if not byte or (byte in b",;" and not in_extension):
            return
        _refuse_over(_MAX_BLOCKS, number, "blocks")
        if in_extension:
            at += 1 + byte[0]
            in_extension = byte != b"\0"
        else:
            in_extension = byte == b"!"
            at += 2 if in_extension else 1


def _check_webp(data: bytes) -> None:
    at = 12
    for number in count(1):
        if at + 8 > len(data):
            return
        _refuse_over(_MAX_CHUNKS, number, "chunks")
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        at += 8 + size + size % 2


def _check_tiff(data: bytes) -> None:
    """The first directory; its entries' values are counted, not read."""
    order = "<" if data.startswith(b"II") else ">"
    big = data[2:3] == b"\x2b"
    number, entry = ("Q", struct.Struct(order + "HHQ8x")) if big else ("H", struct.Struct(order + "HHL4x"))
    try:
        (at,) = struct.unpack_from(order + ("Q" if big else "L"), data, 8 if big else 4)
        (entries,) = struct.unpack_from(order + number, data, at)
        _refuse_over(_MAX_ENTRIES, entries, "entries")
        at += struct.calcsize(number)
        for index in range(entries):
            tag, kind, values = entry.unpack_from(data, at + index * entry.size)
            if kind not in _TIFF_BYTES or tag in _TIFF_OFFSETS:
                _refuse_over(_MAX_VALUES, values, "strips, tiles or numbers in one entry")
    except (struct.error, OverflowError):  # cut off, or an offset beyond any memory
        return


def codestreams(data: bytes) -> Iterator[tuple[int, int]]:
    """Width and height of every JPEG 2000 codestream in the file, and of what looks like one.

    Raises:
        UnsupportedImage: absurdly many tiles.
    """
    for match in _CODESTREAM.finditer(data):
        right, bottom, left, top, tile_width, tile_height = struct.unpack(">6L", match[1])
        tiles = -(-right // tile_width) * -(-bottom // tile_height) if tile_width and tile_height else 0
        _refuse_over(_MAX_TILES, tiles, "tiles")
        yield max(0, right - left), max(0, bottom - top)


def _refuse_over(limit: int, number: int, parts: str) -> None:
    if number > limit:
        raise UnsupportedImage(
            f"the image file has more than {limit} {parts}",
            why="honest files have fewer, and each costs time",
            hint="save it anew, for example as PNG or JPEG",
        )


_CHECKS: dict[bytes, Callable[[bytes], None]] = {
    b"\xff\xd8": _check_jpeg,
    png.SIGNATURE: _check_png,
    b"GIF8": _check_gif,
    b"RIFF": _check_webp,
    b"II": _check_tiff,
    b"MM": _check_tiff,
}
