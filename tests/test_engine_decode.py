"""Bytes to pixels, whatever the bytes."""

from __future__ import annotations

import concurrent.futures
import contextlib
import io
import random
import resource
import struct
import subprocess
import sys
import time
import zlib
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

import heic_images
from broken_images import FLOODS, zeros
from detectctl.engine import image_limits
from detectctl.engine.decode import decode
from detectctl.errors import ImageTooLarge, RequestError, UnsupportedImage
from detectctl.upright import NAMES, open_upright

if TYPE_CHECKING:
    import re
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

# Pillow warns about damaged metadata; a service goes on.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")

LIMITS = {"max_bytes": 20 << 20, "max_pixels": 64_000_000}


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def gradient(mode: str = "RGB", size: tuple[int, int] = (64, 48)) -> Image.Image:
    x, y = np.meshgrid(np.linspace(0, 255, size[0]), np.linspace(0, 255, size[1]))
    return Image.fromarray(np.stack((x, y, 255 - x), axis=2).astype(np.uint8)).convert(mode)


def pixels(image: Image.Image) -> NDArray[np.uint8]:
    return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP", "JPEG2000"])
def test_lossless_formats_give_their_pixels(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    image = gradient()
    result = decode(encoded(image, kind, **options), **LIMITS)
    assert result.dtype == np.uint8
    assert result.flags.c_contiguous
    np.testing.assert_array_equal(result, pixels(image))


def masked_bmp(image: Image.Image, *masks: int, bits: int = 32, compression: int = 3) -> bytes:
    """A BMP whose bits of each colour lie where the masks say."""
    stored = np.zeros((image.height, image.width), np.uint64)
    for channel, mask in zip(np.asarray(image).transpose(2, 0, 1).astype(np.uint64), masks, strict=True):
        lowest = mask & -mask
        stored += (channel * (mask // lowest) + 127) // 255 * lowest
    rows = [line.tobytes() + bytes(-len(line.tobytes()) % 4) for line in stored.astype(f"<u{bits // 8}")[::-1]]
    header = struct.pack("<IiiHHIIiiII", 40, image.width, image.height, 1, bits, compression, 0, 0, 0, 0, 0)
    return (
        b"BM"
        + struct.pack("<I4xI", 66 + sum(map(len, rows)), 66)
        + header
        + struct.pack("<3I", *masks)
        + b"".join(rows)
    )


@pytest.mark.parametrize("compression", [3, 6])
@pytest.mark.parametrize(
    ("masks", "bits", "off"),
    [
        ((0xFF0000, 0xFF00, 0xFF), 32, 0),
        ((0xFF000000, 0xFF0, 0xFF0000), 32, 0),
        ((0xFFE00000, 0x1FFC00, 0x3FF), 32, 0),
        ((0xFF, 0xFF00, 0xFF000000), 32, 0),
        ((0xF800, 0x7E0, 0x1F), 16, 5),
        ((0xF00, 0xF0, 0xF), 16, 9),
        ((0x30, 0xE, 0x1), 16, 128),
    ],
)
def test_a_bmp_has_its_colours_wherever_their_bits_are(
    masks: tuple[int, int, int], bits: int, off: int, compression: int
) -> None:
    """Pillow refuses odd masks, and OpenCV takes them for the usual ones."""
    image = gradient(size=(63, 48))
    data = masked_bmp(image, *masks, bits=bits, compression=compression)
    assert np.abs(decode(data, **LIMITS).astype(int) - pixels(image)).max() <= off
    for part in range(1, 20):
        with pytest.raises(UnsupportedImage):
            decode(data[: len(data) * part // 20], **LIMITS)
    with pytest.raises(ImageTooLarge, match="63x48"):
        decode(data, max_bytes=1 << 20, max_pixels=63 * 48 - 1)


def test_of_jpeg_2000_the_codestream_is_limited_not_what_is_around_it() -> None:
    """A small size in the file's header must not hide a large one, nor a picture of countless tiles."""
    large = encoded(gradient(size=(640, 480)), "JPEG2000")
    at = large.index(b"ihdr") + 4
    lying = large[:at] + struct.pack(">II", 64, 64) + large[at + 8 :]
    with pytest.raises(ImageTooLarge, match="640x480"):
        decode(lying, max_bytes=1 << 24, max_pixels=640 * 480 - 1)
    for options in ({}, {"no_jp2": True}):
        tiled = encoded(gradient(size=(640, 480)), "JPEG2000", tile_size=(8, 8), **options)
        with pytest.raises(UnsupportedImage, match="more than 4096 tiles"):
            decode(tiled, **LIMITS)


def test_an_avif_or_heic_that_lies_about_its_size_is_refused_or_as_small_as_it_says() -> None:
    for data, size in ((encoded(gradient(size=(640, 480)), "AVIF"), (64, 48)), (heic_images.PLAIN, (32, 32))):
        at = data.index(b"ispe") + 8
        lying = data[:at] + struct.pack(">II", *size) + data[at + 8 :]
        with contextlib.suppress(UnsupportedImage):
            assert decode(lying, **LIMITS).shape[1::-1] == size


@pytest.mark.skipif(find_spec("pi_heif") is None, reason="without the extra heic")
def test_a_heic_is_read_upright_as_its_container_says() -> None:
    for data, size, corner in ((heic_images.PLAIN, (60, 40), (4, 4)), (heic_images.TURNED, (40, 60), (4, 36))):
        result = decode(data, **LIMITS)
        assert result.shape[1::-1] == size
        np.testing.assert_array_equal(np.asarray(open_upright(data)), result)
        assert np.abs(result[corner].astype(int) - (255, 0, 0)).max() < 40
        with pytest.raises(ImageTooLarge, match="2399"):
            decode(data, max_bytes=1 << 20, max_pixels=2399)
        for part in range(1, 10):
            with pytest.raises(UnsupportedImage):
                decode(data[: len(data) * part // 10], **LIMITS)


def test_without_what_reads_heic_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    for read in (open_upright, lambda data: decode(data, **LIMITS)):
        with pytest.raises(UnsupportedImage, match="HEIC") as caught:
            read(heic_images.PLAIN)
        assert "pip install 'detectctl[heic]'" in str(caught.value.hint)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}], ids=str)
def test_jpeg_gives_the_pixels_of_pillow_and_of_opencv(mode: str, options: dict[str, Any]) -> None:
    """The faster decoder gives the same result."""
    import cv2

    data = encoded(gradient(mode), "JPEG", **options)
    result = decode(data, **LIMITS)
    np.testing.assert_array_equal(result, pixels(Image.open(io.BytesIO(data))))
    np.testing.assert_array_equal(result[:, :, ::-1], cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR))


def test_cmyk_jpeg_comes_out_in_its_colours() -> None:
    image = Image.new("CMYK", (32, 32), (0, 255, 255, 0))  # red
    result = decode(encoded(image, "JPEG", quality=95), **LIMITS)
    assert np.abs(result.astype(int) - (255, 0, 0)).max() < 12


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_alpha_is_dropped_and_colour_kept_as_ultralytics_does(kind: str) -> None:
    image = gradient()
    image.putalpha(0)
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    np.testing.assert_array_equal(decode(encoded(image, kind, **options), **LIMITS), pixels(gradient()))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_of_16_bits_the_upper_8_are_kept(kind: str) -> None:
    values = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 16
    result = decode(encoded(Image.fromarray(values), kind), **LIMITS)
    np.testing.assert_array_equal(result, np.repeat((values >> 8).astype(np.uint8)[:, :, None], 3, axis=2))


def test_16_bits_per_colour_give_the_upper_8() -> None:
    import cv2

    values = np.random.default_rng(1).integers(0, 65536, (20, 30, 3), np.uint16)
    data = cv2.imencode(".png", values)[1].tobytes()
    np.testing.assert_array_equal(decode(data, **LIMITS)[:, :, ::-1], values >> 8)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P"])
def test_grey_and_palette_images_become_rgb(mode: str) -> None:
    image = gradient(mode)
    np.testing.assert_array_equal(decode(encoded(image, "PNG"), **LIMITS), pixels(image))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_of_an_animation_the_first_frame_counts(kind: str) -> None:
    first, second = Image.new("RGB", (40, 30), "red"), Image.new("RGB", (40, 30), "blue")
    data = encoded(first, kind, save_all=True, append_images=[second, first])
    assert decode(data, **LIMITS)[15, 20].tolist() == pytest.approx([255, 0, 0], abs=3)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF"])
def test_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    """The mark drawn at the top left of the upright image is at the top left of the result."""
    upright = Image.new("RGB", (64, 48), "white")
    upright.paste("black", (0, 0, 24, 16))
    undo: dict[int, Any] = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation in undo else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    result = decode(encoded(stored, kind, exif=exif), **LIMITS)
    assert result.shape == (48, 64, 3)
    assert result[4:12, 4:20].max() < 64
    assert result[24:, 32:].min() > 192


@pytest.mark.parametrize("orientation", [0, 9, 65535])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_an_orientation_that_means_nothing_is_ignored(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert decode(encoded(gradient(), kind, exif=exif), **LIMITS).shape == (48, 64, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_damaged_metadata_does_not_spoil_the_picture(kind: str) -> None:
    data = encoded(
        gradient(), kind, exif=b"Exif\0\0MM\0*\xff\xff\xff\xff" + b"\xff" * 40, icc_profile=b"no profile" * 9
    )
    assert decode(data, **LIMITS).shape == (48, 64, 3)


def test_content_decides_and_no_other_format_opens(bus_jpg: Path) -> None:
    """What Pillow could open beside these formats is refused, and so is anything that is not an image."""
    assert decode(bus_jpg.read_bytes(), **LIMITS).shape == (1080, 810, 3)
    image = gradient()
    others = [encoded(image, kind) for kind in ("PPM", "TGA", "ICO", "PCX", "PDF", "DDS", "ICNS")]
    texts = [b"", b"\0", b"GIF89a", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"BM"]
    for data in (*others, *texts, b"\xff\xd8\xff\xd9", np.random.default_rng(5).bytes(5000)):
        with pytest.raises(UnsupportedImage):
            decode(data, **LIMITS)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "JPEG2000"])
def test_truncated_images_are_refused_at_every_length(kind: str) -> None:
    noise = Image.fromarray(np.random.default_rng(3).integers(0, 255, (40, 50, 3), np.uint8))
    data = encoded(noise, kind)
    for part in range(1, 20):
        with pytest.raises(UnsupportedImage):
            decode(data[: len(data) * part // 20], **LIMITS)


def test_an_error_tells_another_format_from_a_damaged_file(bus_jpg: Path) -> None:
    with pytest.raises(UnsupportedImage) as caught:
        decode(encoded(gradient(), "PPM"), **LIMITS)
    assert caught.value.why == f"it is not a {NAMES}"
    with pytest.raises(UnsupportedImage) as caught:
        decode(bus_jpg.read_bytes()[:20_000], **LIMITS)
    assert caught.value.why == "it is truncated or damaged"


def test_a_truncated_jpeg_with_an_end_marker_inside_is_refused() -> None:
    """An EXIF thumbnail ends with the marker, too: it must not pass for the end of the picture."""
    thumbnail = encoded(gradient(size=(16, 16)), "JPEG")
    data = encoded(gradient(size=(640, 480)), "JPEG", exif=b"Exif\0\0" + thumbnail)
    cut = data[: data.index(b"\xff\xd9") + 2]
    with pytest.raises(UnsupportedImage):
        decode(cut, **LIMITS)


def adam7(image: NDArray[np.uint8], upto: int) -> bytes:
    """An interlaced PNG of a grey image, of so many of its seven passes."""
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    lines = b"".join(
        b"\0" + line.tobytes() for x, y, right, down in passes[:upto] for line in image[y::down, x::right] if line.size
    )
    whole = png(image.shape[1], image.shape[0], zlib.compress(lines))
    header = struct.pack(">IIBBBBB", image.shape[1], image.shape[0], 8, 0, 0, 0, 1)
    checksum = struct.pack(">I", zlib.crc32(b"IHDR" + header))
    return whole[:16] + header + checksum + whole[33:]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_a_png_whose_data_ends_early_is_refused(mode: str) -> None:
    """It is whole but for its pixels, of which Pillow would make black ones; honest black ones are kept."""
    for image in (gradient(size=(61, 47)), Image.new("RGB", (61, 47))):
        made = (
            Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16)) if mode == "I;16" else image.convert(mode)
        )
        data = encoded(made, "PNG", compress_level=0)
        assert decode(data, **LIMITS).shape == (47, 61, 3)
        (size,) = struct.unpack_from(">I", data, data.index(b"IDAT") - 4)
        lines = zlib.decompress(data[data.index(b"IDAT") + 4 :][:size])
        early = data[: data.index(b"IDAT") - 4]
        for packed in (zlib.compress(lines[: len(lines) * 2 // 3]), zlib.compress(lines[:-1])):
            chunk = struct.pack(">I", len(packed)) + b"IDAT" + packed
            short = early + chunk + struct.pack(">I", zlib.crc32(chunk[4:])) + data[-12:]
            with pytest.raises(UnsupportedImage):
                decode(short, **LIMITS)


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (5, 5), (64, 48), (61, 47)])
def test_an_interlaced_png_has_all_of_its_passes(size: tuple[int, int]) -> None:
    image = np.full((size[1], size[0]), 200, np.uint8)
    np.testing.assert_array_equal(decode(adam7(image, 7), **LIMITS)[:, :, 0], image)
    if size > (1, 1):
        with pytest.raises(UnsupportedImage):
            decode(adam7(image, 5), **LIMITS)


def test_what_follows_a_jpeg_is_ignored(bus_jpg: Path) -> None:
    """Phones append videos and previews; archives hide there, unopened."""
    data = bus_jpg.read_bytes()
    expected = decode(data, **LIMITS)
    np.testing.assert_array_equal(decode(data + b"PK\3\4" * 1000, **LIMITS), expected)


def test_too_many_bytes_are_refused_unread() -> None:
    with pytest.raises(ImageTooLarge, match="101 bytes"):
        decode(b"\0" * 101, max_bytes=100, max_pixels=1)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "JPEG2000"])
def test_one_pixel_too_many_is_refused_and_the_last_one_is_not(kind: str) -> None:
    data = encoded(gradient(size=(30, 20)), kind)
    assert decode(data, max_bytes=1 << 20, max_pixels=600).shape == (20, 30, 3)
    with pytest.raises(ImageTooLarge, match="30x20") as caught:
        decode(data, max_bytes=1 << 20, max_pixels=599)
    assert "--max-image-pixels 1M" in str(caught.value.hint)


@pytest.mark.parametrize("size", [(1, 65500), (65500, 1), (1, 1)])
def test_extreme_shapes_decode(size: tuple[int, int]) -> None:
    assert decode(encoded(Image.new("RGB", size), "JPEG"), **LIMITS).shape == (size[1], size[0], 3)


def webp_of_65_megapixels() -> bytes:
    return encoded(Image.new("RGB", (16383, 3970)), "WEBP", lossless=True, quality=0, method=0)


def png(width: int, height: int, body: bytes) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def tiff(entries: dict[int, int], strip: bytes) -> bytes:
    start = 8 + 2 + 12 * (len(entries) + 2) + 4
    entries = dict(sorted({**entries, 273: start, 279: len(strip)}.items()))
    if 322 in entries:  # tiled: offsets and lengths have tags of their own
        entries[324], entries[325] = entries.pop(273), entries.pop(279)
    table = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(entries.items()))
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + table + b"\0\0\0\0" + strip


def jpeg_of_many_scans(scans: int, *, progressive: bool) -> bytes:
    data = encoded(Image.new("RGB", (4000, 4000)), "JPEG", progressive=progressive)
    if not progressive:
        return data[: data.index(b"\xff\xda")] + b"\xff\xda\0\x08\x01\x01\0\0\x3f\0" * scans + b"\xff\xd9"
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * scans + b"\xff\xd9"


# Made only when asked for, as some take a while.
BOMBS: dict[str, Callable[[], bytes]] = {
    "png_header": lambda: png(60000, 60000, b""),
    "png_zero": lambda: png(0, 10, zlib.compress(b"")),
    "png_of_much_more_data_than_pixels": lambda: png(10, 10, zeros(200 << 20)),
    "tiff_of_a_tile_much_larger_than_the_image": lambda: tiff(
        {256: 1, 257: 1, 258: 8, 259: 8, 262: 1, 277: 1, 322: 30000, 323: 30000}, zeros(900_000_000)
    ),
    "tiff_of_a_strip_much_larger_than_the_image": lambda: tiff(
        {256: 8, 257: 8, 258: 8, 259: 8, 262: 1, 277: 1, 278: 0xFFFFFFF}, zeros(400_000_000)
    ),
    "jpeg_of_many_scans": lambda: jpeg_of_many_scans(1000, progressive=True),
    "baseline_jpeg_of_many_scans": lambda: jpeg_of_many_scans(20_000, progressive=False),
    "gif_header": lambda: b"GIF89a" + struct.pack("<HH", 65535, 65535) + encoded(gradient("P"), "GIF")[10:],
    "webp_of_65_megapixels": webp_of_65_megapixels,
    "bmp_header": lambda: b"BM" + struct.pack("<IHHIIiiHHI", 54, 0, 0, 54, 40, 1 << 30, 1 << 30, 1, 24, 0) + bytes(20),
}

_IN_A_PROCESS_OF_ITS_OWN = """
import re, sys, time
from detectctl.engine import image_limits
from detectctl.engine.decode import decode
from detectctl.errors import RequestError
data = sys.stdin.buffer.read()
def peak():  # not ru_maxrss, which a child inherits from the process that started it
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
decode(open(sys.argv[1], "rb").read(), max_bytes=1 << 30, max_pixels=64_000_000)  # warm
before, start = peak(), time.process_time()
try:
    decode(data, max_bytes=20 << 20, max_pixels=64_000_000)
    kind = "image"
except RequestError as error:
    kind = error.code
print(kind, (peak() - before) // 1024, time.process_time() - start)
"""


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("png_header", "image_too_large"),
        ("png_zero", "unsupported_image"),
        ("png_of_much_more_data_than_pixels", "image"),
        ("tiff_of_a_tile_much_larger_than_the_image", "image_too_large"),
        ("tiff_of_a_strip_much_larger_than_the_image", "image"),
        ("jpeg_of_many_scans", "unsupported_image"),
        ("baseline_jpeg_of_many_scans", "unsupported_image"),
        ("gif_header", "image_too_large"),
        ("webp_of_65_megapixels", "image_too_large"),
        ("bmp_header", "image_too_large"),
    ],
)
def test_bombs_cost_neither_memory_nor_time(name: str, expected: str, bus_jpg: Path) -> None:
    """Each costs a second of CPU and 64 MB at most: it is an error of the request, or as small as it claims to be."""
    kind, megabytes, seconds = cost(BOMBS[name](), bus_jpg)
    assert kind == expected
    assert megabytes < 64
    assert seconds < 1


def cost(data: bytes, warm_up: Path) -> tuple[str, int, float]:
    """What came of it, megabytes, and seconds of CPU."""
    result = subprocess.run(
        [sys.executable, "-c", _IN_A_PROCESS_OF_ITS_OWN, str(warm_up)],
        input=data,
        capture_output=True,
        timeout=60,
        check=True,
    )
    kind, megabytes, seconds = result.stdout.decode().split()
    return kind, int(megabytes), float(seconds)


@pytest.mark.parametrize("name", FLOODS)
def test_floods_of_empty_parts_are_refused_at_once(name: str, bus_jpg: Path) -> None:
    kind, megabytes, seconds = cost(FLOODS[name](), bus_jpg)
    assert kind == "unsupported_image"
    assert megabytes < 64
    assert seconds < 1


def test_a_long_search_for_markers_lets_other_threads_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """And is none where what it passes over is refused anyway."""
    searched: list[int] = []

    class Marker:
        def search(self, data: bytes, begin: int, end: int) -> re.Match[bytes] | None:
            searched.append(min(end, len(data)) - begin)
            return pattern.search(data, begin, end)

    pattern = image_limits._JPEG_MARKER
    monkeypatch.setattr(image_limits, "_JPEG_MARKER", Marker())
    fill = b"\xff" * 1_000_000
    scan = encoded(gradient(), "JPEG").removesuffix(b"\xff\xd9") + fill
    found = {}
    for name, data in {"in a scan": scan, "before it": b"\xff\xd8" + fill}.items():
        searched.clear()
        with pytest.raises(UnsupportedImage):
            decode(data, **LIMITS)
        assert max(searched) < 100_000
        found[name] = sum(searched)
    assert found["before it"] < 100_000 < len(fill) < found["in a scan"]


@pytest.mark.parametrize("before", [65_536, 65_537])
def test_markers_as_far_apart_as_is_accepted_are_found(before: int) -> None:
    whole = encoded(gradient(), "JPEG")
    apart = whole[:2] + bytes(before) + whole[2:]
    assert [one[1] for one in image_limits._jpeg_segments(apart)][:1] == ([0xE0] if before == 65_536 else [0xD9])
    if before > 65_536:
        with pytest.raises(UnsupportedImage, match="bytes between markers"):
            image_limits.check_parts(apart)


def test_scans_of_thumbnails_and_further_pictures_do_not_count() -> None:
    """Honest files hold other JPEGs, in their EXIF and behind the first picture."""
    scans = encoded(gradient(), "JPEG", progressive=True) * 2
    thumbnails = encoded(gradient(), "JPEG", progressive=True, exif=b"Exif\0\0" + scans * 8)
    assert thumbnails.count(b"\xff\xda\0") > 32
    pictures = [gradient() for _ in range(6)]
    mpo = encoded(gradient(), "MPO", save_all=True, append_images=pictures, progressive=True)
    assert mpo.count(b"\xff\xda\0") > 32
    for data in (thumbnails, mpo, mpo + scans * 8):
        assert decode(data, **LIMITS).shape == (48, 64, 3)


def test_honest_files_of_many_parts_decode() -> None:
    """Large profiles and EXIF, long comments, strips of a line, chunks of 8 KiB."""
    noise = Image.fromarray(np.random.default_rng(3).integers(0, 255, (2000, 2000, 3), np.uint8))
    jpeg = encoded(gradient(), "JPEG", icc_profile=bytes(4 << 20), comment=bytes(60_000))
    with io.BytesIO() as file:
        noise.save(file, "PNG", compress_level=0)
        png_of_12_mb = file.getvalue()
    files = [
        jpeg,
        png_of_12_mb,
        encoded(noise, "TIFF", tiffinfo={278: 1, 270: "a" * 1_000_000}),
        encoded(gradient(), "GIF", comment=b"a" * 1_000_000),
        encoded(gradient(), "WEBP", save_all=True, append_images=[gradient().rotate(turn) for turn in range(1, 300)]),
    ]
    for data in files:
        assert decode(data, **LIMITS).ndim == 3


def mutations(rng: random.Random, data: bytes) -> bytes:
    broken = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        position = rng.randrange(min(len(broken), rng.choice((64, 1024, len(broken)))))
        match rng.randrange(4):
            case 0:
                broken[position] = rng.randrange(256)
            case 1:
                broken[position : position + 4] = rng.choice((b"\xff\xff\xff\xff", bytes(4), b"\x7f\xff\xff\xff"))
            case 2:
                del broken[position : position + rng.randrange(1, 40)]
            case _:
                broken[position:position] = rng.randbytes(rng.randrange(1, 40))
        if not broken:
            break
    return bytes(broken)


def test_mutated_images_raise_nothing_but_errors_of_the_request() -> None:
    """3,000 seeded mutations of all formats: an image or a RequestError, each in a second of CPU and bounded memory."""
    seed = 20261123
    rng = random.Random(seed)  # noqa: S311 - a test that can be repeated
    noise = np.random.default_rng(seed).integers(0, 255, (60, 80, 3), np.uint8)
    image = Image.blend(gradient(size=(80, 60)), Image.fromarray(noise), 0.3)
    exif = Image.Exif()
    exif[0x0112] = 6
    corpus = [
        encoded(image, "JPEG", exif=exif),
        encoded(image, "JPEG", progressive=True),
        encoded(image.convert("CMYK"), "JPEG"),
        encoded(image, "PNG", exif=exif),
        encoded(image.convert("P"), "PNG"),
        encoded(image, "WEBP", exif=exif),
        encoded(image, "WEBP", lossless=True),
        encoded(image, "WEBP", save_all=True, append_images=[image]),
        encoded(image, "BMP"),
        encoded(image.convert("P"), "BMP"),
        encoded(image, "TIFF", exif=exif),
        encoded(image, "TIFF", compression="tiff_lzw"),
        encoded(image, "TIFF", compression="jpeg"),
        encoded(image, "GIF"),
        encoded(image, "GIF", save_all=True, append_images=[image.rotate(90)]),
        encoded(image, "AVIF", exif=exif),
        encoded(image, "AVIF", save_all=True, append_images=[image]),
        encoded(image, "JPEG2000"),
        encoded(image, "JPEG2000", no_jp2=True, tile_size=(32, 32)),
        masked_bmp(image, 0xFFE00000, 0x1FFC00, 0x3FF),
        heic_images.TURNED,
    ]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    good = 0
    for number in range(3000):
        data = mutations(rng, corpus[number % len(corpus)])
        start = time.process_time()
        try:
            result = decode(data, max_bytes=1 << 20, max_pixels=1_000_000)
        except RequestError:
            pass
        else:
            good += 1
            assert result.ndim == 3
            assert result.shape[2] == 3
        assert time.process_time() - start < 1, f"seed {seed}, number {number}"
    assert 300 < good < 2700  # both ways are taken
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024


def test_many_threads_decode_at_once(bus_jpg: Path, zidane_jpg: Path) -> None:
    files = [bus_jpg.read_bytes(), zidane_jpg.read_bytes(), encoded(gradient(), "PNG"), encoded(gradient(), "WEBP")]
    expected = [decode(data, **LIMITS) for data in files]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda number: decode(files[number % 4], **LIMITS), range(80)))
    for number, result in enumerate(results):
        np.testing.assert_array_equal(result, expected[number % 4])
