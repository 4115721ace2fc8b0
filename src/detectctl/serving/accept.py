"""Which types of answer a request accepts, by RFC 9110, section 12.5.1."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_Q = re.compile(r"q=(\d*\.?\d+)")
_ALSO = {"*": "*/*", "image/jpg": "image/jpeg", "image/pjpeg": "image/jpeg"}
"""What is written for others: by Java, by many programs, by an old Internet Explorer."""


def choices(accept: str, written: Sequence[str]) -> list[str]:
    """Those of the written types that `Accept` allows, the most wanted first; without a header all, in our order.

    Of a type's ranges the most specific counts, whatever the others say. Types that are wanted alike come in the order
    in which the header names them.
    """
    ranges: dict[str, tuple[float, int]] = {}
    for place, item in enumerate(accept.lower().split(",")):
        name, *parameters = (part.replace(" ", "").replace("\t", "") for part in item.split(";"))
        quality = next((float(match[1]) for part in parameters if (match := _Q.fullmatch(part))), 1.0)
        if name:
            ranges.setdefault(_ALSO.get(name, name), (quality, place))
    if not ranges:
        return list(written)
    wanted = []
    for number, media in enumerate(written):
        nearest = (media, f"{media.partition('/')[0]}/*", "*/*")
        quality, place = next((ranges[name] for name in nearest if name in ranges), (0.0, 0))
        if quality > 0:
            wanted.append((-quality, place, number, media))
    return [media for *_, media in sorted(wanted)]
