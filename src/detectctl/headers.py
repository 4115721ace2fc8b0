"""What servers' HTTP headers mean, the same for the service's downloads and for the client's."""

from __future__ import annotations

import re
import time
from email.utils import parsedate_to_datetime

_PACKED = frozenset(
    {"gzip", "x-gzip", "deflate", "br", "zstd", "compress", "x-compress", "bzip2", "xz", "lzma", "dcb", "dcz"}
)


def packings(content_encoding: str) -> list[str]:
    """The compressions of a body, in the order in which they were applied.

    Whatever else is in the header is left out, as browsers do: `aws-chunked` and `binary`, which uploaders leave there,
    `utf-8`, and what nobody knows. The bytes are as they should be.
    """
    return [coding for each in content_encoding.split(",") if (coding := each.strip().lower()) in _PACKED]


def come_back(seconds: float | None) -> str:
    """What a message adds where a server said when to come back."""
    return "" if seconds is None else f", and asks to come back in {seconds:.0f} s"


def retry_after_s(value: str) -> float:
    """The seconds of `Retry-After`, which is a number or a date (RFC 9110, section 10.2.3); 0 if it is neither."""
    if re.fullmatch(r"\s*[0-9]{1,12}(\.[0-9]*)?\s*", value):
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0
