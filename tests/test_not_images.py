from __future__ import annotations

import base64

import pytest

from broken_images import FORMATS, encoded
from detectctl.not_images import kind_of

AS_TEXT = "what is left of an image that was read as text on the way"


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"<!DOCTYPE html><html>", "an HTML page"),
        (b"\xef\xbb\xbf\r\n  <HTML lang=en>", "an HTML page"),
        (b"<!-- saved --><html>", "an HTML page"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing"),
        (b"<?xml version='1.0'?><!-- drawn --><svg/>", "an SVG drawing"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "XML"),
        (b'{"error": "gone"}', "JSON"),
        (b'[{"a": 1}]', "JSON"),
        (b"%PDF-1.7", "a PDF document"),
        (b"\0\0\0\x18ftypmp42", "a video"),
        (b"\0\0\0\x14ftypqt  ", "a video"),
        (b"\x1aE\xdf\xa3webm", "a video"),
        (b"RIFF\0\0\0\0AVI LIST", "a video"),
        (b"PK\x03\x04", "a ZIP archive"),
        (b"version https://git-lfs.github.com/spec/v1", "a pointer of Git LFS to a file that was not pulled"),
        (b"data:image/png;base64,iVBORw0KGgo=", "a data: URL"),
        (b"image=%2F9j%2F4AAQ", "a URL-encoded form"),
        (b"\x89PNG\x1a\0\0\0", "a PNG whose line ends were changed on the way"),
        (b"\xef\xbb\xbf\xff\xd8\xff\xe0\0\x10JFIF", "an image behind a byte order mark or blank lines"),
        (b"\r\n\x89PNG\r\n\x1a\n", "an image behind a byte order mark or blank lines"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF".decode("utf-8", "replace").encode(), AS_TEXT),
        (b"\xff\xd8\xff\xe0\0\x10JFIF".decode("latin-1").encode(), AS_TEXT),
        (b"\x89PNG\r\n\x1a\n\0".decode("utf-8", "replace").encode(), AS_TEXT),
        (b"\x89PNG\r\n\x1a\n\0".decode("latin-1").encode(), AS_TEXT),
        ("\u00ffmlaut".encode(), None),
        (b"Access denied\n", "text"),
        (b"", "empty"),
    ],
)
def test_what_is_no_image_is_told_by_its_kind(data: bytes, kind: str | None) -> None:
    assert kind_of(data) == kind


@pytest.mark.parametrize("kind", FORMATS)
def test_an_image_is_none_of_them_and_is_known_in_base64(kind: str) -> None:
    assert kind_of(encoded(kind)) is None
    assert kind_of(base64.b64encode(encoded(kind))) == "an image in base64"
    assert kind_of(base64.encodebytes(encoded(kind))) == "an image in base64"


@pytest.mark.parametrize("brand", [b"avif", b"heic", b"heix", b"mif1", b"hevc"])
def test_an_image_in_the_container_of_videos_is_left_to_the_decoder(brand: bytes) -> None:
    assert kind_of(b"\0\0\0\x18ftyp" + brand) is None
