"""Addresses as people write them: how one is shown, and what it is if neither an http(s) URL nor a file's path."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, replace
from urllib.parse import unquote

MAX_SHOWN_CHARS = 120
NO_FRAGMENT = "; what follows a # is not sent: in a file's name, write it as %23"
"""Added to the reason why a URL was not found."""

_AROUND = " \t\"'`<>()[]"
_LOGIN = re.compile(r"//(?:[^/]*|[^/\[]*:[^/]*[^/0-9][^/]*/.*)@")
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+):(/*)", re.IGNORECASE)
_WINDOWS = re.compile(r"[a-z]:[\\/]|\\\\", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Foreign:
    """An address that nothing here opens.

    Attributes:
        kind: in words that complete `it is …`.
        signed: the command that makes an http(s) URL of it, if there is one.
        local: what to do where no URL is needed, but a file.
        mended: what to do if it is a URL that is written wrongly.
    """

    kind: str
    signed: str | None = None
    local: str = "download it first, and name the file"
    mended: str | None = None


_S3 = Foreign("an object in S3", signed="aws s3 presign {}")
_GOOGLE = Foreign("an object in Google Cloud Storage", signed="gcloud storage sign-url {}")
_AZURE = Foreign("an object in Azure Blob Storage", signed="az storage blob generate-sas --full-uri …")
_VIDEO = Foreign("a video stream", local="take a frame from it: `ffmpeg -i {} -frames:v 1 frame.jpg`")
_KNOWN = {
    **dict.fromkeys(("s3", "s3a", "s3n"), _S3),
    "gs": _GOOGLE,
    **dict.fromkeys(("az", "abfs", "abfss", "wasb", "wasbs"), _AZURE),
    **dict.fromkeys(("rtsp", "rtsps", "rtmp", "rtmps", "rtp", "udp", "srt"), _VIDEO),
}
"""By scheme; `{}` is the address."""


def is_url(text: str) -> bool:
    """Whether the text is an http(s) URL."""
    return text.lower().startswith(("http://", "https://"))


def masked(text: str) -> str:
    """The text with `***` in place of a URL's user name and password.

    These end at the last @ before the path, as URLs are read; and also further on where a slash in a password was not
    encoded, which makes a bad URL that must be shown to be mended.
    """
    return _LOGIN.sub("//***@", text)


def shortened(text: str) -> str:
    """The text, or as much of its beginning as a line of a message has room for."""
    return text if len(text) <= MAX_SHOWN_CHARS else f"{text[: MAX_SHOWN_CHARS - 1]}…"


def foreign(text: str) -> Foreign | None:
    """What the text is, if it is an address of another kind than an http(s) URL; None if it may be a file's path."""
    quoted = shlex.quote(shortened(masked(text)))
    if _WINDOWS.match(text):
        return Foreign("a path of Windows", local=f"under WSL, name the file that this prints: `wslpath {quoted}`")
    if is_url(text):
        return None
    if is_url(text.strip(_AROUND)):
        return Foreign("a URL with other characters around it", mended="name it without them")
    if (match := _SCHEME.match(text)) is None:
        return None
    scheme, slashes = match[1].lower(), match[2]
    found = None
    if scheme == "data" and "," in text:
        pipe = "base64 -d FILE | detectctl detect -"
        found = Foreign("a data: URL, which has the image in it", local=f"decode what follows its comma: `{pipe}`")
    elif scheme in {"http", "https"}:
        found = Foreign("a URL whose beginning is misspelt", mended=f"begin it with {scheme}://")
    elif scheme == "file" and slashes:
        path = re.sub(r"^file:(//(localhost)?)?", "", text, flags=re.IGNORECASE)
        found = Foreign("a file: URL", local=f"name the file itself: `{shlex.quote(unquote(path))}`")
    elif slashes == "//":  # else it may be a file whose name has a colon in it
        known = _KNOWN.get(scheme, Foreign(f"an address that begins with {scheme}://"))
        found = replace(known, signed=known.signed and known.signed.format(quoted), local=known.local.format(quoted))
    return found
