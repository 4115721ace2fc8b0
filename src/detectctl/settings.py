"""Settings: flag > environment > file > default, each value remembering where it came from."""

from __future__ import annotations

import difflib
import re
import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from detectctl.client import CONCURRENCY, RETRIES, TIMEOUT_S
from detectctl.engine import detector_settings as detection
from detectctl.errors import UsageError
from detectctl.paths import Paths
from detectctl.wire import QUALITY

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PREFIX = "DETECTCTL_"
FILE_NAME = "detectctl.toml"
_BYTE_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


@dataclass(frozen=True, slots=True)
class Replicas:
    """How many replicas the service may have; more than one number means autoscaling between them."""

    minimum: int
    maximum: int

    def __str__(self) -> str:
        return str(self.maximum) if self.minimum == self.maximum else f"{self.minimum}..{self.maximum}"


_DEFAULT_REPLICAS = Replicas(1, 2)
_MODEL_TIMEOUT_S = 60.0


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("a text is wanted")  # noqa: TRY004 - `load` names the origin of a ValueError
    return value


def _name(value: object) -> str:
    if not re.fullmatch(r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?", _text(value)):
        raise ValueError("a name has 1 to 40 lower-case letters, digits and inner hyphens")
    return str(value)


def _flag(value: object) -> bool:
    if isinstance(value, bool):
        return value
    known = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if str(value).lower() not in known:
        raise ValueError("true or false is wanted")
    return known[str(value).lower()]


def _integer(low: int, high: int) -> Callable[[object], int]:
    def parse(value: object) -> int:
        if isinstance(value, bool) or not re.fullmatch(r"-?\d+", str(value)):
            raise ValueError("a whole number is wanted")
        if not low <= int(str(value)) <= high:
            raise ValueError(f"a number from {low} to {high} is wanted")
        return int(str(value))

    return parse


def _number(low: float, high: float) -> Callable[[object], float]:
    def parse(value: object) -> float:
        try:
            number = float(str(value))
        except ValueError:
            raise ValueError("a number is wanted") from None
        if isinstance(value, bool) or not low <= number <= high:
            raise ValueError(f"a number from {low:g} to {high:g} is wanted")
        return number

    return parse


def _choice(*choices: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        if value not in choices:
            raise ValueError(f"one of {', '.join(choices)} is wanted")
        return str(value)

    return parse


def _texts(value: object) -> tuple[str, ...]:
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, (list, tuple)) or not all(isinstance(item, str) for item in items):
        raise ValueError("a list of texts is wanted")
    return tuple(item.strip() for item in items if item.strip())


def _path(value: object) -> Path:
    return Path(_text(value)).expanduser()


def _origins(value: object) -> tuple[str, ...]:
    origins = _texts(value)
    for origin in origins:
        # Browsers compare the whole text: an origin in another spelling would silently permit nobody.
        if origin != "*" and not re.fullmatch(r"https?://([a-z0-9.-]+|\[[0-9a-f:]+\])(:\d{1,5})?", origin):
            raise ValueError("origins such as https://app.example.org, in lower case and without a path, are wanted")
    return origins


def _imgsz(value: object) -> int:
    size = _integer(32, 4096)(value)
    if size % 32:
        raise ValueError("a multiple of 32, the model's stride, is wanted")
    return size


def parse_bytes(value: object) -> int:
    """`20MiB`, `500kB` or a plain number, as bytes; ValueError otherwise."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", str(value).strip().lower())
    if match is None or match[2] not in _BYTE_UNITS or isinstance(value, bool):
        raise ValueError("a size such as 20MiB is wanted")
    return int(float(match[1]) * _BYTE_UNITS[match[2]])


def parse_replicas(value: object) -> Replicas:
    """`2`, or `1..3`; ValueError otherwise."""
    match = re.fullmatch(r"(\d{1,3})(?:\.\.(\d{1,3}))?", str(value).strip())
    if match is None or isinstance(value, bool):
        raise ValueError("a number such as 2, or a range such as 1..3, is wanted")
    minimum, maximum = int(match[1]), int(match[2] or match[1])
    if minimum > maximum or maximum == 0:
        raise ValueError("the range must grow and allow at least one replica")
    return Replicas(minimum, maximum)


def _option(default: Any, parse: Callable[[object], Any]) -> Any:
    return field(default=default, metadata={"parse": parse})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What `load` can make."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GlobalSettings(Settings):
    """What every command takes, before or after its name."""

    verbose: bool = _option(False, _flag)
    quiet: bool = _option(False, _flag)
    no_color: bool = _option(False, _flag)


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceSettings(Settings):
    """What every command about one instance needs."""

    name: str = _option("default", _name)


@dataclass(frozen=True, slots=True, kw_only=True)
class UpSettings(InstanceSettings):
    """The settings of `up`."""

    model: str = _option("base", _text)
    host: str = _option("127.0.0.1", _text)
    port: int = _option(8000, _integer(1, 65535))
    replicas: Replicas = _option(_DEFAULT_REPLICAS, parse_replicas)
    device: str = _option("auto", _choice("auto", "cpu", "cuda"))
    precision: str = _option("auto", _choice("auto", "fp32", "bf16", "fp16", "int8"))
    calibrate: Path | None = _option(None, _path)
    max_int8_loss: float = _option(0.2, _number(0.0, 1.0))
    imgsz: int = _option(detection.IMGSZ, _imgsz)
    conf: float = _option(detection.CONFIDENCE, _number(0.0, 1.0))
    iou: float = _option(detection.IOU, _number(0.0, 1.0))
    fallback: bool = _option(True, _flag)
    model_timeout: float = _option(_MODEL_TIMEOUT_S, _number(1, 86400))
    timeout: float = _option(180.0, _number(1, 86400))
    allow_url: tuple[str, ...] = _option((), _texts)
    url_input: bool = _option(True, _flag)
    max_image_bytes: int = _option(detection.MAX_IMAGE_BYTES, parse_bytes)
    trust_checkpoint: bool = _option(False, _flag)
    assets_url: str | None = _option(None, _text)
    follow: bool = _option(False, _flag)
    interval: float = _option(60.0, _number(1, 86400))
    down_on_exit: bool = _option(False, _flag)
    api_key_file: Path | None = _option(None, _path)
    generate_api_key: bool = _option(False, _flag)
    no_auth: bool = _option(False, _flag)
    cors_origin: tuple[str, ...] = _option((), _origins)
    docs: bool = _option(True, _flag)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestSettings(InstanceSettings):
    """How `detect` and `annotate` send images."""

    url: str | None = _option(None, _text)
    api_key_file: Path | None = _option(None, _path)
    conf: float | None = _option(None, _number(0.0, 1.0))
    iou: float | None = _option(None, _number(0.0, 1.0))
    class_: tuple[str, ...] = _option((), _texts)
    concurrency: int = _option(CONCURRENCY, _integer(1, 1024))
    fetch: str = _option("server", _choice("server", "client"))
    retries: int = _option(RETRIES, _integer(0, 100))
    timeout: float = _option(TIMEOUT_S, _number(0.1, 86400))
    recursive: bool = _option(False, _flag)


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectSettings(RequestSettings):
    """The settings of `detect`."""

    format: str | None = _option(None, _choice("table", "json", "jsonl", "csv", "coco"))


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnotateSettings(RequestSettings):
    """The settings of `annotate`."""

    labels: bool = _option(True, _flag)
    line_width: int | None = _option(None, lambda value: None if value == "auto" else _integer(1, 1000)(value))
    quality: int = _option(QUALITY, _integer(1, 100))


@dataclass(frozen=True, slots=True, kw_only=True)
class DownSettings(InstanceSettings):
    """The settings of `down`."""

    timeout: float = _option(30.0, _number(0, 86400))


@dataclass(frozen=True, slots=True, kw_only=True)
class LogsSettings(InstanceSettings):
    """The settings of `logs`."""

    level: str = _option("info", _choice("debug", "info", "warning", "error"))
    tail: int = _option(100, _integer(0, 10**9))


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelsSettings(InstanceSettings):
    """The settings of `models`."""

    model_timeout: float = _option(_MODEL_TIMEOUT_S, _number(1, 86400))


COMMANDS: dict[str, type[InstanceSettings]] = {
    "up": UpSettings,
    "detect": DetectSettings,
    "annotate": AnnotateSettings,
    "status": InstanceSettings,
    "logs": LogsSettings,
    "models": ModelsSettings,
    "down": DownSettings,
}


S = TypeVar("S", bound=Settings)


def key_of(field_name: str) -> str:
    """The name that users see: `max_image_bytes` is `max-image-bytes`."""
    return field_name.rstrip("_").replace("_", "-")


def default_of(command: str, field_name: str) -> Any:
    """What the option is when nobody says anything; help texts show it."""
    return next(item.default for item in fields(COMMANDS[command]) if item.name == field_name)


@dataclass(frozen=True, slots=True)
class Loaded(Generic[S]):
    """Settings with the origin of each value.

    Attributes:
        settings: the values.
        origins: field name → where it came from: `--port`, `DETECTCTL_PORT`, `FILE: port` or `default`.
    """

    settings: S
    origins: Mapping[str, str]


def load_globals(flags: Mapping[str, object], environ: Mapping[str, str], config_file: Path | None) -> GlobalSettings:
    """As `load`, for what holds whatever the command; in the file these keys stand at the top."""
    return load("", GlobalSettings, flags, environ, config_file).settings


def load(
    command: str,
    kind: type[S],
    flags: Mapping[str, object],
    environ: Mapping[str, str],
    config_file: Path | None,
) -> Loaded[S]:
    """Merge the four sources of settings.

    Args:
        command: the command's name; a table of that name in the file wins over the file's top level.
        kind: the settings' class, `COMMANDS[command]`.
        flags: field name → what the command line said; None means nothing was said.
        environ: the process environment.
        config_file: what `--config` said.

    Raises:
        UsageError: a value is wrong, or a key is unknown; names the origin. Or a file that nobody named, in the working
            folder, would have an API key sent to its `url`.
    """
    file, from_file = _read_file(command, environ, config_file)
    from_environ = _read_environ(environ)
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for item in fields(kind):
        key = key_of(item.name)
        variable = PREFIX + item.name.rstrip("_").upper()
        if flags.get(item.name) is not None:
            raw, origin = flags[item.name], f"--{key}"
        elif key in from_environ:
            raw, origin = from_environ[key], variable
        elif key in from_file:
            raw, origin = from_file[key], f"{file}: {key}"
        else:
            values[item.name], origins[item.name] = item.default, "default"
            continue
        try:
            values[item.name] = item.metadata["parse"](raw)
        except ValueError as error:
            raise UsageError(
                f"{origin} is {raw!r}",
                why=str(error),
                hint=" ".join(filter(None, ("detectctl", command, "--help shows every option"))),
            ) from error
        origins[item.name] = origin
    if file == Path(FILE_NAME) and _named_file(environ, config_file) is None:
        _refuse_to_send_keys(values, origins)
    return Loaded(kind(**values), origins)


def _refuse_to_send_keys(values: Mapping[str, Any], origins: Mapping[str, str]) -> None:
    """A file that just lies in the working folder may be anybody's: it must not choose who is sent a key."""
    if values.get("api_key_file") and origins.get("url", "").startswith(f"{FILE_NAME}: "):
        raise UsageError(
            f"{origins['url']} would be sent an API key",
            why=f"the key is from {origins['api_key_file']}, and nobody named {FILE_NAME}: it lies in this folder",
            hint=f"name it, if you trust it: detectctl --config {FILE_NAME} …; or give the address by --url",
        )


def _known_keys(kind: type[Settings]) -> set[str]:
    return {key_of(item.name) for item in fields(kind)}


def _all_keys() -> set[str]:
    return _known_keys(GlobalSettings).union(*(_known_keys(kind) for kind in COMMANDS.values()))


def _unknown(origin: str, key: str, known: set[str]) -> UsageError:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return UsageError(
        f"{origin} is not a setting",
        why=f"did you mean {near[0]}?" if near else "no option has this name",
        hint="the README's settings table lists them all",
    )


def _read_environ(environ: Mapping[str, str]) -> dict[str, str]:
    found = {}
    for variable, value in environ.items():
        if not variable.startswith(PREFIX):
            continue
        key = variable.removeprefix(PREFIX).lower().replace("_", "-")
        if key not in _all_keys() | {"config"}:
            raise _unknown(f"the environment's {variable}", key, _all_keys())
        found[key] = value
    return found


def _read_file(
    command: str, environ: Mapping[str, str], config_file: Path | None
) -> tuple[Path | None, dict[str, object]]:
    path = _find_file(environ, config_file)
    if path is None:
        return None, {}
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read", why=error.strerror, hint="check --config") from error
    except ValueError as error:  # also bytes that are no UTF-8
        raise UsageError(f"{path} is not TOML", why=str(error)) from error
    tables = {key: value for key, value in data.items() if isinstance(value, dict)}
    top = {key: value for key, value in data.items() if key not in tables}
    for key in tables.keys() - COMMANDS.keys():
        raise _unknown(f"{path}: [{key}]", key, set(COMMANDS))
    _refuse_unknown(f"{path}: ", top, _all_keys())
    for name, table in tables.items():
        _refuse_unknown(f"{path}: {name}.", table, _known_keys(COMMANDS[name]))
    return path, {**top, **tables.get(command, {})}


def _refuse_unknown(origin: str, table: Mapping[str, object], known: set[str]) -> None:
    for key in table.keys() - known:
        raise _unknown(origin + key, key, known)


def _named_file(environ: Mapping[str, str], config_file: Path | None) -> Path | None:
    if config_file is None and environ.get(PREFIX + "CONFIG"):
        return Path(environ[PREFIX + "CONFIG"])
    return config_file


def _find_file(environ: Mapping[str, str], config_file: Path | None) -> Path | None:
    named = _named_file(environ, config_file)
    if named is not None:
        return named
    for candidate in (Path(FILE_NAME), Paths.from_environ(environ).config / FILE_NAME):
        if candidate.is_file():
            return candidate
    return None
