"""Settings: each option of each command, declared once. `precedence` finds their values."""

# Without `from __future__ import annotations`: the types of fields are read.

import re
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal, Union, get_args, get_origin

from detectctl.defaults import CONCURRENCY, QUALITY, RETRIES, TIMEOUT_S
from detectctl.engine import detector_settings as detection

PREFIX = "DETECTCTL_"
_BYTE_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


@dataclass(frozen=True, slots=True)
class Replicas:
    """How many replicas the service may have; more than one number means autoscaling between them."""

    minimum: int
    maximum: int

    def __str__(self) -> str:
        return str(self.maximum) if self.minimum == self.maximum else f"{self.minimum}..{self.maximum}"


def _flag(value: object) -> bool:
    if isinstance(value, bool):
        return value
    known = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if str(value).lower() not in known:
        raise ValueError("must be true or false")
    return known[str(value).lower()]


def _integer(value: object, low: float, high: float) -> int:
    if isinstance(value, bool) or not re.fullmatch(r"-?\d+", str(value)):
        raise ValueError("must be an integer")
    return int(_within(int(str(value)), low, high))


def _number(value: object, low: float, high: float) -> float:
    try:
        number = float(str(value))
    except ValueError:
        raise ValueError("must be a number") from None
    if isinstance(value, bool):
        raise ValueError("must be a number")  # noqa: TRY004 - whoever reads a setting names the origin of a ValueError
    return _within(number, low, high)


def _within(number: float, low: float, high: float) -> float:
    if not low <= number <= high:  # also NaN
        raise ValueError(f"must be from {low:g} to {high:g}" if high < 10**9 else f"must be at least {low:g}")
    return number


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("must be a string")  # noqa: TRY004
    return value


def _strings(value: object) -> tuple[str, ...]:
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, (list, tuple)) or not all(isinstance(item, str) for item in items):
        raise ValueError("must be a list of strings")
    return tuple(item.strip() for item in items if item.strip())


def _name(value: object) -> str:
    if not re.fullmatch(r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?", _string(value)):
        raise ValueError("must be 1 to 40 lower-case letters, digits and inner hyphens")
    return str(value)


def _origins(value: object) -> tuple[str, ...]:
    origins = _strings(value)
    for origin in origins:
        # Browsers compare the whole text: an origin in another spelling would silently permit nobody.
        if origin != "*" and not re.fullmatch(r"https?://([a-z0-9.-]+|\[[0-9a-f:]+\])(:\d{1,5})?", origin):
            raise ValueError("must be an origin such as https://app.example.org, in lower case and without a path")
    return origins


def _image_size(value: object) -> int:
    size = _integer(value, 32, 4096)
    if size % 32:
        raise ValueError("must be a multiple of 32, the model's stride")
    return size


def parse_bytes(value: object) -> int:
    """`20MiB`, `500kB` or a plain number, as bytes; ValueError otherwise."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", str(value).strip().lower())
    if match is None or match[2] not in _BYTE_UNITS or isinstance(value, bool):
        raise ValueError("must be a size such as 20MiB")
    return int(float(match[1]) * _BYTE_UNITS[match[2]])


def parse_replicas(value: object) -> Replicas:
    """`2`, or `1..3`; ValueError otherwise."""
    match = re.fullmatch(r"(\d{1,3})(?:\.\.(\d{1,3}))?", str(value).strip())
    if match is None or isinstance(value, bool):
        raise ValueError("must be a number such as 2, or a range such as 1..3")
    minimum, maximum = int(match[1]), int(match[2] or match[1])
    if minimum > maximum or maximum == 0:
        raise ValueError("must allow at least one replica, and a range must not shrink, as in 0..2")
    return Replicas(minimum, maximum)


def _mebibytes(size: int) -> str:
    return str(size) if size % 2**20 else f"{size >> 20}MiB"


def _line_width(value: object) -> int | None:
    return None if value == "auto" else _integer(value, 1, 1000)


@dataclass(frozen=True, slots=True)
class Option:
    """How people meet a setting; its type and its default are those of its field.

    An option declared once means one thing, whichever commands have it, and its variable is DETECTCTL_OPTION. Where
    commands declare options of the same name, each has a variable of its own: DETECTCTL_COMMAND_OPTION.

    Attributes:
        help: what it does, in words that stand alone.
        metavar: what to put in its place, in the help.
        group: its heading in the help.
        names: as typed, where it is not just the field's name with dashes.
        low: least number.
        high: largest number.
        parse: makes the value from text or TOML, raising ValueError; for types that cannot say it themselves.
        default: the default in words, where the value does not say it.
        words: writes a value as people would.
        on_command_line: whether it is an option at all; otherwise only the environment and the file have it.
        switch: a variable of other programs that turns it on by not being empty.
        guards: whether to overlook it could open the service to others.
    """

    help: str
    metavar: str | None = None
    group: str = ""
    names: tuple[str, ...] = ()
    low: float = 0
    high: float = 10**9
    parse: Callable[[object], Any] | None = None
    default: str = ""
    words: Callable[[Any], str] = str
    on_command_line: bool = True
    switch: str = ""
    guards: bool = False


def _option(default: Any, /, *words: Any, **rules: Any) -> Any:
    """A field with this default, and `Option` of the rest."""
    return field(default=default, metadata={"option": Option(*words, **rules)})


def _model_timeout() -> Any:
    words = "Seconds to wait for W&B, or for the download of a model"
    return _option(60.0, words, "SECONDS", MODEL, low=1, high=_DAY_S)


_DAY_S = 86400
GROUPS = (
    "Arguments",
    OPTIONS := "Options",
    MODEL := "Model",
    DETECTIONS := "Detections",
    REQUESTS := "Requests",
    SERVICE := "Service",
    IMAGES := "Images and URLs",
    ACCESS := "Access",
    FOLLOWING := "Following",
    OUTPUT := "Output",
    GLOBAL := "Global options",
)
"""The headings of the help, in their order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of a command, and the name of its table in the file."""

    command: ClassVar[str] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GlobalSettings(Settings):
    """What every command takes; at the top of the file."""

    verbose: bool = _option(False, "Show the traceback of an error", None, GLOBAL, ("--verbose", "-v"))
    quiet: bool = _option(False, "Show warnings and errors, but no progress", None, GLOBAL, ("--quiet",))
    no_color: bool = _option(False, "Never colour the output", None, GLOBAL, ("--no-color",), switch="NO_COLOR")


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceSettings(Settings):
    """What every command about one instance needs."""

    name: str = _option("default", "Name of the instance", "NAME", SERVICE, ("--name", "-n"), parse=_name)


@dataclass(frozen=True, slots=True, kw_only=True)
class UpSettings(InstanceSettings):
    """The settings of `up`."""

    command: ClassVar[str] = "up"
    model: str = _option(
        "base",
        "Model to serve: base, yolov8{n,s,m,l,x}, a .pt file, or a W&B artifact entity/project/name:alias",
        "REF",
        MODEL,
        ("--model", "-m"),
    )
    fallback: bool = _option(True, "If the model is unavailable, serve stock YOLOv8n instead and say so", group=MODEL)
    model_timeout: float = _model_timeout()
    trust_checkpoint: bool = _option(
        False, "Load the checkpoint even if it runs code of its own; only if you trust its author", group=MODEL
    )
    assets_url: str | None = _option(None, "Where to download base models from", on_command_line=False)
    device: Literal["auto", "cpu", "cuda"] = _option("auto", "Device to run on", group=MODEL)
    precision: Literal["auto", "fp32", "bf16", "fp16", "int8"] = _option("auto", "Numeric precision", group=MODEL)
    calibrate: Path | None = _option(None, "For int8: folder of images like those the service will see", "DIR", MODEL)
    max_int8_loss: float = _option(0.2, "For int8: share of boxes that may differ from fp32", "SHARE", MODEL, high=1)
    imgsz: int = _option(
        detection.IMGSZ, "Longer side of the image that the network sees, in pixels", "PIXELS", MODEL, parse=_image_size
    )
    conf: float = _option(detection.CONFIDENCE, "Minimum confidence of a detection, 0 to 1", "CONF", MODEL, high=1)
    iou: float = _option(detection.IOU, "NMS: maximum overlap of two boxes, 0 to 1", "IOU", MODEL, high=1)
    host: str = _option("127.0.0.1", "Address to listen on", "HOST", SERVICE)
    port: int = _option(8000, "Port to listen on", "PORT", SERVICE, low=1, high=65535)
    replicas: Replicas = _option(
        Replicas(1, 2), "Number of replicas; a range scales with the load", "N|MIN..MAX", SERVICE, parse=parse_replicas
    )
    timeout: float = _option(180.0, "Seconds until the service must answer", "SECONDS", SERVICE, low=1, high=_DAY_S)
    docs: bool = _option(True, "Serve the pages /docs and /openapi.json", group=SERVICE)
    url_input: bool = _option(True, "Accept image URLs, which the service then downloads", group=IMAGES)
    allow_url: tuple[str, ...] = _option(
        (), "Also allow image URLs on this private host or network (repeatable)", "HOST|CIDR", IMAGES
    )
    max_image_bytes: int = _option(
        detection.MAX_IMAGE_BYTES, "Maximum size of an image", "SIZE", IMAGES, parse=parse_bytes, words=_mebibytes
    )
    api_key_file: Path | None = _option(None, "Require one of the API keys in FILE", "FILE", ACCESS, guards=True)
    generate_api_key: bool = _option(False, "Make an API key, show it once, and require it", group=ACCESS)
    no_auth: bool = _option(
        False, "Disable authentication, even on a public address", group=ACCESS, names=("--no-auth",)
    )
    cors_origin: tuple[str, ...] = _option(
        (), "Allowed CORS origin, or * for any (repeatable)", "ORIGIN", ACCESS, parse=_origins
    )
    follow: bool = _option(False, "Stay, and update the service whenever the model's alias moves", group=FOLLOWING)
    interval: float = _option(60.0, "With --follow: seconds between checks", "SECONDS", FOLLOWING, low=1, high=_DAY_S)
    down_on_exit: bool = _option(False, "With --follow: stop the service on exit", group=FOLLOWING)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestSettings(InstanceSettings):
    """How `detect` and `annotate` send images."""

    conf: float | None = _option(
        None, "Minimum confidence, 0 to 1", "CONF", DETECTIONS, high=1, default="the service's"
    )
    iou: float | None = _option(
        None, "NMS: maximum overlap, 0 to 1", "IOU", DETECTIONS, high=1, default="the service's"
    )
    class_: tuple[str, ...] = _option((), "Only this class (repeatable)", "CLASS", DETECTIONS, ("--class",))
    recursive: bool = _option(False, "Descend into subdirectories", group=REQUESTS)
    fetch: Literal["server", "client"] = _option(
        "server", "Who downloads image URLs: the server or this client", group=REQUESTS
    )
    url: str | None = _option(
        None, "Service to ask", "ENDPOINT", REQUESTS, default="the endpoint of the local instance"
    )
    api_key_file: Path | None = _option(
        None, "File with the API key to send", "FILE", REQUESTS, default="the local instance's own", guards=True
    )
    concurrency: int = _option(CONCURRENCY, "Maximum number of requests in flight", "N", REQUESTS, low=1, high=1024)
    retries: int = _option(RETRIES, "Maximum number of retries per image", "N", REQUESTS, high=100)
    timeout: float = _option(
        TIMEOUT_S, "Seconds per image, retries included", "SECONDS", REQUESTS, low=0.1, high=_DAY_S
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectSettings(RequestSettings):
    """The settings of `detect`."""

    command: ClassVar[str] = "detect"
    format: Literal["table", "json", "jsonl", "csv", "coco"] | None = _option(
        None, "Output format", group=OUTPUT, default="table on a terminal, else jsonl"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnotateSettings(RequestSettings):
    """The settings of `annotate`."""

    command: ClassVar[str] = "annotate"
    labels: bool = _option(True, "Label each box with class and confidence", group=OUTPUT)
    line_width: int | None = _option(None, "Width of a box's line", "PIXELS", OUTPUT, parse=_line_width, default="auto")
    quality: int = _option(QUALITY, "JPEG and WebP quality, 1 to 100", "N", OUTPUT, low=1, high=100)


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusSettings(InstanceSettings):
    """The settings of `status`."""

    command: ClassVar[str] = "status"


@dataclass(frozen=True, slots=True, kw_only=True)
class LogsSettings(InstanceSettings):
    """The settings of `logs`."""

    command: ClassVar[str] = "logs"
    level: Literal["debug", "info", "warning", "error"] = _option(
        "info", "Minimum level of the lines shown", group=SERVICE
    )
    tail: int = _option(100, "Number of lines shown, counted from the end", "N", SERVICE)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelsSettings(Settings):
    """The settings of `models`."""

    command: ClassVar[str] = "models"
    model_timeout: float = _model_timeout()


@dataclass(frozen=True, slots=True, kw_only=True)
class DownSettings(InstanceSettings):
    """The settings of `down`."""

    command: ClassVar[str] = "down"
    timeout: float = _option(30.0, "Seconds that accepted requests may take", "SECONDS", SERVICE, high=_DAY_S)


_OF_INSTANCES = (UpSettings, DetectSettings, AnnotateSettings, StatusSettings, LogsSettings)
KINDS: tuple[type[Settings], ...] = (GlobalSettings, *_OF_INSTANCES, ModelsSettings, DownSettings)
COMMANDS = {kind.command: kind for kind in KINDS if kind.command}


@dataclass(frozen=True, slots=True)
class Setting:
    """One field of a command's settings.

    Attributes:
        command: whose it is; empty for the global ones.
        name: of the field.
        kind: its type, None aside.
        default: its value if nothing else sets it.
        option: how people meet it.
    """

    command: str
    name: str
    kind: Any
    default: Any
    option: Option

    @property
    def key(self) -> str:
        """Its name in the file and on the command line: `max_image_bytes` is `max-image-bytes`."""
        return self.name.rstrip("_").replace("_", "-")

    @property
    def variable(self) -> str:
        """The environment variable."""
        return variable_of(self.key, self.command if self.key in ambiguous_keys() else "")

    @property
    def choices(self) -> tuple[str, ...]:
        """All values, where they are few."""
        return get_args(self.kind) if get_origin(self.kind) is Literal else ()

    def parse(self, value: object) -> Any:
        """The value from what a person wrote; ValueError says what it must be."""
        option = self.option
        if option.parse is not None:
            return option.parse(value)
        if self.choices:
            if value not in self.choices:
                raise ValueError(f"must be one of {', '.join(self.choices)}")
            return value
        if get_origin(self.kind) is tuple:
            return _strings(value)
        if self.kind in {int, float}:
            return (_integer if self.kind is int else _number)(value, option.low, option.high)
        return _flag(value) if self.kind is bool else self.kind(_string(value))

    def words(self, value: Any) -> str:
        """The value as people would write it; a password in a URL is left out."""
        if value is None or value == ():
            return ""
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, float):
            return f"{value:g}"
        text = ", ".join(value) if isinstance(value, tuple) else self.option.words(value)
        return re.sub(r"//[^/@]*@", "//…@", text)


def settings_of(kind: type[Settings]) -> tuple[Setting, ...]:
    """What `kind` declares, in its order."""
    return tuple(
        Setting(kind.command, each.name, _without_none(each.type), each.default, each.metadata["option"])
        for each in fields(kind)
    )


def _without_none(annotation: Any) -> Any:
    union = get_origin(annotation) in {Union, types.UnionType}
    return get_args(annotation)[0] if union else annotation


def all_settings() -> Iterator[Setting]:
    """Those of every command, and the global ones."""
    for kind in KINDS:
        yield from settings_of(kind)


@cache
def ambiguous_keys() -> frozenset[str]:
    """Keys that commands mean differently."""
    seen: dict[str, set[Option]] = {}
    for setting in all_settings():
        seen.setdefault(setting.key, set()).add(setting.option)
    return frozenset(key for key, options in seen.items() if len(options) > 1)


def variable_of(key: str, command: str = "") -> str:
    """The environment variable of this key: of one command, or of all that have it."""
    return PREFIX + "_".join(filter(None, (command, key.replace("-", "_")))).upper()
