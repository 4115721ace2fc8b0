"""The pixels that the detector sees are those that are drawn on, in the service and in the client."""

from __future__ import annotations

import io
import struct
import zlib
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms, TiffImagePlugin

from detectctl.annotate import encode
from detectctl.client.service_client import Client
from detectctl.engine.decode import decode
from detectctl.errors import UnsupportedImage
from detectctl.upright import colour_profile, open_upright, orientation
from served import served

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from detectctl.engine.compiled import CompiledModel

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


def encoded(image: Image.Image, image_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def photograph(mode: str = "RGB", size: tuple[int, int] = (60, 40)) -> Image.Image:
    """Smooth colours, and no symmetry."""
    x, y = np.meshgrid(np.linspace(0, 255, size[0]), np.linspace(0, 255, size[1]))
    return Image.fromarray(np.stack((x, y, 255 - x * y / 255), axis=2).astype(np.uint8)).convert(mode)


def turned(number: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = number
    return exif


def translucent() -> Image.Image:
    image = photograph("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


KINDS = {
    "jpeg": encoded(photograph(), "JPEG"),
    "jpeg with a profile": encoded(photograph(), "JPEG", icc_profile=PROFILE),
    "grey jpeg": encoded(photograph("L"), "JPEG"),
    "cmyk jpeg": encoded(photograph("CMYK"), "JPEG"),
    "jpeg turned by XMP alone": encoded(photograph(), "JPEG", xmp=XMP),
    "webp turned by XMP alone": encoded(photograph(), "WEBP", lossless=True, xmp=XMP),
    "jpeg with damaged EXIF": encoded(photograph(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\xff" * 40),
    "png": encoded(photograph(), "PNG"),
    "translucent png": encoded(translucent(), "PNG"),
    "translucent png with a profile": encoded(translucent(), "PNG", icc_profile=PROFILE),
    "translucent webp": encoded(translucent(), "WEBP", lossless=True, exact=True),
    "palette png with a clear colour": encoded(photograph().quantize(8), "PNG", transparency=3),
    "grey png with alpha": encoded(translucent().convert("LA"), "PNG"),
    "16-bit png": encoded(photograph("I").point(lambda value: value * 257).convert("I;16"), "PNG"),
    "palette png with a clear colour and a profile": encoded(
        photograph().quantize(8), "PNG", transparency=3, icc_profile=PROFILE
    ),
    "grey png with a profile": encoded(photograph("L"), "PNG", icc_profile=PROFILE),
    "png with a clear colour": encoded(photograph(), "PNG", transparency=(0, 0, 255)),
    "translucent webp with a profile": encoded(translucent(), "WEBP", icc_profile=PROFILE),
    "translucent tiff with a profile": encoded(translucent(), "TIFF", icc_profile=PROFILE),
    "jpeg turned, with a profile": encoded(photograph(), "JPEG", exif=turned(6), icc_profile=PROFILE),
    "animated gif with a clear colour": encoded(
        photograph().quantize(8), "GIF", transparency=3, save_all=True, append_images=[photograph("L")]
    ),
    "1-bit png": encoded(photograph("1"), "PNG"),
    "bmp": encoded(photograph(), "BMP"),
    "gif": encoded(photograph().quantize(64), "GIF", save_all=True, append_images=[photograph("L")]),
    "cmyk tiff": encoded(photograph("CMYK"), "TIFF"),
    **{f"jpeg turned {number}": encoded(photograph(), "JPEG", exif=turned(number)) for number in range(2, 9)},
    **{f"tiff turned {number}": encoded(photograph(), "TIFF", exif=turned(number)) for number in (3, 6)},
    "avif": encoded(photograph(), "AVIF"),
    "translucent avif with a profile": encoded(translucent(), "AVIF", icc_profile=PROFILE),
    "avif turned 6": encoded(photograph(), "AVIF", exif=turned(6)),
    "jpeg 2000": encoded(photograph(), "JPEG2000"),
    "translucent jpeg 2000": encoded(translucent(), "JPEG2000"),
    "png turned 8": encoded(photograph(), "PNG", exif=turned(8)),
}


@pytest.fixture(scope="module")
def client(yolov8n_compiled: CompiledModel) -> Iterator[Client]:
    with served(yolov8n_compiled) as port, Client(f"http://127.0.0.1:{port}") as client:
        yield client


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # about the damaged EXIF
@pytest.mark.parametrize("kind", KINDS)
def test_detecting_and_drawing_have_the_same_pixels(kind: str) -> None:
    opened = open_upright(KINDS[kind])
    assert opened.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(opened), decode(KINDS[kind], max_bytes=1 << 20, max_pixels=1 << 20))


def test_photographs_have_the_same_pixels_too(eight_photos: list[Path]) -> None:
    for photo in eight_photos:
        data = photo.read_bytes()
        np.testing.assert_array_equal(
            np.asarray(open_upright(data)), decode(data, max_bytes=1 << 24, max_pixels=1 << 24)
        )


def test_xmp_alone_turns_nothing() -> None:
    """OpenCV, Ultralytics and browsers do not read it, and Pillow would."""
    for kind in ("jpeg turned by XMP alone", "webp turned by XMP alone"):
        assert open_upright(KINDS[kind]).size == (60, 40)


LIMITS = {"max_bytes": 1 << 24, "max_pixels": 1 << 24}
VALUES = {1: "B", 2: "2s", 3: "H", 4: "L", 5: "LL", 6: "b", 7: "B", 8: "h", 9: "l", 10: "ll", 11: "f", 12: "d", 13: "L"}
"""How a 6 is packed as each of EXIF's types."""


def exif_of(order: str, kind: int, value: int = 6, count: int = 1) -> bytes:
    """EXIF of nothing but an orientation, of whatever type."""
    number = (b"6\0",) if kind == 2 else (value, 1) if kind in {5, 10} else (value,)
    packed = struct.pack(order + VALUES[kind], *number).ljust(4, b"\0")
    place, tail = (packed, b"") if len(packed) == 4 else (struct.pack(order + "L", 26), packed)
    head = struct.pack(order + "2sHLH", b"II" if order == "<" else b"MM", 42, 8, 1)
    return head + struct.pack(order + "HHL", 0x0112, kind, count) + place + bytes(4) + tail


def chunk(name: bytes, content: bytes, wrong: int = 0) -> bytes:
    return struct.pack(">L", len(content)) + name + content + struct.pack(">L", zlib.crc32(name + content) ^ wrong)


def with_chunks(*added: bytes) -> bytes:
    """A PNG with chunks before its pixels."""
    data = KINDS["png"]
    at = data.index(b"IDAT") - 4
    return data[:at] + b"".join(added) + data[at:]


def seen_by_all(data: bytes) -> tuple[int, int]:
    """Width and height, the same for the service, for drawing and for OpenCV, as are the pixels."""
    ours = decode(data, **LIMITS)
    np.testing.assert_array_equal(np.asarray(open_upright(data)), ours)
    np.testing.assert_array_equal(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB), ours)
    return ours.shape[1], ours.shape[0]


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
def test_an_orientation_of_whatever_type_is_read_as_opencv_and_so_ultralytics_reads_it(
    image_format: str, kind: int, order: str
) -> None:
    """Of a LONG it sees the first half, which is 0 in a big-endian file; boxes must lie where training saw them."""
    exif = (b"Exif\0\0" if image_format == "JPEG" else b"") + exif_of(order, kind)
    options = {"lossless": True} if image_format == "WEBP" else {}
    size = seen_by_all(encoded(photograph(), image_format, exif=exif, **options))
    if kind in {3, 8}:
        assert size == (40, 60)
    if (kind, order) in {(4, "<"), (4, ">")}:
        assert size == ((40, 60) if order == "<" else (60, 40))


_SIX, _EIGHT = exif_of(">", 3, 6), exif_of(">", 3, 8)
_RAW = b"\nexif\n%8d\n" % (len(_SIX) + 6) + (b"Exif\0\0" + _SIX).hex().encode() + b"\n"
ODD_PLACES = {
    "of no meaning": with_chunks(chunk(b"eXIf", exif_of("<", 3, 0))),
    "of no meaning, either": encoded(photograph(), "JPEG", exif=b"Exif\0\0" + exif_of("<", 3, 9)),
    "two in one file": with_chunks(chunk(b"eXIf", _SIX), chunk(b"eXIf", _EIGHT)),
    "after the pixels": KINDS["png"][:-12] + chunk(b"eXIf", _SIX) + KINDS["png"][-12:],
    "with JPEG's prefix in a PNG": with_chunks(chunk(b"eXIf", b"Exif\0\0" + _SIX)),
    "in a PNG's text": with_chunks(chunk(b"tEXt", b"Raw profile type exif\0" + _RAW)),
    "in a PNG's text called exif": with_chunks(chunk(b"tEXt", b"exif\0Exif\0\0" + _SIX)),
    "with a wrong checksum": with_chunks(chunk(b"eXIf", _SIX, wrong=1)),
    "with no TIFF's mark": encoded(photograph(), "JPEG", exif=b"Exif\0\0MM\0\x2b" + _SIX[4:]),
    "of more entries than there are": with_chunks(chunk(b"eXIf", _SIX[:8] + b"\1\1" + _SIX[10:])),
    "in an MPO": encoded(photograph(), "MPO", save_all=True, append_images=[photograph()], exif=b"Exif\0\0" + _SIX),
}  # fmt: skip


@pytest.mark.parametrize("place", ODD_PLACES)
def test_an_orientation_at_an_odd_place_is_read_as_opencv_reads_it(place: str) -> None:
    turns = place in {"two in one file", "after the pixels", "in an MPO", "of more entries than there are"}
    assert seen_by_all(ODD_PLACES[place]) == ((40, 60) if turns else (60, 40))


def test_jpegs_prefix_in_a_webp_hides_its_orientation() -> None:
    """Some programs write it there; OpenCV and Ultralytics do not look behind it."""
    data = encoded(photograph(), "WEBP", lossless=True, exif=b"Exif\0\0" + _SIX)
    prefixed = data.replace(
        b"EXIF" + struct.pack("<L", len(_SIX)), b"EXIF" + struct.pack("<L", len(_SIX) + 6) + b"Exif\0\0"
    )
    prefixed = prefixed[:4] + struct.pack("<L", len(prefixed) - 8) + prefixed[8:]
    assert (seen_by_all(data), seen_by_all(prefixed)) == ((40, 60), (60, 40))


SPOILT = {
    **{
        f"{name.decode()} with a wrong checksum": with_chunks(chunk(name, content, wrong=1))
        for name, content in {
            b"tEXt": b"Comment\0words", b"zTXt": b"Comment\0\0" + zlib.compress(b"words"),
            b"iTXt": b"Comment\0\0\0\0\0words", b"iCCP": b"a\0\0" + zlib.compress(PROFILE),
            b"tIME": bytes(7), b"pHYs": bytes(9), b"tRNS": bytes(6), b"gAMA": bytes(4), b"prVt": b"",
        }.items()
    },
    "a profile of an unknown compression": with_chunks(chunk(b"iCCP", b"a\0\1" + zlib.compress(PROFILE))),
    "a profile that cannot be unpacked": with_chunks(chunk(b"iCCP", b"a\0\0" + PROFILE)),
    "a large profile": with_chunks(chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(2 << 20)))),
    "a profile that unpacks to 100 MB": with_chunks(chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(100 << 20)))),
    "a text that unpacks to 100 MB": with_chunks(chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(100 << 20)))),
    "a resolution that is cut short": with_chunks(chunk(b"pHYs", b"")),
    "an end with a wrong checksum": KINDS["png"][:-1] + b"\0",
}  # fmt: skip


@pytest.mark.parametrize("name", SPOILT)
def test_what_a_png_says_beside_its_picture_cannot_spoil_it(name: str) -> None:
    """Browsers and OpenCV read it all the same."""
    assert seen_by_all(SPOILT[name]) == (60, 40)
    assert colour_profile(SPOILT[name]) == (bytes(2 << 20) if name == "a large profile" else None)


def test_what_a_png_says_of_an_animation_cannot_spoil_its_first_picture() -> None:
    """OpenCV gives up on these; browsers show the picture."""
    none, beyond = struct.pack(">LL", 3, 0), struct.pack(">LLLLLHHBB", 0, 999, 999, 9, 9, 1, 1, 0, 0)
    for added in (
        [chunk(b"acTL", none)],
        [chunk(b"acTL", none, wrong=1)],
        [chunk(b"acTL", none), chunk(b"fcTL", beyond)],
    ):
        np.testing.assert_array_equal(decode(with_chunks(*added), **LIMITS), np.asarray(photograph()))


@pytest.mark.parametrize("name", [b"IHDR", b"PLTE", b"IDAT"])
def test_a_wrong_checksum_of_the_picture_itself_is_refused_as_opencv_refuses_it(name: bytes) -> None:
    data = bytearray(KINDS["palette png with a clear colour"])
    at = data.index(name) - 4
    data[at + 8 + int.from_bytes(data[at : at + 4])] ^= 1
    assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) is None
    for read in (open_upright, lambda data: decode(data, **LIMITS)):
        with pytest.raises(UnsupportedImage):
            read(bytes(data))


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("kind", KINDS)
def test_the_service_and_the_client_draw_the_same_picture(client: Client, kind: str) -> None:
    """`--fetch server` and the client's own drawing differ in no byte, and so in no colour profile."""
    formats: tuple[Literal["png", "jpeg", "webp"], ...] = ("png", "jpeg", "webp")
    for image_format in formats:
        by_client, _ = client.annotate(KINDS[kind], image_format)
        headers = {"Accept": f"image/{image_format}"}
        answer = client._ask("POST", "/annotate", client._deadline(), body=KINDS[kind], headers=headers)
        assert by_client == answer.body
        with Image.open(io.BytesIO(by_client)) as drawn:
            is_kept = "profile" in kind and "grey" not in kind
            assert drawn.info.get("icc_profile") == (PROFILE if is_kept else None)


@pytest.mark.parametrize("number", range(1, 9))
@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
def test_an_image_is_turned_as_its_exif_says_and_says_so_no_more(number: int, image_format: str) -> None:
    """All eight orientations of a picture with a black upper left corner end upright, with it in the upper left."""
    upright = Image.new("RGB", (60, 40), "white")
    upright.paste("black", (0, 0, 20, 10))
    inverse = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    stored = upright.transpose(inverse[number]) if number in inverse else upright
    opened = open_upright(encoded(stored, image_format, exif=turned(number)))
    assert opened.size == (60, 40)
    assert sum(opened.getpixel((5, 4))) < 60  # type: ignore[arg-type]
    assert min(sum(opened.getpixel(at)) for at in [(50, 4), (5, 30), (50, 30)]) > 700  # type: ignore[arg-type]
    assert orientation(opened) == 1
    assert "exif" not in opened.info


def test_only_a_profile_for_rgb_is_kept() -> None:
    assert colour_profile(encoded(photograph(), "PNG", icc_profile=PROFILE)) == PROFILE
    assert colour_profile(encoded(photograph("L"), "PNG", icc_profile=PROFILE)) is None
    assert colour_profile(encoded(photograph(), "PNG")) is None


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_a_profile_that_is_not_bytes_is_none() -> None:
    """A TIFF says itself of which type a tag is; an encoder would raise TypeError, which is a 500 of the service."""
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags.tagtype[34675] = 3  # SHORT
    tags[34675] = 1
    data = encoded(photograph(), "TIFF", tiffinfo=tags)
    with Image.open(io.BytesIO(data)) as image:
        assert image.info["icc_profile"] == 1
    assert colour_profile(data) is None
    assert encode(open_upright(data), "jpeg")


@pytest.mark.parametrize(
    "data", [b"", b"not an image", b"\xff\xd8\xff", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"]
)
def test_what_is_not_an_image_is_unsupported(data: bytes) -> None:
    with pytest.raises(UnsupportedImage):
        open_upright(data)


def test_a_truncated_photograph_is_unsupported(bus_jpg: Path) -> None:
    with pytest.raises(UnsupportedImage):
        open_upright(bus_jpg.read_bytes()[:50_000])
