"""Settings: each option of each command, declared once, and its value: flag > environment > file > default."""

# Without `from __future__ import annotations`: the command line is made from the annotations below.

import difflib
import re
import tomllib
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar, Union, get_args, get_origin

from detectctl.client import CONCURRENCY, RETRIES, TIMEOUT_S
from detectctl.engine import detector_settings as detection
from detectctl.errors import UsageError
from detectctl.files import reason
from detectctl.paths import Paths
from detectctl.wire import QUALITY

PREFIX = "DETECTCTL_"
FILE_NAME = "detectctl.toml"
_BYTE_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
# What Kubernetes puts into every pod for a Service named detectctl, or detectctl-something.
_SERVICE_VARIABLE = re.compile(r".*(_SERVICE_HOST|_SERVICE_PORT(_[A-Z0-9_]+)?|_PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)")
_SERVICE_ADDRESS = re.compile(r"(tcp|udp|sctp)://")


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
        raise ValueError("must be a range that does not shrink and allows at least one replica")
    return Replicas(minimum, maximum)


def _mebibytes(size: int) -> str:
    return str(size) if size % 2**20 else f"{size >> 20}MiB"


def _line_width(value: object) -> int | None:
    return None if value == "auto" else _integer(value, 1, 1000)


@dataclass(frozen=True, slots=True)
class Option:
    """How people meet a setting; its type and its default are those of the field that this annotates.

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
        on_command_line: whether it is an option at all; else the environment and the file have it.
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

_MODEL_TIMEOUT_S = 60.0
_ModelTimeout = Annotated[
    float, Option("Seconds to wait for W&B, or for the download of a model", "SECONDS", MODEL, low=1, high=86400)
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of a command, and the name of its table in the file."""

    command: ClassVar[str] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GlobalSettings(Settings):
    """What every command takes; at the top of the file."""

    verbose: Annotated[bool, Option("Show the traceback of an error", group=GLOBAL, names=("--verbose", "-v"))] = False
    quiet: Annotated[bool, Option("Show warnings and errors, but no progress", group=GLOBAL, names=("--quiet",))] = (
        False
    )
    no_color: Annotated[
        bool, Option("Never colour the output", group=GLOBAL, names=("--no-color",), switch="NO_COLOR")
    ] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceSettings(Settings):
    """What every command about one instance needs."""

    name: Annotated[str, Option("Name of the instance", "NAME", SERVICE, ("--name", "-n"), parse=_name)] = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class UpSettings(InstanceSettings):
    """The settings of `up`."""

    command: ClassVar[str] = "up"
    model: Annotated[
        str,
        Option(
            "Model to serve: base, yolov8{n,s,m,l,x}, a .pt file, or a W&B artifact entity/project/name:alias",
            "REF",
            MODEL,
            ("--model", "-m"),
        ),
    ] = "base"
    fallback: Annotated[
        bool, Option("If the model is unavailable, serve stock YOLOv8n instead and say so", group=MODEL)
    ] = True
    model_timeout: _ModelTimeout = _MODEL_TIMEOUT_S
    trust_checkpoint: Annotated[
        bool, Option("Load the checkpoint even if it runs code of its own; only if you trust its author", group=MODEL)
    ] = False
    assets_url: Annotated[str | None, Option("Where to download base models from", on_command_line=False)] = None
    device: Annotated[Literal["auto", "cpu", "cuda"], Option("Device to run on", group=MODEL)] = "auto"
    precision: Annotated[Literal["auto", "fp32", "bf16", "fp16", "int8"], Option("Numeric precision", group=MODEL)] = (
        "auto"
    )
    calibrate: Annotated[
        Path | None, Option("For int8: folder of images like those the service will see", "DIR", MODEL)
    ] = None
    max_int8_loss: Annotated[
        float, Option("For int8: share of boxes that may differ from fp32", "SHARE", MODEL, low=0, high=1)
    ] = 0.2
    imgsz: Annotated[
        int, Option("Longer side of the image that the network sees, in pixels", "PIXELS", MODEL, parse=_image_size)
    ] = detection.IMGSZ
    conf: Annotated[float, Option("Minimum confidence of a detection, 0 to 1", "CONF", MODEL, low=0, high=1)] = (
        detection.CONFIDENCE
    )
    iou: Annotated[float, Option("NMS: maximum overlap of two boxes, 0 to 1", "IOU", MODEL, low=0, high=1)] = (
        detection.IOU
    )
    host: Annotated[str, Option("Address to listen on", "HOST", SERVICE)] = "127.0.0.1"
    port: Annotated[int, Option("Port to listen on", "PORT", SERVICE, low=1, high=65535)] = 8000
    replicas: Annotated[
        Replicas,
        Option("Number of replicas; a range scales with the load", "N|MIN..MAX", SERVICE, parse=parse_replicas),
    ] = Replicas(1, 2)
    timeout: Annotated[
        float, Option("Seconds until the service must answer", "SECONDS", SERVICE, low=1, high=86400)
    ] = 180.0
    docs: Annotated[bool, Option("Serve the pages /docs and /openapi.json", group=SERVICE)] = True
    url_input: Annotated[bool, Option("Accept image URLs, which the service then downloads", group=IMAGES)] = True
    allow_url: Annotated[
        tuple[str, ...],
        Option("Also allow image URLs on this private host or network (repeatable)", "HOST|CIDR", IMAGES),
    ] = ()
    max_image_bytes: Annotated[
        int, Option("Maximum size of an image", "SIZE", IMAGES, parse=parse_bytes, words=_mebibytes)
    ] = detection.MAX_IMAGE_BYTES
    api_key_file: Annotated[Path | None, Option("Require one of the API keys in FILE", "FILE", ACCESS, guards=True)] = (
        None
    )
    generate_api_key: Annotated[bool, Option("Make an API key, show it once, and require it", group=ACCESS)] = False
    no_auth: Annotated[
        bool, Option("Disable authentication, even on a public address", group=ACCESS, names=("--no-auth",))
    ] = False
    cors_origin: Annotated[
        tuple[str, ...], Option("Allowed CORS origin, or * for any (repeatable)", "ORIGIN", ACCESS, parse=_origins)
    ] = ()
    follow: Annotated[
        bool, Option("Stay, and update the service whenever the model's alias moves", group=FOLLOWING)
    ] = False
    interval: Annotated[
        float, Option("With --follow: seconds between checks", "SECONDS", FOLLOWING, low=1, high=86400)
    ] = 60.0
    down_on_exit: Annotated[bool, Option("With --follow: stop the service on exit", group=FOLLOWING)] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestSettings(InstanceSettings):
    """How `detect` and `annotate` send images."""

    conf: Annotated[
        float | None,
        Option("Minimum confidence, 0 to 1", "CONF", DETECTIONS, low=0, high=1, default="the service's"),
    ] = None
    iou: Annotated[
        float | None,
        Option("NMS: maximum overlap, 0 to 1", "IOU", DETECTIONS, low=0, high=1, default="the service's"),
    ] = None
    class_: Annotated[tuple[str, ...], Option("Only this class (repeatable)", "CLASS", DETECTIONS, ("--class",))] = ()
    recursive: Annotated[bool, Option("Descend into subdirectories", group=REQUESTS)] = False
    fetch: Annotated[
        Literal["server", "client"], Option("Who downloads image URLs: the server or this client", group=REQUESTS)
    ] = "server"
    url: Annotated[
        str | None, Option("Service to ask", "ENDPOINT", REQUESTS, default="the endpoint of the local instance")
    ] = None
    api_key_file: Annotated[
        Path | None,
        Option("File with the API key to send", "FILE", REQUESTS, default="the local instance's own", guards=True),
    ] = None
    concurrency: Annotated[int, Option("Maximum number of requests in flight", "N", REQUESTS, low=1, high=1024)] = (
        CONCURRENCY
    )
    retries: Annotated[int, Option("Maximum number of retries per image", "N", REQUESTS, high=100)] = RETRIES
    timeout: Annotated[
        float, Option("Seconds per image, retries included", "SECONDS", REQUESTS, low=0.1, high=86400)
    ] = TIMEOUT_S


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectSettings(RequestSettings):
    """The settings of `detect`."""

    command: ClassVar[str] = "detect"
    format: Annotated[
        Literal["table", "json", "jsonl", "csv", "coco"] | None,
        Option("Output format", group=OUTPUT, default="table on a terminal, else jsonl"),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnotateSettings(RequestSettings):
    """The settings of `annotate`."""

    command: ClassVar[str] = "annotate"
    labels: Annotated[bool, Option("Label each box with class and confidence", group=OUTPUT)] = True
    line_width: Annotated[
        int | None, Option("Width of a box's line", "PIXELS", OUTPUT, parse=_line_width, default="auto")
    ] = None
    quality: Annotated[int, Option("JPEG and WebP quality, 1 to 100", "N", OUTPUT, low=1, high=100)] = QUALITY


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusSettings(InstanceSettings):
    """The settings of `status`."""

    command: ClassVar[str] = "status"


@dataclass(frozen=True, slots=True, kw_only=True)
class LogsSettings(InstanceSettings):
    """The settings of `logs`."""

    command: ClassVar[str] = "logs"
    level: Annotated[
        Literal["debug", "info", "warning", "error"], Option("Minimum level of the lines shown", group=SERVICE)
    ] = "info"
    tail: Annotated[int, Option("Number of lines shown, counted from the end", "N", SERVICE)] = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelsSettings(Settings):
    """The settings of `models`."""

    command: ClassVar[str] = "models"
    model_timeout: _ModelTimeout = _MODEL_TIMEOUT_S


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigSettings(Settings):
    """The settings of `config`, which shows those of the others."""

    command: ClassVar[str] = "config"


@dataclass(frozen=True, slots=True, kw_only=True)
class DownSettings(InstanceSettings):
    """The settings of `down`."""

    command: ClassVar[str] = "down"
    timeout: Annotated[float, Option("Seconds that accepted requests may take", "SECONDS", SERVICE, high=86400)] = 30.0


_KINDS: tuple[type[Settings], ...] = (
    GlobalSettings,
    UpSettings,
    DetectSettings,
    AnnotateSettings,
    StatusSettings,
    LogsSettings,
    ModelsSettings,
    DownSettings,
)
COMMANDS = {kind.command: kind for kind in _KINDS if kind.command}

S = TypeVar("S", bound=Settings)


@dataclass(frozen=True, slots=True)
class Setting:
    """One field of a command's settings.

    Attributes:
        command: whose it is; empty for the global ones.
        name: of the field.
        kind: its type, None aside.
        default: its value if nobody says anything.
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
        return _variable(self.key, self.command if self.key in _ambiguous() else "")

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
    found = []
    for field in fields(kind):
        declared: Any = field.type
        (bare, *_) = (each for each in _members(declared.__origin__) if each is not types.NoneType)
        (option,) = declared.__metadata__
        found.append(Setting(kind.command, field.name, bare, field.default, option))
    return tuple(found)


def _members(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in {Union, types.UnionType} else (annotation,)


def _all_settings() -> Iterator[Setting]:
    for kind in _KINDS:
        yield from settings_of(kind)


@cache
def _ambiguous() -> frozenset[str]:
    """Keys that commands mean differently."""
    seen: dict[str, set[Option]] = {}
    for setting in _all_settings():
        seen.setdefault(setting.key, set()).add(setting.option)
    return frozenset(key for key, options in seen.items() if len(options) > 1)


def _variable(key: str, command: str = "") -> str:
    return PREFIX + "_".join(filter(None, (command, key.replace("-", "_")))).upper()


@dataclass(frozen=True, slots=True)
class Loaded(Generic[S]):
    """Settings with the origin of each value.

    Attributes:
        settings: the values.
        origins: field name → where it came from: `--port`, `DETECTCTL_PORT`, `FILE: port` or `default`.
    """

    settings: S
    origins: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Sources:
    """What the environment and the file say.

    Attributes:
        environ: the process environment.
        file: the settings file, if there is one.
        named: whether somebody named the file; one that was merely found in the working folder may be anybody's.
        tables: its tables by command; its top is that of no command.
    """

    environ: Mapping[str, str]
    file: Path | None
    named: bool
    tables: Mapping[str, Mapping[str, object]]

    @classmethod
    def read(cls, environ: Mapping[str, str], config_file: Path | None = None) -> "Sources":
        """Find the file and read it; `config_file` is what `--config` says.

        Raises:
            UsageError: the file cannot be read, is not TOML, or has a key that no option has.
        """
        if config_file is None and environ.get(PREFIX + "CONFIG"):
            config_file = Path(environ[PREFIX + "CONFIG"])
        file = config_file or next((each for each in _usual_files(environ) if each.is_file()), None)
        named = config_file is not None or file != Path(FILE_NAME)
        return cls(environ, file, named, {} if file is None else _read_tables(file))

    def load(self, kind: type[S], flags: Mapping[str, object]) -> Loaded[S]:
        """The settings of one command.

        Args:
            kind: the settings' class.
            flags: field name → what the command line said; None means that it said nothing.

        Raises:
            UsageError: a value is wrong; names its origin.
        """
        values: dict[str, Any] = {}
        origins: dict[str, str] = {}
        for setting in settings_of(kind):
            raw, origin = self._said(setting, flags)
            origins[setting.name] = origin
            try:
                values[setting.name] = raw if origin == "default" else setting.parse(raw)
            except ValueError as error:
                raise UsageError(
                    f"{origin} is {raw!r}", why=str(error), hint=f"{_help_of(kind.command)} shows every option"
                ) from error
        return Loaded(kind(**values), origins)

    def _said(self, setting: Setting, flags: Mapping[str, object]) -> tuple[Any, str]:
        """The value as it was written, and where."""
        if flags.get(setting.name) is not None:
            return flags[setting.name], f"--{setting.key}"
        if setting.variable in self.environ and not self._is_kubernetes(setting.variable):
            return self.environ[setting.variable], setting.variable
        if setting.option.guards and _variable(setting.key) in self.environ:
            raise UsageError(
                f"{_variable(setting.key)} no longer says which keys `{setting.command}` uses",
                why="it meant the keys that a service accepts and also the key that a client sends",
                hint=f"set {setting.variable} instead",
            )
        if self.environ.get(setting.option.switch):
            return True, setting.option.switch
        for table, origin in ((setting.command, f"{setting.command}.{setting.key}"), ("", setting.key)):
            if setting.key in self.tables.get(table, {}):
                return self.tables[table][setting.key], f"{self.file}: {origin}"
        return setting.default, "default"

    def warnings(self) -> tuple[str, ...]:
        """One line for each variable with our prefix that nothing reads; values are never repeated."""
        known = {setting.variable for setting in _all_settings()} | {PREFIX + "CONFIG"}
        unread = (name for name in self.environ if name.startswith(PREFIX) and name not in known)
        return tuple(_about_unread(name, known) for name in sorted(unread) if not self._is_kubernetes(name))

    def _is_kubernetes(self, variable: str) -> bool:
        by_value = variable.endswith("_PORT") and _SERVICE_ADDRESS.match(self.environ[variable])
        return bool(by_value or _SERVICE_VARIABLE.fullmatch(variable))

    def refuse_to_send_keys(self, loaded: Loaded[RequestSettings]) -> None:
        """A file that was merely found must not choose who is sent an API key.

        Raises:
            UsageError: its `url` would be.
        """
        origin = loaded.origins["url"]
        if not self.named and loaded.settings.api_key_file is not None and origin.startswith(f"{self.file}: "):
            raise UsageError(
                f"{origin} would be sent an API key",
                why=f"the key is from {loaded.origins['api_key_file']}; {self.file} was merely found in this folder",
                hint=f"if you trust the file, name it: `detectctl --config {self.file} …`; or pass `--url`",
            )


@dataclass(frozen=True, slots=True)
class Row:
    """One line of `detectctl config`: a setting that means the same to some commands, and is the same for them.

    Attributes:
        commands: whose it is; none for a global one.
        key: its name in the file.
        variable: its environment variable.
        value: as JSON.
        words: as people would write it; empty if there is none.
        origin: where the value came from.
    """

    commands: tuple[str, ...]
    key: str
    variable: str
    value: Any
    words: str
    origin: str

    def to_json(self) -> dict[str, Any]:
        """For `config --json`."""
        return {name: value for name, value in asdict(self).items() if name != "words"}


def rows(sources: Sources, flags: Mapping[str, object]) -> tuple[Row, ...]:
    """Every setting of every command, in the order of their declaration.

    Raises:
        UsageError: a value is wrong; names its origin.
    """
    found: list[Row] = []
    for kind in _KINDS:
        loaded = sources.load(kind, flags if kind is GlobalSettings else {})
        for setting in settings_of(kind):
            value = getattr(loaded.settings, setting.name)
            words = setting.words(value) or setting.option.default
            if value is not None and not isinstance(value, (bool, int, float, tuple)):
                value = words
            whose = (kind.command,) if kind.command else ()
            row = Row(whose, setting.key, setting.variable, value, words, loaded.origins[setting.name])
            same = next((each for each in found if replace(each, commands=row.commands) == row), None)
            if same is None:
                found.append(row)
            else:
                found[found.index(same)] = replace(same, commands=same.commands + whose)
    return tuple(found)


def _help_of(command: str) -> str:
    return f"`detectctl {command} --help`" if command else "`detectctl --help`"


def _about_unread(variable: str, known: set[str]) -> str:
    key = variable.removeprefix(PREFIX).lower().replace("_", "-")
    if key in _ambiguous():
        new = [setting.variable for setting in _all_settings() if setting.key == key]
        return f"{variable} is ignored, as commands mean different things by it: set {', '.join(new)}"
    near = difflib.get_close_matches(variable.removeprefix(PREFIX), [each.removeprefix(PREFIX) for each in known], n=1)
    return f"unknown environment variable {variable}" + (f": did you mean {PREFIX}{near[0]}?" if near else "")


def _usual_files(environ: Mapping[str, str]) -> Iterator[Path]:
    yield Path(FILE_NAME)
    try:
        yield Paths.from_environ(environ).config / FILE_NAME
    except UsageError:
        return  # a user without a home folder has no settings file in it


def _read_tables(file: Path) -> dict[str, dict[str, object]]:
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{file} cannot be read", why=reason(error), hint="check `--config`") from error
    except ValueError as error:  # also bytes that are not UTF-8
        raise UsageError(
            f"{file} is not TOML", why=str(error), hint="compare it with examples/detectctl.toml"
        ) from error
    tables = {key: value for key, value in data.items() if isinstance(value, dict)}
    tables[""] = {key: value for key, value in data.items() if key not in tables}
    known = {"": {setting.key for setting in _all_settings()}}
    known |= {command: {setting.key for setting in settings_of(kind)} for command, kind in COMMANDS.items()}
    for table, values in tables.items():
        if table not in known:
            raise _unknown(f"{file}: [{table}]", table, set(COMMANDS))
        for key in values.keys() - known[table]:
            raise _unknown(f"{file}: {f'{table}.' if table else ''}{key}", key, known[table])
    return tables


def _unknown(origin: str, key: str, known: set[str]) -> UsageError:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return UsageError(
        f"{origin} is not a setting",
        why=f"did you mean {near[0]}?" if near else "no option has this name",
        hint="`detectctl config` lists them all",
    )
