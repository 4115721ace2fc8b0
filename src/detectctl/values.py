"""What people write for a setting, on the command line, in a variable or in the file, and the value that it means.

What is none raises ValueError, which says what it must be.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from detectctl.defaults import MAX_LINE_WIDTH
from detectctl.engine import detector_settings as detection
from detectctl.thresholds import Thresholds

_BYTE_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_COUNT_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}
N = TypeVar("N", int, float)


@dataclass(frozen=True, slots=True)
class Replicas:
    """How many replicas the service may have; more than one number means autoscaling between them."""

    minimum: int
    maximum: int

    def __str__(self) -> str:
        return str(self.maximum) if self.minimum == self.maximum else f"{self.minimum}..{self.maximum}"


def matched(value: object, pattern: str, wanted: str) -> re.Match[str]:
    """The match of the whole text; ValueError says what was `wanted`."""
    match = re.fullmatch(pattern, str(value).strip())
    if match is None:
        raise ValueError(wanted)
    return match


def flag(value: object) -> bool:
    """A truth value, in TOML's words or in those of the shell."""
    return matched(str(value).lower(), "(1|true|yes|on)|0|false|no|off", "must be true or false")[1] is not None


def number(value: object, kind: type[N], low: float, high: float) -> N:
    """A number of this kind, from `low` to `high`."""
    try:
        number = kind(str(value))  # not of the value itself: a truth value is not a number, nor 1.5 an integer
    except ValueError:
        raise ValueError("must be an integer" if kind is int else "must be a number") from None
    if not low <= number <= high:  # also NaN
        raise ValueError(f"must be from {low:g} to {high:g}" if high < 10**9 else f"must be at least {low:g}")
    return number


def strings(value: object) -> tuple[str, ...]:
    """A list, or text with commas between its items; empty ones are left out."""
    return tuple(item.strip() for item in _listed(value) if item.strip())


def _listed(value: object) -> tuple[str, ...]:
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, (list, tuple)) or not all(isinstance(item, str) for item in items):
        raise ValueError("must be a list of strings")
    return tuple(items)


def path(text: str) -> Path:
    """A path; a `~` at its start is the home folder."""
    try:
        return Path(text).expanduser()  # no shell has done so in a file, in a variable or after `--option=`
    except RuntimeError as error:
        raise ValueError("must not begin with ~, because that folder is not known") from error


def instance_name(value: object) -> str:
    """Short enough for the paths of sockets, and fit for a host's name."""
    wanted = "must be 1 to 40 lower-case letters, digits and inner hyphens"
    return matched(value, "[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?", wanted)[0]


def kubernetes_name(value: object) -> str:
    """The name of an object, such as a Secret's."""
    wanted = "must be a name of Kubernetes: lower-case letters, digits, dots and inner hyphens"
    return matched(value, r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?", wanted)[0]


def class_names(value: object) -> tuple[str, ...]:
    """As the model has them: one may be empty, or begin with a space. Only a variable lists them by commas."""
    return strings(value) if isinstance(value, str) else _listed(value)


def origins(value: object) -> tuple[str, ...]:
    """Origins that browsers send, and `*` for any."""
    # Browsers compare the whole text: an origin in another spelling would silently permit nobody.
    wanted = "must be an origin such as https://app.example.org, in lower case and without a path"
    pattern = r"\*|https?://([a-z0-9.-]+|\[[0-9a-f:]+\])(:\d{1,5})?"
    return tuple(matched(origin, pattern, wanted)[0] for origin in strings(value))


def dashboard(value: object) -> str:
    """The URL of a Ray dashboard, without a slash at its end."""
    pattern = r"https?://([A-Za-z0-9_.-]+|\[[0-9a-fA-F:.]+\])(:\d{1,5})?(/[!-~]*)?"
    return matched(value, pattern, "must be the URL of a Ray dashboard, such as http://head:8265")[0].rstrip("/")


def route_prefix(value: object) -> str:
    """The path below which an application answers."""
    return matched(value, r"/|(/[A-Za-z0-9_.~-]+)+", "must be / or a path such as /yolo, without a slash at its end")[0]


def node_python(value: object) -> str:
    """An absolute path on other machines."""
    wanted = "must be an absolute path on the nodes, such as /opt/detectctl/bin/python"
    return matched(value, r"/[^\0\n]*[^\0\n/]", wanted)[0]


def image_size(value: object) -> int:
    """The longer side of what the network sees, in pixels."""
    size = number(value, int, 32, 4096)
    if size % 32:
        raise ValueError("must be a multiple of 32, the model's stride")
    return size


def byte_size(value: object) -> int:
    """`20MiB`, `500kB` or a plain number, as bytes."""
    return _with_unit(value, _BYTE_UNITS, "must be a size such as 20MiB")


def pixel_count(value: object) -> int:
    """`64M`, `1.5G` or a plain number, as a number of pixels."""
    count = _with_unit(value, _COUNT_UNITS, "must be a number such as 64M")
    if not 1 <= count <= detection.MOST_PIXELS:
        raise ValueError(f"must be from 1 to {in_millions(detection.MOST_PIXELS)}")
    return count


def _with_unit(value: object, units: dict[str, int], wanted: str) -> int:
    match = matched(str(value).lower(), rf"(\d+(?:\.\d+)?)\s*({'|'.join(units)})", wanted)
    return int(float(match[1]) * units[match[2]])


def replicas(value: object) -> Replicas | None:
    """`2`, or `1..3`, or None for `auto`."""
    if value == "auto":
        return None
    wanted = "must be auto, a number such as 2, or a range such as 1..3"
    match = matched(value, r"(\d{1,3})(?:\.\.(\d{1,3}))?", wanted)
    minimum, maximum = int(match[1]), int(match[2] or match[1])
    if minimum > maximum or maximum == 0:
        raise ValueError("must allow at least one replica, and a range must not shrink, as in 0..2")
    return Replicas(minimum, maximum)


def in_mebibytes(size: int) -> str:
    """As `byte_size` reads it."""
    return str(size) if size % 2**20 else f"{size >> 20}MiB"


def in_millions(count: int) -> str:
    """As `pixel_count` reads it."""
    return str(count) if count % 10**6 else f"{count // 10**6}M"


def thresholds(value: object) -> Thresholds:
    """`0.4`, `0.4,person=0.25` or `person=0.25`."""
    return Thresholds.parse(str(value))


def line_width(value: object) -> int | None:
    """Pixels, or None for `auto`."""
    return None if value == "auto" else number(value, int, 1, MAX_LINE_WIDTH)
