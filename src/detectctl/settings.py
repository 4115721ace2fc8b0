"""Settings: each option of each command, declared once. `precedence` finds their values."""

# Without `from __future__ import annotations`: the types of fields are read.

import re
import types
from collections.abc import Callable, Iterator
from dataclasses import Field, dataclass, field, fields
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, get_args, get_origin

from detectctl.addresses import masked
from detectctl.defaults import (
    CONCURRENCY,
    LABELS,
    MAX_DET,
    MAX_LINE_WIDTH,
    MAX_QUALITY,
    MOST_DET,
    QUALITY,
    RETRIES,
    TIMEOUT_S,
)
from detectctl.engine import detector_settings as detection
from detectctl.thresholds import Thresholds

PREFIX = "DETECTCTL_"
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


def _match(value: object, pattern: str, wanted: str) -> re.Match[str]:
    match = re.fullmatch(pattern, str(value).strip())
    if match is None:
        raise ValueError(wanted)
    return match


def _flag(value: object) -> bool:
    return _match(str(value).lower(), "(1|true|yes|on)|0|false|no|off", "must be true or false")[1] is not None


def _number(value: object, kind: type[N], low: float, high: float) -> N:
    try:
        number = kind(str(value))  # not of the value itself: a truth value is not a number, nor 1.5 an integer
    except ValueError:
        raise ValueError("must be an integer" if kind is int else "must be a number") from None
    if not low <= number <= high:  # also NaN
        raise ValueError(f"must be from {low:g} to {high:g}" if high < 10**9 else f"must be at least {low:g}")
    return number


def _strings(value: object) -> tuple[str, ...]:
    return tuple(item.strip() for item in _listed(value) if item.strip())


def _listed(value: object) -> tuple[str, ...]:
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, (list, tuple)) or not all(isinstance(item, str) for item in items):
        raise ValueError("must be a list of strings")
    return tuple(items)


def _path(text: str) -> Path:
    try:
        return Path(text).expanduser()  # no shell has done so in a file, in a variable or after `--option=`
    except RuntimeError as error:
        raise ValueError("must not begin with ~, because that folder is not known") from error


def _name(value: object) -> str:
    wanted = "must be 1 to 40 lower-case letters, digits and inner hyphens"
    return _match(value, "[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?", wanted)[0]


def _object(value: object) -> str:
    wanted = "must be a name of Kubernetes: lower-case letters, digits, dots and inner hyphens"
    return _match(value, r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?", wanted)[0]


def _class_names(value: object) -> tuple[str, ...]:
    """As the model has them: one may be empty, or begin with a space. Only a variable lists them by commas."""
    return _strings(value) if isinstance(value, str) else _listed(value)


def _origins(value: object) -> tuple[str, ...]:
    # Browsers compare the whole text: an origin in another spelling would silently permit nobody.
    wanted = "must be an origin such as https://app.example.org, in lower case and without a path"
    pattern = r"\*|https?://([a-z0-9.-]+|\[[0-9a-f:]+\])(:\d{1,5})?"
    return tuple(_match(origin, pattern, wanted)[0] for origin in _strings(value))


def _dashboard(value: object) -> str:
    pattern = r"https?://([A-Za-z0-9_.-]+|\[[0-9a-fA-F:.]+\])(:\d{1,5})?(/[!-~]*)?"
    return _match(value, pattern, "must be the URL of a Ray dashboard, such as http://head:8265")[0].rstrip("/")


def _route_prefix(value: object) -> str:
    return _match(value, r"/|(/[A-Za-z0-9_.~-]+)+", "must be / or a path such as /yolo, without a slash at its end")[0]


def _image_size(value: object) -> int:
    size = _number(value, int, 32, 4096)
    if size % 32:
        raise ValueError("must be a multiple of 32, the model's stride")
    return size


def parse_bytes(value: object) -> int:
    """`20MiB`, `500kB` or a plain number, as bytes; ValueError otherwise."""
    return _with_unit(value, _BYTE_UNITS, "must be a size such as 20MiB")


def parse_pixels(value: object) -> int:
    """`64M`, `1.5G` or a plain number, as a number of pixels; ValueError otherwise."""
    count = _with_unit(value, _COUNT_UNITS, "must be a number such as 64M")
    if not 1 <= count <= detection.MOST_PIXELS:
        raise ValueError(f"must be from 1 to {_millions(detection.MOST_PIXELS)}")
    return count


def _with_unit(value: object, units: dict[str, int], wanted: str) -> int:
    match = _match(str(value).lower(), rf"(\d+(?:\.\d+)?)\s*({'|'.join(units)})", wanted)
    return int(float(match[1]) * units[match[2]])


def parse_replicas(value: object) -> Replicas | None:
    """`2`, or `1..3`, or None for `auto`; ValueError otherwise."""
    if value == "auto":
        return None
    wanted = "must be auto, a number such as 2, or a range such as 1..3"
    match = _match(value, r"(\d{1,3})(?:\.\.(\d{1,3}))?", wanted)
    minimum, maximum = int(match[1]), int(match[2] or match[1])
    if minimum > maximum or maximum == 0:
        raise ValueError("must allow at least one replica, and a range must not shrink, as in 0..2")
    return Replicas(minimum, maximum)


def _mebibytes(size: int) -> str:
    return str(size) if size % 2**20 else f"{size >> 20}MiB"


def _millions(count: int) -> str:
    return str(count) if count % 10**6 else f"{count // 10**6}M"


def _thresholds(value: object) -> Thresholds:
    return Thresholds.parse(str(value))


_CONF = "Minimum confidence, 0 to 1; 0.4,dog=0.2 sets another for one class"


def _line_width(value: object) -> int | None:
    return None if value == "auto" else _number(value, int, 1, MAX_LINE_WIDTH)


@dataclass(frozen=True, slots=True)
class Option:
    """How people meet a setting; its type and its default are those of its field.

    An option declared once means one thing, whichever commands have it, and its variable is DETECTCTL_OPTION. Where
    commands declare options of the same name, each has a variable of its own: DETECTCTL_COMMAND_OPTION.

    Attributes:
        group: its heading in the help; without one, only the environment and the file have it.
        names: as typed, where it is not just the field's name with dashes.
        parse: makes the value from text or TOML, raising ValueError; for types that cannot say it themselves.
        default: the default in words, where the value does not say it.
        words: writes a value as people would.
        switch: a variable of other programs that turns it on by not being empty.
        guards: whether to overlook it could open the service to others.
    """

    group: str
    help: str
    metavar: str | None = None
    names: tuple[str, ...] = ()
    low: float = 0
    high: float = 10**9
    parse: Callable[[object], Any] | None = None
    default: str = ""
    words: Callable[[Any], str] = str
    switch: str = ""
    guards: bool = False


def option(default: Any, /, *words: Any, **rules: Any) -> Any:
    """A field with this default, and `Option` of the rest."""
    return field(default=default, metadata={"option": Option(*words, **rules)})


def _model_timeout() -> Any:
    return option(60.0, MODEL, "Seconds to wait for W&B, or for the download of a model", "SECONDS", low=1, high=_DAY_S)


_DAY_S = 86400
GROUPS = (
    "Arguments",
    OPTIONS := "Options",
    MODEL := "Model",
    DETECTIONS := "Detections",
    REQUESTS := "Requests",
    SERVICE := "Service",
    CLUSTER := "Cluster",
    IMAGES := "Images and URLs",
    ACCESS := "Access",
    FOLLOWING := "Following",
    KUBERNETES := "Kubernetes",
    OUTPUT := "Output",
    GLOBAL := "Global options",
)
"""The headings of the help, in their order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of a command, and the name of its table in the file.

    `leaves_out` names fields that it inherits and does not take.
    """

    command: ClassVar[str] = ""
    leaves_out: ClassVar[frozenset[str]] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class GlobalSettings(Settings):
    """What every command takes; at the top of the file."""

    verbose: bool = option(False, GLOBAL, "Show the traceback of an error", names=("--verbose", "-v"))
    quiet: bool = option(False, GLOBAL, "Show warnings and errors, but no progress", names=("--quiet",))
    no_color: bool = option(False, GLOBAL, "Never colour the output", names=("--no-color",), switch="NO_COLOR")


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceSettings(Settings):
    """What every command about one instance needs."""

    name: str = option("default", SERVICE, "Name of the instance", "NAME", names=("--name", "-n"), parse=_name)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedSettings(InstanceSettings):
    """What every command about one instance needs that may run on a cluster."""

    address: str | None = option(
        None,
        CLUSTER,
        "Dashboard of an existing Ray cluster, to use that instead of this machine",
        "URL",
        parse=_dashboard,
    )
    ray_token_file: Path | None = option(
        None, CLUSTER, "File with the cluster's token", "FILE", default="where Ray looks for it", guards=True
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class UpSettings(PlacedSettings):
    command: ClassVar[str] = "up"
    model: str = option(
        "base",
        MODEL,
        "Model to serve: base, another of Ultralytics' own such as yolo26n-seg, a .pt file, "
        "an OpenVINO or ONNX export, or a W&B artifact entity/project/name:alias",
        "REF",
        names=("--model", "-m"),
    )
    fallback: bool = option(
        True, MODEL, "If W&B does not deliver the model in time, serve stock YOLOv8n instead, and exit with 8"
    )
    model_timeout: float = _model_timeout()
    trust_checkpoint: bool = option(
        False, MODEL, "Load the checkpoint even if it runs code of its own; only if you trust its author"
    )
    assets_url: str | None = option(None, "", "Where to download base models from")
    device: Literal["auto", "cpu", "cuda"] = option("auto", MODEL, "Device to run on")
    precision: Literal["auto", "fp32", "bf16", "fp16", "int8"] = option("auto", MODEL, "Numeric precision")
    calibrate: Path | None = option(None, MODEL, "For int8: folder of images like those the service will see", "DIR")
    max_int8_loss: float = option(0.2, MODEL, "For int8: share of boxes that may differ from fp32", "SHARE", high=1)
    imgsz: int | None = option(
        None,
        MODEL,
        "Longer side of the image that the network sees, in pixels; the default is the size it was trained at",
        "PIXELS",
        parse=_image_size,
    )
    conf: Thresholds = option(Thresholds(detection.CONFIDENCE), MODEL, _CONF, "CONF", parse=_thresholds)
    iou: float = option(detection.IOU, MODEL, "NMS: maximum overlap of two boxes, 0 to 1", "IOU", high=1)
    agnostic_nms: bool = option(False, MODEL, "NMS: also between boxes of different classes")
    max_det: int = option(MAX_DET, MODEL, "Maximum number of detections in an image", "N", low=1, high=MOST_DET)
    host: str = option("127.0.0.1", SERVICE, "Address to listen on", "HOST")
    port: int = option(8000, SERVICE, "Port to listen on", "PORT", low=1, high=65535)
    replicas: Replicas | None = option(
        None,
        SERVICE,
        "Number of replicas; a range scales with the load, and auto chooses one that fits the machine",
        "auto|N|MIN..MAX",
        parse=parse_replicas,
        default="auto",
    )
    timeout: float = option(180.0, SERVICE, "Seconds until the service must answer", "SECONDS", low=1, high=_DAY_S)
    docs: bool = option(True, SERVICE, "Serve the pages /docs and /openapi.json")
    page: bool = option(True, SERVICE, "Serve a page at / to try the service on")
    metrics_public: bool = option(False, SERVICE, "Answer /metrics without a key")
    route_prefix: str = option(
        "/", CLUSTER, "Path on the cluster's ingress below which the service answers", "PATH", parse=_route_prefix
    )
    cpus: int | None = option(
        None, CLUSTER, "CPUs that a replica reserves and uses", "N", low=1, high=1024, default="1"
    )
    gpus: float = option(0.0, CLUSTER, "GPUs that a replica reserves; with any, it runs on the GPU", "N", high=64)
    spread: bool = option(
        False, CLUSTER, "Keep replicas evenly on the nodes; an update then replaces one at a time, in place"
    )
    url_input: bool = option(True, IMAGES, "Accept image URLs, which the service then downloads")
    allow_url: tuple[str, ...] = option(
        (), IMAGES, "Also allow image URLs on this private host or network (repeatable)", "HOST|CIDR"
    )
    max_image_bytes: int = option(
        detection.MAX_IMAGE_BYTES, IMAGES, "Maximum size of an image", "SIZE", parse=parse_bytes, words=_mebibytes
    )
    max_image_pixels: int = option(
        detection.MAX_IMAGE_PIXELS,
        IMAGES,
        f"Maximum number of pixels of an image; each may take {detection.BYTES_PER_PIXEL} bytes of memory",
        "COUNT",
        parse=parse_pixels,
        words=_millions,
    )
    api_key_file: Path | None = option(None, ACCESS, "Require one of the API keys in FILE", "FILE", guards=True)
    generate_api_key: bool = option(False, ACCESS, "Make an API key, show it once, and require it")
    no_auth: bool = option(False, ACCESS, "Disable authentication, even on a public address", names=("--no-auth",))
    cors_origin: tuple[str, ...] = option(
        (), ACCESS, "Allowed CORS origin, or * for any (repeatable)", "ORIGIN", parse=_origins
    )
    follow: bool = option(False, FOLLOWING, "Stay, and update the service whenever the model's alias moves")
    interval: float = option(60.0, FOLLOWING, "With --follow: seconds between checks", "SECONDS", low=1, high=_DAY_S)
    down_on_exit: bool = option(False, FOLLOWING, "With --follow: stop the service on exit")


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestSettings(InstanceSettings):
    """How `detect` and `annotate` send images."""

    conf: Thresholds | None = option(None, DETECTIONS, _CONF, "CONF", parse=_thresholds, default="the service's")
    iou: float | None = option(None, DETECTIONS, "NMS: maximum overlap, 0 to 1", "IOU", high=1, default="the service's")
    agnostic_nms: bool | None = option(
        None, DETECTIONS, "NMS: also between boxes of different classes", default="the service's"
    )
    max_det: int | None = option(
        None, DETECTIONS, "Maximum number of detections in an image", "N", low=1, high=MOST_DET, default="the service's"
    )
    class_: tuple[str, ...] = option((), DETECTIONS, "Only this class (repeatable)", "CLASS", parse=_class_names)
    recursive: bool = option(False, REQUESTS, "Descend into subdirectories")
    fetch: Literal["server", "client"] = option(
        "server", REQUESTS, "Who downloads image URLs: the server or this client"
    )
    url: tuple[str, ...] = option(
        (),
        REQUESTS,
        "Service to ask (repeatable, for other nodes that serve the same)",
        "ENDPOINT",
        default="the endpoint of the local instance",
    )
    api_key_file: Path | None = option(
        None, REQUESTS, "File with the API key to send", "FILE", default="the local instance's own", guards=True
    )
    concurrency: int = option(CONCURRENCY, REQUESTS, "Maximum number of requests in flight", "N", low=1, high=1024)
    retries: int = option(RETRIES, REQUESTS, "Maximum number of retries per image", "N", high=100)
    timeout: float = option(TIMEOUT_S, REQUESTS, "Seconds per image, retries included", "SECONDS", low=0.1, high=_DAY_S)


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectSettings(RequestSettings):
    command: ClassVar[str] = "detect"
    format: Literal["table", "json", "jsonl", "csv", "coco"] | None = option(
        None, OUTPUT, "Output format", default="table on a terminal, else jsonl"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnotateSettings(RequestSettings):
    command: ClassVar[str] = "annotate"
    labels: bool = option(LABELS, OUTPUT, "Label each box with class and confidence")
    line_width: int | None = option(None, OUTPUT, "Width of a box's line", "PIXELS", parse=_line_width, default="auto")
    quality: int = option(QUALITY, OUTPUT, f"JPEG and WebP quality, 1 to {MAX_QUALITY}", "N", low=1, high=MAX_QUALITY)


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusSettings(PlacedSettings):
    command: ClassVar[str] = "status"


@dataclass(frozen=True, slots=True, kw_only=True)
class LogsSettings(PlacedSettings):
    command: ClassVar[str] = "logs"
    level: Literal["debug", "info", "warning", "error"] = option("info", SERVICE, "Minimum level of the lines shown")
    tail: int = option(100, SERVICE, "Number of lines shown, counted from the end", "N")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelsSettings(Settings):
    command: ClassVar[str] = "models"
    model_timeout: float = _model_timeout()


@dataclass(frozen=True, slots=True, kw_only=True)
class DownSettings(PlacedSettings):
    command: ClassVar[str] = "down"
    timeout: float = option(30.0, SERVICE, "Seconds that accepted requests may take", "SECONDS", high=_DAY_S)


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorSettings(PlacedSettings):
    command: ClassVar[str] = "doctor"


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestSettings(UpSettings):
    command: ClassVar[str] = "manifest"
    leaves_out: ClassVar[frozenset[str]] = frozenset(
        (
            *("address", "ray_token_file", "host", "port", "api_key_file", "generate_api_key"),
            *("fallback", "calibrate", "max_int8_loss", "follow", "interval", "down_on_exit"),
        )
    )
    timeout: float = option(
        180.0, MODEL, "Seconds to fetch and convert the model, here and in each pod", "SECONDS", low=1, high=_DAY_S
    )
    spread: bool = option(False, KUBERNETES, "Have a pod wait rather than share its node with another replica")
    image: str | None = option(None, KUBERNETES, "Image of detectctl, which your cluster can pull", "IMAGE")
    memory: int | None = option(
        None,
        KUBERNETES,
        "Memory of a replica's pod",
        "SIZE",
        parse=parse_bytes,
        words=_mebibytes,
        default="4GiB, more with --max-image-pixels",
    )
    api_key_secret: str | None = option(
        None, KUBERNETES, "Secret whose `keys` are the API keys, one per line", "NAME", parse=_object
    )
    wandb_secret: str | None = option(None, KUBERNETES, "Secret whose `wandb_api_key` is W&B's", "NAME", parse=_object)
    ray_token_secret: str | None = option(
        None, KUBERNETES, "Secret whose `auth_token` is Ray's", "NAME", parse=_object, default="one that KubeRay makes"
    )
    redis: str | None = option(
        None, KUBERNETES, "Redis that keeps what the head knows, so that a lost head costs nothing", "HOST:PORT"
    )
    redis_secret: str | None = option(
        None, KUBERNETES, "Secret whose `password` is that of Redis", "NAME", parse=_object
    )


_COMMANDS = (
    UpSettings,
    DetectSettings,
    AnnotateSettings,
    StatusSettings,
    LogsSettings,
    ModelsSettings,
    DoctorSettings,
    ManifestSettings,
    DownSettings,
)
COMMANDS: dict[str, type[Settings]] = {kind.command: kind for kind in _COMMANDS}
KINDS: tuple[type[Settings], ...] = (GlobalSettings, *_COMMANDS)


@dataclass(frozen=True, slots=True)
class Setting:
    """One field of a command's settings; `command` is empty for the global ones, `kind` its type, None aside."""

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
        if self.option.parse is not None:
            return self.option.parse(value)
        if self.choices:
            return _match(value, "|".join(self.choices), f"must be one of {', '.join(self.choices)}")[0]
        if self.kind in {int, float}:
            return _number(value, self.kind, self.option.low, self.option.high)
        if self.kind is bool or get_origin(self.kind) is tuple:
            return _flag(value) if self.kind is bool else _strings(value)
        if not isinstance(value, str):
            raise ValueError("must be a string")  # noqa: TRY004 - the caller adds where the value came from
        return _path(value) if self.kind is Path else value

    def words(self, value: Any) -> str:
        """The value as people would write it; a password in a URL is left out."""
        if value is None or value == ():
            return ""
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, float):
            return f"{value:g}"
        return ", ".join(map(masked, value)) if isinstance(value, tuple) else masked(self.option.words(value))


def settings_of(kind: type[Settings]) -> Iterator[Setting]:
    """What `kind` declares, in its order."""
    for each in fields(kind):
        if each.name in kind.leaves_out:
            continue
        either = get_args(each.type)
        bare = either[0] if types.NoneType in either else each.type
        yield Setting(_command_of(each, kind), each.name, bare, each.default, each.metadata["option"])


def _command_of(each: Field[Any], kind: type[Settings]) -> str:
    """The command whose table and variables a setting has: the first of those that have inherited it."""
    bases = (base for base in reversed(kind.__mro__) if issubclass(base, Settings))
    return next((base.command for base in bases if base.command and each in fields(base)), kind.command)


def all_settings() -> Iterator[Setting]:
    """Those of every command, and the global ones."""
    return chain.from_iterable(map(settings_of, KINDS))


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
