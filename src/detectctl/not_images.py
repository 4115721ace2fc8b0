"""What people and servers send in place of an image, told from its first bytes."""

from __future__ import annotations

import re

TEXT = "text"
"""The last resort: what nothing better is known of."""

_HEAD_BYTES = 1024
_MARKUP = (
    (re.compile(rb"<(!doctype html|html|head|body|script|title|meta)\b"), "an HTML page"),
    (re.compile(rb"<svg\b|<(\?xml|!--|!doctype svg)[^\0]*<svg\b"), "an SVG drawing"),
    (re.compile(rb"<!--[^\0]*<html\b"), "an HTML page"),
    (re.compile(rb"<(\?xml\b|[a-z][a-z0-9:_-]*[\s>])"), "XML"),
    (re.compile(rb"(\{\s*[\"}]|\[\s*[\[{\"\d\]])"), "JSON"),
    (re.compile(rb"version https://git-lfs"), "a pointer of Git LFS to a file that was not pulled"),
    (re.compile(rb"data:[a-z]+/[a-z0-9.+-]+[;,]"), "a data: URL"),
    (re.compile(rb"[a-z_][a-z0-9_.-]{0,40}=[a-z0-9%+*._/:=&-]*$"), "a URL-encoded form"),
)
"""Of the first bytes in lower case, without the space before them."""
_MAGIC = (
    (re.compile(rb"%PDF-"), "a PDF document"),
    (re.compile(rb"PK\x03\x04"), "a ZIP archive"),
    (re.compile(rb"\x1f\x8b"), "compressed by gzip"),
    (re.compile(rb"....ftyp(?!avi[fs]|hei|hev|mif1|msf1|crx)", re.DOTALL), "a video"),
    (re.compile(rb"\x1aE\xdf\xa3|RIFF....AVI |OggS|FLV|\0\0\x01\xba", re.DOTALL), "a video"),
    # The first bytes of JPEG, PNG, GIF, WebP, TIFF, BMP and JPEG 2000 (as a file and bare), then of AVIF and HEIC.
    (
        re.compile(
            rb"(/9j/|iVBORw0KGgo|R0lGOD|UklGR|SUkqA|TU0AK|Qk[0-3]|AAAADGpQ|/0//|AAAA..Z0eXB(hdml|oZWl|taWYx))"
            rb"[A-Za-z0-9+/=\s]*$"
        ),
        "an image in base64",
    ),
    (re.compile(rb"\x89PNG\n?\x1a"), "a PNG whose line ends were changed on the way"),
    # The first bytes of JPEG and PNG, each put in place of by U+FFFD, or made two by taking them for Latin-1.
    (
        re.compile(rb"(\xef\xbf\xbd){3}|(\xef\xbf\xbd|\xc2\x89)PNG|\xc3\xbf\xc3\x98\xc3\xbf"),
        "what is left of an image that was read as text on the way",
    ),
)


def kind_of(data: bytes) -> str | None:
    """In words that complete `it is …`; None for what may be an image."""
    if data.startswith(b"\xff\xd8\xff"):  # JPEG, which most are
        return None
    if not data:
        return "empty"
    head = data[:_HEAD_BYTES].removeprefix(b"\xef\xbb\xbf").lstrip()
    if head.startswith((b"\xff\xd8\xff", b"\x89PNG\r")) and not data.startswith(head):  # a script's own blank lines
        return "an image behind a byte order mark or blank lines"
    for form, kind in _MAGIC:
        if form.match(head):
            return kind
    lower = head.lower()
    for form, kind in _MARKUP:
        if form.match(lower):
            return kind
    return TEXT if head.isascii() and not re.search(rb"[\0-\x08\x0e-\x1f]", head) else None
