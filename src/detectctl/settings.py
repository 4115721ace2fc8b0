"""Settings: each option of each command, declared once. `precedence` finds their values."""

# Without `from __future__ import annotations`: the types of fields are read.

import types
from collections.abc import Callable, Iterator
from dataclasses import Field, dataclass, field, fields
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args, get_origin

from detectctl import values
from detectctl.addresses import masked
from detectctl.defaults import (
    CONCURRENCY,
    LABELS,
    MAX_DET,
    MAX_QUALITY,
    MOST_DET,
    QUALITY,
    RETRIES,
    TIMEOUT_S,
)
from detectctl.engine import detector_settings as detection
from detectctl.thresholds import Thresholds
from detectctl.values import Replicas

PREFIX = "DETECTCTL_"
_CONF = "Minimum confidence, 0 to 1; 0.4,dog=0.2 sets another for one class"


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
    return option(60.0, MODEL, "Seconds to wait for W&B or for a model to download", "SECONDS", low=1, high=_DAY_S)


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

    name: str = option(
        "default", SERVICE, "Name of the instance", "NAME", names=("--name", "-n"), parse=values.instance_name
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedSettings(InstanceSettings):
    """What every command about one instance needs that may run on a cluster."""

    address: str | None = option(
        None,
        CLUSTER,
        "Dashboard of an existing Ray cluster to use instead of this machine",
        "URL",
        parse=values.dashboard,
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
        True, MODEL, "If W&B does not deliver the model in time, serve stock YOLOv8n instead and exit with code 8"
    )
    model_timeout: float = _model_timeout()
    trust_checkpoint: bool = option(
        False, MODEL, "Load the checkpoint even if it runs code of its own; only if you trust its author"
    )
    assets_url: str | None = option(None, "", "Where to download base models from")
    device: Literal["auto", "cpu", "cuda"] = option("auto", MODEL, "Device to run on")
    precision: Literal["auto", "fp32", "bf16", "fp16", "int8"] = option("auto", MODEL, "Numeric precision")
    calibrate: Path | None = option(None, MODEL, "For int8: folder of images like those the service will see", "DIR")
    max_int8_loss: float = option(
        0.2, MODEL, "For int8: maximum share of boxes that may differ from fp32", "SHARE", high=1
    )
    imgsz: int | None = option(
        None,
        MODEL,
        "Longer side of the image that the network sees, in pixels; the default is the size it was trained at",
        "PIXELS",
        parse=values.image_size,
    )
    conf: Thresholds = option(Thresholds(detection.CONFIDENCE), MODEL, _CONF, "CONF", parse=values.thresholds)
    iou: float = option(detection.IOU, MODEL, "NMS: maximum overlap of two boxes, 0 to 1", "IOU", high=1)
    agnostic_nms: bool = option(False, MODEL, "Apply NMS across classes, not only within each")
    max_det: int = option(MAX_DET, MODEL, "Maximum number of detections in an image", "N", low=1, high=MOST_DET)
    host: str = option("127.0.0.1", SERVICE, "Address to listen on", "HOST")
    port: int = option(8000, SERVICE, "Port to listen on", "PORT", low=1, high=65535)
    replicas: Replicas | None = option(
        None,
        SERVICE,
        "Number of replicas; a range scales with the load, and auto chooses one that fits the machine",
        "auto|N|MIN..MAX",
        parse=values.replicas,
        default="auto",
    )
    timeout: float = option(180.0, SERVICE, "Seconds to wait until the service answers", "SECONDS", low=1, high=_DAY_S)
    docs: bool = option(True, SERVICE, "Serve the pages /docs and /openapi.json")
    page: bool = option(True, SERVICE, "Serve a page at / for trying the service out")
    metrics_public: bool = option(False, SERVICE, "Answer /metrics without a key")
    route_prefix: str = option(
        "/", CLUSTER, "Path on the cluster's ingress below which the service answers", "PATH", parse=values.route_prefix
    )
    cpus: int | None = option(
        None, CLUSTER, "CPUs that each replica reserves and uses", "N", low=1, high=1024, default="1"
    )
    gpus: float = option(0.0, CLUSTER, "GPUs that each replica reserves; with any, it runs on the GPU", "N", high=64)
    spread: bool = option(False, CLUSTER, "Spread replicas evenly over the nodes: none has more than its share")
    node_python: str | None = option(
        None, CLUSTER, "Python on each node that replicas run on", "PATH", parse=values.node_python, default="Ray's own"
    )
    runtime_env: Path | None = option(
        None, CLUSTER, "File with a runtime environment of Ray's that replicas get too, in YAML or JSON", "FILE"
    )
    url_input: bool = option(True, IMAGES, "Accept image URLs, which the service then downloads")
    allow_url: tuple[str, ...] = option(
        (), IMAGES, "Also allow image URLs on this private host or network (repeatable)", "HOST|CIDR"
    )
    max_image_bytes: int = option(
        detection.MAX_IMAGE_BYTES,
        IMAGES,
        "Maximum size of an image",
        "SIZE",
        parse=values.byte_size,
        words=values.in_mebibytes,
    )
    max_image_pixels: int = option(
        detection.MAX_IMAGE_PIXELS,
        IMAGES,
        f"Maximum number of pixels of an image; each may take {detection.BYTES_PER_PIXEL} bytes of memory",
        "COUNT",
        parse=values.pixel_count,
        words=values.in_millions,
    )
    api_key_file: Path | None = option(None, ACCESS, "Require one of the API keys in FILE", "FILE", guards=True)
    generate_api_key: bool = option(False, ACCESS, "Generate an API key, show it once, and require it")
    no_auth: bool = option(False, ACCESS, "Disable authentication, even on a public address", names=("--no-auth",))
    cors_origin: tuple[str, ...] = option(
        (), ACCESS, "Allowed CORS origin, or * for any (repeatable)", "ORIGIN", parse=values.origins
    )
    follow: bool = option(False, FOLLOWING, "Keep running, and update the service whenever the model's alias moves")
    interval: float = option(60.0, FOLLOWING, "With --follow: seconds between checks", "SECONDS", low=1, high=_DAY_S)
    down_on_exit: bool = option(False, FOLLOWING, "With --follow: stop the service on exit")


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestSettings(InstanceSettings):
    """How `detect` and `annotate` send images."""

    conf: Thresholds | None = option(None, DETECTIONS, _CONF, "CONF", parse=values.thresholds, default="the service's")
    iou: float | None = option(
        None, DETECTIONS, "NMS: maximum overlap of two boxes, 0 to 1", "IOU", high=1, default="the service's"
    )
    agnostic_nms: bool | None = option(
        None, DETECTIONS, "Apply NMS across classes, not only within each", default="the service's"
    )
    max_det: int | None = option(
        None, DETECTIONS, "Maximum number of detections in an image", "N", low=1, high=MOST_DET, default="the service's"
    )
    class_: tuple[str, ...] = option((), DETECTIONS, "Only this class (repeatable)", "CLASS", parse=values.class_names)
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
    line_width: int | None = option(
        None, OUTPUT, "Line width of a box", "PIXELS", parse=values.line_width, default="auto"
    )
    quality: int = option(QUALITY, OUTPUT, f"JPEG and WebP quality, 1 to {MAX_QUALITY}", "N", low=1, high=MAX_QUALITY)


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusSettings(PlacedSettings):
    command: ClassVar[str] = "status"


@dataclass(frozen=True, slots=True, kw_only=True)
class LogsSettings(PlacedSettings):
    command: ClassVar[str] = "logs"
    level: Literal["debug", "info", "warning", "error"] = option("info", SERVICE, "Minimum level of the lines shown")
    tail: int = option(100, SERVICE, "Number of lines to show from the end of the log", "N")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelsSettings(PlacedSettings):
    command: ClassVar[str] = "models"
    model_timeout: float = _model_timeout()


@dataclass(frozen=True, slots=True, kw_only=True)
class DownSettings(PlacedSettings):
    command: ClassVar[str] = "down"
    timeout: float = option(30.0, SERVICE, "Seconds to wait for accepted requests", "SECONDS", high=_DAY_S)


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorSettings(PlacedSettings):
    command: ClassVar[str] = "doctor"


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestSettings(UpSettings):
    command: ClassVar[str] = "manifest"
    leaves_out: ClassVar[frozenset[str]] = frozenset(
        (
            *("address", "ray_token_file", "host", "port", "api_key_file", "generate_api_key"),
            *("node_python", "runtime_env"),
            *("fallback", "calibrate", "max_int8_loss", "follow", "interval", "down_on_exit"),
        )
    )
    timeout: float = option(
        180.0, MODEL, "Seconds to fetch and convert the model, here and in each pod", "SECONDS", low=1, high=_DAY_S
    )
    spread: bool = option(False, KUBERNETES, "Let a pod wait rather than share a node with another replica")
    image: str | None = option(None, KUBERNETES, "Container image of detectctl that your cluster can pull", "IMAGE")
    memory: int | None = option(
        None,
        KUBERNETES,
        "Memory of a replica's pod",
        "SIZE",
        parse=values.byte_size,
        words=values.in_mebibytes,
        default="4GiB, more with --max-image-pixels",
    )
    api_key_secret: str | None = option(
        None, KUBERNETES, "Secret whose `keys` holds the API keys, one per line", "NAME", parse=values.kubernetes_name
    )
    wandb_secret: str | None = option(
        None, KUBERNETES, "Secret whose `wandb_api_key` holds W&B's API key", "NAME", parse=values.kubernetes_name
    )
    ray_token_secret: str | None = option(
        None,
        KUBERNETES,
        "Secret whose `auth_token` holds Ray's token",
        "NAME",
        parse=values.kubernetes_name,
        default="one that KubeRay makes",
    )
    redis: str | None = option(
        None, KUBERNETES, "Redis that keeps the head's state, so that losing the head costs nothing", "HOST:PORT"
    )
    redis_secret: str | None = option(
        None, KUBERNETES, "Secret whose `password` holds the password of Redis", "NAME", parse=values.kubernetes_name
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
            return values.matched(value, "|".join(self.choices), f"must be one of {', '.join(self.choices)}")[0]
        if self.kind in {int, float}:
            return values.number(value, self.kind, self.option.low, self.option.high)
        if self.kind is bool or get_origin(self.kind) is tuple:
            return values.flag(value) if self.kind is bool else values.strings(value)
        if not isinstance(value, str):
            raise ValueError("must be a string")  # noqa: TRY004 - the caller adds where the value came from
        return values.path(value) if self.kind is Path else value

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
