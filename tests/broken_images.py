"""Images that are broken, hostile or none at all, and ways to break good ones: made here, the same each time."""

from __future__ import annotations

import gzip
import io
import random
import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

import heic_images

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "JPEG2000")
_SCAN = b"\xff\xda\x00\x08\x01\x01\0\0\x3f\0"


@dataclass(frozen=True, slots=True)
class Broken:
    """One body for the service; `refused` None where its pixels may be good although something about it is bad."""

    name: str
    data: bytes
    refused: bool | None = None


def encoded(kind: str, size: tuple[int, int] = (64, 48), mode: str = "RGB", **options: Any) -> bytes:
    """A good image with something in it."""
    x, y = np.meshgrid(np.linspace(0, 255, size[0]), np.linspace(0, 255, size[1]))
    image = Image.fromarray(np.stack((x, y, 255 - x), axis=2).astype(np.uint8)).convert(mode)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def seeds() -> list[tuple[str, bytes]]:
    """Good images of every format, in the variants that take different ways through the decoders."""
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = [Image.new("RGB", (64, 48), colour) for colour in ("red", "blue")]
    return [
        ("jpeg", encoded("JPEG")),
        ("jpeg progressive", encoded("JPEG", progressive=True)),
        ("jpeg grey", encoded("JPEG", mode="L")),
        ("jpeg cmyk", encoded("JPEG", mode="CMYK")),
        ("jpeg exif", encoded("JPEG", exif=exif, icc_profile=b"profile" * 20)),
        ("png", encoded("PNG")),
        ("png palette", encoded("PNG", mode="P")),
        ("png bits", encoded("PNG", mode="1")),
        ("png exif", encoded("PNG", exif=exif)),
        ("apng", encoded("PNG", save_all=True, append_images=frames)),
        ("webp", encoded("WEBP")),
        ("webp lossless", encoded("WEBP", lossless=True)),
        ("webp animated", encoded("WEBP", save_all=True, append_images=frames)),
        ("gif", encoded("GIF")),
        ("gif animated", encoded("GIF", save_all=True, append_images=frames)),
        ("tiff", encoded("TIFF")),
        ("tiff deflate", encoded("TIFF", compression="tiff_deflate")),
        ("tiff lzw", encoded("TIFF", compression="tiff_lzw")),
        ("tiff jpeg", encoded("TIFF", compression="jpeg")),
        ("bmp", encoded("BMP")),
        ("bmp palette", encoded("BMP", mode="P")),
        ("avif", encoded("AVIF", exif=exif)),
        ("jpeg 2000", encoded("JPEG2000", tile_size=(32, 32))),
        ("heic", heic_images.TURNED),
    ]


def corpus() -> list[Broken]:
    """At least 200 of them."""
    return [*_cut(), *_sizes(), *_bombs(), *_strangers(), *_polyglots(), *_metadata()]


def _cut() -> Iterator[Broken]:
    """Truncated, overwritten and padded."""
    for kind in FORMATS:
        data = encoded(kind)
        for tenth in range(10):
            # Of this PNG the last tenth is checksums only: all of its pixels are there.
            whole = (kind, tenth) == ("PNG", 9)
            yield Broken(f"{kind} cut to {tenth} tenths", data[: len(data) * tenth // 10], None if whole else True)
        for missing in (1, 2, 4, 8):
            yield Broken(f"{kind} without its last {missing}", data[:-missing])
        yield Broken(f"{kind} without its first byte", data[1:], True)
        yield Broken(f"{kind} with zeros for its second half", data[: len(data) // 2].ljust(len(data), b"\0"))
        yield Broken(f"{kind} with noise for its second half", data[: len(data) // 2] + _noise(len(data) // 2))
        yield Broken(f"{kind} with a megabyte behind it", data + bytes(1 << 20))
        yield Broken(f"{kind} twice", data + data)
        yield Broken(f"{kind} backwards", data[::-1], True)
        yield Broken(f"{kind} in gzip", gzip.compress(data, mtime=0), True)
        yield Broken(f"{kind} as text", data.hex().encode(), True)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, pixels: bytes = b"", *, depth: int = 8, colour: int = 2, extra: bytes = b"") -> bytes:
    """A PNG that says this size, whatever it holds."""
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")


def _tiff(width: int, height: int, compression: int = 1, strip: bytes = b"", **tags: int) -> bytes:
    entries = {256: width, 257: height, 258: 8, 259: compression, 262: 1, 273: 8, 277: 1, 278: height, 279: len(strip)}
    entries |= {int(name.removeprefix("t")): value for name, value in tags.items()}
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(entries.items()))
    return b"II*\0" + struct.pack("<I", 8 + len(strip)) + strip + struct.pack("<H", len(entries)) + directory + bytes(4)


def _bmp(width: int, height: int, bits: int = 24, compression: int = 0, offset: int = 54) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, 0, 2835, 2835, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, offset) + header


def _gif(width: int, height: int) -> bytes:
    image = b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x4c\x01\0;"
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6) + image


def _jpeg_of(width: int, height: int) -> bytes:
    data = bytearray(encoded("JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def _sizes() -> Iterator[Broken]:
    """Headers that promise what is not there: nothing, lines, and more pixels than anybody has memory for."""
    sizes = [
        (0, 0),
        (0, 10),
        (10, 0),
        (1, 65500),
        (65500, 1),
        (65500, 65500),
        (16383, 16383),
        (9000, 9000),
        (8000, 8000),
    ]
    for width, height in sizes:
        yield Broken(
            f"JPEG of {width}x{height}", _jpeg_of(width, height), width * height == 0 or width * height > 64e6 or None
        )
        yield Broken(f"PNG of {width}x{height}", png(width, height), True)
        yield Broken(f"TIFF of {width}x{height}", _tiff(width, height), True)
        yield Broken(f"BMP of {width}x{height}", _bmp(width, height), True)
        if max(width, height) < 65536:
            yield Broken(f"GIF of {width}x{height}", _gif(width, height), width * height > 64e6 or None)
    for width, height in ((2**31 - 1, 2**31 - 1), (2**31 - 1, 1), (1, 2**31 - 1), (2**16, 2**16)):
        yield Broken(f"PNG of {width}x{height}", png(width, height), True)
        yield Broken(f"TIFF of {width}x{height}", _tiff(width, height), True)
        yield Broken(f"BMP of {width}x{height}", _bmp(width, height), True)
    yield Broken("BMP of negative height", _bmp(64, -(2**31)), True)
    yield Broken("BMP of negative width", _bmp(-64, 48), True)
    for bits in (0, 2, 3, 7, 64, 65535):
        yield Broken(f"BMP of {bits} bits", _bmp(64, 48, bits), True)
    for compression in (1, 2, 3, 4, 5, 99):
        yield Broken(f"BMP of compression {compression}", _bmp(64, 48, 8, compression), True)
    for depth, colour in ((0, 0), (3, 0), (16, 3), (8, 1), (8, 7), (255, 255)):
        yield Broken(f"PNG of depth {depth} and colour {colour}", png(64, 48, depth=depth, colour=colour), True)
    for compression in (2, 3, 4, 5, 6, 7, 8, 32773, 34712, 34925, 50000, 65535):
        yield Broken(f"TIFF of compression {compression}", _tiff(64, 48, compression, _noise(100)))
    yield Broken("TIFF of a tile of 4 G pixels", _tiff(64, 48, 8, b"x", t322=65535, t323=65535, t324=8, t325=1), True)
    yield Broken("TIFF of 65535 samples", _tiff(64, 48, 1, b"x", t277=65535), True)
    yield Broken("TIFF whose directory is itself", b"II*\0" + struct.pack("<I", 4), True)
    yield Broken("TIFF of 65535 entries", b"II*\0\x08\0\0\0\xff\xff" + bytes(100), True)


def _bombs() -> Iterator[Broken]:
    """Few bytes that unpack to many."""
    bomb = zeros(200_000_000)
    yield Broken("PNG bomb of 90 MP", png(9500, 9500, bomb), True)
    yield Broken("PNG bomb that says 64x48", png(64, 48, bomb))
    yield Broken("PNG bomb in its text", png(64, 48, b"", extra=_chunk(b"zTXt", b"a\0\0" + bomb)), True)
    yield Broken("PNG bomb in its profile", png(64, 48, b"", extra=_chunk(b"iCCP", b"a\0\0" + bomb)), True)
    yield Broken("PNG bomb in international text", png(64, 48, b"", extra=_chunk(b"iTXt", b"a\0\1\0\0\0" + bomb)), True)
    yield Broken("TIFF bomb of 90 MP", _tiff(9500, 9500, 8, bomb), True)
    yield Broken("TIFF bomb that says 64x48", _tiff(64, 48, 8, bomb))
    for kind, data in {"progressive": encoded("JPEG", progressive=True), "baseline": encoded("JPEG")}.items():
        yield Broken(f"{kind} JPEG of 2,000 scans", data[:-2] + _SCAN * 2000 + b"\xff\xd9", True)
    yield from (Broken(name, make(), True) for name, make in FLOODS.items())
    many = b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x4c\x01\0"
    yield Broken("GIF of 20,000 frames", b"GIF89a\x01\0\x01\0\x80\0\0" + bytes(6) + many * 20_000 + b";")
    yield Broken("WEBP that says 4 GB", b"RIFF\xff\xff\xff\xffWEBPVP8 " + _noise(200), True)


def zeros(count: int) -> bytes:
    """So many zero bytes, deflated, without ever being in memory."""
    deflate = zlib.compressobj(level=1)
    million = bytes(1_000_000)
    parts = [deflate.compress(million) for _ in range(count // len(million))]
    return b"".join((*parts, deflate.compress(bytes(count % len(million))), deflate.flush()))


_ROOM = (20 << 20) - 4096


def _pixels() -> bytes:
    return zlib.compress(bytes((64 * 3 + 1) * 48))


def _jpeg_of_exif_in_parts() -> bytes:
    jpeg = encoded("JPEG")
    return jpeg[:2] + (b"\xff\xe1\x04\x02Exif\0\0" + bytes(1018)) * (_ROOM // 1028) + jpeg[2:]


def _png_of_empty_pixels() -> bytes:
    return png(64, 48, _pixels())[:-12] + _chunk(b"IDAT", b"") * (_ROOM // 12) + _chunk(b"IEND", b"")


def _webp_of_empty_chunks() -> bytes:
    data = b"VP8X\x0a\0\0\0\0\0\0\0\x3f\0\0\x2f\0\0" + encoded("WEBP")[12:] + b"abcd\0\0\0\0" * (_ROOM // 8)
    return b"RIFF" + struct.pack("<I", 4 + len(data)) + b"WEBP" + data


def _tiff_of_empty_strips() -> bytes:
    strips = _ROOM // 8
    tables = {256: (4, 1, 8), 257: (4, 1, 8), 258: (4, 1, 8), 259: (4, 1, 1), 262: (4, 1, 1), 273: (4, strips, 122),
              277: (4, 1, 1), 278: (4, 1, 1), 279: (4, strips, 122 + strips * 4)}  # fmt: skip
    directory = b"".join(struct.pack("<HHII", tag, *entry) for tag, entry in tables.items())
    return b"II*\0\x08\0\0\0\x09\0" + directory + bytes(4 + strips * 8)


FLOODS: dict[str, Callable[[], bytes]] = {
    "JPEG of markers": lambda: b"\xff\xd8" + b"\xff\xe0\0\x02" * (_ROOM // 4),
    "JPEG of fill": lambda: b"\xff\xd8" + b"\xff" * _ROOM,
    "JPEG of nothing between markers": lambda: b"\xff\xd8\xff\xd9" + bytes(_ROOM),
    "JPEG of nothing in extensions": lambda: b"\xff\xd8" + (b"\xff\xf0\xff\xf0" + bytes(65_000)) * (_ROOM // 65_004),
    "JPEG of EXIF in parts": _jpeg_of_exif_in_parts,
    "PNG of empty chunks": lambda: png(64, 48, _pixels(), extra=_chunk(b"abCd", b"") * (_ROOM // 12)),
    "PNG of empty pixels": _png_of_empty_pixels,
    "PNG of profiles": lambda: png(
        64, 48, _pixels(), extra=_chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(1 << 20))) * 9000
    ),
    "GIF of comments": lambda: b"GIF89a\x01\0\x01\0\0\0\0" + b"!\xfe\x01a\0" * (_ROOM // 5) + b";",
    "GIF of one comment": lambda: b"GIF89a\x01\0\x01\0\0\0\0!\xfe" + b"\x01a" * (_ROOM // 2) + b"\0;",
    "GIF of nothing": lambda: b"GIF89a\x01\0\x01\0\0\0\0" + b"a" * _ROOM + b";",
    "WEBP of empty chunks": _webp_of_empty_chunks,
    "TIFF of empty strips": _tiff_of_empty_strips,
}
"""As many empty parts as 20 MiB hold, of each kind that a decoder goes over one by one; each made when it is needed."""


def _strangers() -> Iterator[Broken]:
    """What is not an image, or is in a format that nobody asked for."""
    texts = {
        "nothing": b"",
        "a byte": b"\xff",
        "zeros": bytes(1000),
        "text": b"hello",
        "HTML": b"<!doctype html><script>alert(1)</script>",
        "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        "XML with entities": b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>',
        "MVG": b"push graphic-context\nimage over 0,0 0,0 'https://127.0.0.1/x.php?x=`id`'\npop graphic-context",
        "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(/etc/passwd) (r) file\nshowpage\n",
        "PDF": b"%PDF-1.7\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF",
        "pickle": b"\x80\x04\x95\x1d\0\0\0\0\0\0\0\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.",
        "ELF": b"\x7fELF\x02\x01\x01" + bytes(57),
        "zip": b"PK\x03\x04" + bytes(26) + b"a.jpg",
        "M3U playlist": b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
        "path": b"/etc/passwd",
        "URL": b"http://127.0.0.1/",
        "PSD": b"8BPS\0\x01" + bytes(6) + struct.pack(">HIIHH", 3, 10, 10, 8, 3) + bytes(100),
        "JPEG 2000": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(100),
        "HEIC": b"\0\0\0\x18ftypheic" + bytes(100),
        "FITS": b"SIMPLE  =                    T" + b" " * 100,
        "XPM": b'/* XPM */\nstatic char *a[] = {"1 1 1 1", "a c red", "a"};',
        "XBM": b"#define a_width 1\n#define a_height 1\nstatic char a_bits[] = {0};",
        "PPM": b"P6 99999 99999 255\n",
        "EPS in DOS form": b"\xc5\xd0\xd3\xc6" + bytes(28),
        "WMF": b"\xd7\xcd\xc6\x9a" + bytes(40),
        "OpenEXR": b"v/1\x01" + bytes(60),
        "Flash": b"CWS\x09" + bytes(60),
        "MP4": b"\0\0\0\x20ftypisom" + bytes(60),
    }
    yield from (Broken(name, data, True) for name, data in texts.items())
    for kind in ("ICO", "PCX", "SGI", "TGA", "DDS", "ICNS", "PPM", "MSP"):
        mode = "1" if kind == "MSP" else "RGBA" if kind in {"ICO", "ICNS"} else "RGB"
        yield Broken(f"a good {kind}", encoded(kind, mode=mode), True)
    for seed in range(20):
        yield Broken(f"noise {seed}", _noise(2000, seed), True)
    for name, magic in (("JPEG", b"\xff\xd8\xff"), ("PNG", b"\x89PNG\r\n\x1a\n"), ("GIF", b"GIF89a"), ("BMP", b"BM"),
                        ("TIFF", b"II*\0"), ("big-endian TIFF", b"MM\0*"), ("BigTIFF", b"II+\0\x08\0\0\0"),
                        ("WEBP", b"RIFF\x40\0\0\0WEBP")):  # fmt: skip
        yield Broken(f"{name} and then noise", magic + _noise(500), True)
        yield Broken(f"{name} and nothing", magic, True)


def _polyglots() -> Iterator[Broken]:
    """One thing to us, another to somebody else."""
    script = b"*/=1;alert(1);/*<script>alert(1)</script><?php system($_GET[0]); ?>"
    archive = b"PK\x03\x04" + bytes(26) + b"PK\x05\x06" + bytes(18)
    for kind in FORMATS:
        data = encoded(kind)
        yield Broken(f"{kind} and script", data + script)
        yield Broken(f"{kind} and zip", data + archive)
        yield Broken(f"script and {kind}", script + data, True)
        yield Broken(f"zip and {kind}", archive + data, True)
        for other in FORMATS:
            if other != kind:
                yield Broken(f"{kind} and {other}", data + encoded(other))


def _metadata() -> Iterator[Broken]:
    """Good pixels below damaged descriptions."""
    damaged = {
        "empty": b"",
        "short": b"Exif\0\0",
        "lost": b"Exif\0\0MM\0*\xff\xff\xff\xff",
        "in a circle": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x87\x69\0\x04\0\0\0\x01\0\0\0\x08\0\0\0\x08",
        "huge": b"Exif\0\0II*\0\x08\0\0\0" + b"\xff" * 60_000,
        "noise": b"Exif\0\0" + _noise(500),
    }
    for kind in ("JPEG", "PNG", "WEBP"):
        for name, exif in damaged.items():
            yield Broken(f"{kind} with EXIF {name}", encoded(kind, exif=exif), refused=False)
            yield Broken(f"{kind} with ICC {name}", encoded(kind, icc_profile=exif or b"\0"), refused=False)


def _noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)  # noqa: S311 - no secret


def mutated(data: bytes, chance: random.Random) -> bytes:
    """`data` with one to six things done to it, more often near its header, where the structure is."""
    body = bytearray(data)
    for _ in range(chance.randint(1, 6)):
        if body:
            at = chance.randrange(min(len(body), chance.choice((16, 64, 256, len(body)))))
            chance.choice((_overwrite, _overwrite, _move))(body, at, chance)
    return bytes(body)


def _overwrite(body: bytearray, at: int, chance: random.Random) -> None:
    match chance.randrange(4):
        case 0:
            body[at] ^= 1 << chance.randrange(8)
        case 1:
            body[at] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
        case 2:
            body[at : at + 4] = chance.choice((bytes(4), b"\xff" * 4, b"\x7f\xff\xff\xff", b"\0\0\0\x80"))
        case 3:
            body[at : at + 2] = struct.pack(chance.choice("<>") + "H", chance.randrange(65536))


def _move(body: bytearray, at: int, chance: random.Random) -> None:
    match chance.randrange(5):
        case 0:
            del body[at : at + chance.randint(1, 64)]
        case 1:
            body[at:at] = chance.randbytes(chance.randint(1, 64))
        case 2:
            body[at:at] = body[at : at + chance.randint(1, 256)] * chance.randint(1, 8)
        case 3:
            del body[chance.randrange(len(body)) :]
        case 4:
            other = chance.randrange(len(body))
            body[at : at + 16], body[other : other + 16] = body[other : other + 16], body[at : at + 16]
