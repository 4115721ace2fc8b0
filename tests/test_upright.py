"""The pixels that the detector sees are those that are drawn on, in the service and in the client."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

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
    "1-bit png": encoded(photograph("1"), "PNG"),
    "bmp": encoded(photograph(), "BMP"),
    "gif": encoded(photograph().quantize(64), "GIF", save_all=True, append_images=[photograph("L")]),
    "cmyk tiff": encoded(photograph("CMYK"), "TIFF"),
    **{f"jpeg turned {number}": encoded(photograph(), "JPEG", exif=turned(number)) for number in range(2, 9)},
    **{f"tiff turned {number}": encoded(photograph(), "TIFF", exif=turned(number)) for number in (3, 6)},
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


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("kind", KINDS)
def test_the_service_and_the_client_draw_the_same_picture(client: Client, kind: str) -> None:
    """`--fetch server` and the client's own drawing differ in no pixel, and in no colour profile."""
    by_client, _ = client.annotate(KINDS[kind], "png")
    answer = client._ask("POST", "/annotate", client._deadline(), body=KINDS[kind], headers={"Accept": "image/png"})
    one, other = (Image.open(io.BytesIO(data)) for data in (by_client, answer.body))
    np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
    assert one.info.get("icc_profile") == other.info.get("icc_profile")
    assert one.info.get("icc_profile") == (PROFILE if "profile" in kind else None)


@pytest.mark.parametrize("number", range(1, 9))
@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "TIFF"])
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
