"""The value of each setting and its origin: flag > environment > file > default."""

from __future__ import annotations

import difflib
import os
import re
import tomllib
import types
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from detectctl.addresses import masked
from detectctl.errors import UsageError
from detectctl.files import at_home, reason
from detectctl.paths import Paths
from detectctl.ray_token import may_find
from detectctl.settings import (
    COMMANDS,
    KINDS,
    PREFIX,
    GlobalSettings,
    Setting,
    Settings,
    all_settings,
    ambiguous_keys,
    settings_of,
    variable_of,
)
from detectctl.thresholds import Thresholds

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

FILE_NAME = "detectctl.toml"
# What Kubernetes sets in every pod for a Service named detectctl, or detectctl-something.
_SERVICE_VARIABLE = re.compile(r".*(_SERVICE_HOST|_SERVICE_PORT(_[A-Z0-9_]+)?|_PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)")

S = TypeVar("S", bound=Settings)


@dataclass(frozen=True, slots=True)
class Sources:
    """The environment and the settings file.

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
    def read(cls, environ: Mapping[str, str], config_file: Path | None = None) -> Sources:
        """Find the file and read it; `config_file` is what `--config` says.

        UsageError if the file cannot be read, is not TOML, or has a key that no option has.
        """
        if config_file is None and environ.get(PREFIX + "CONFIG"):
            config_file = Path(at_home(environ[PREFIX + "CONFIG"]))
        # `Path.is_file` fails in a folder that this user may not enter, such as a home that `sudo -u` has left in HOME.
        found = (each for each in _usual_files(environ) if os.path.isfile(each))  # noqa: PTH113
        file = config_file or next(found, None)
        named = config_file is not None or file != Path(FILE_NAME)
        return cls(environ, file, named, {} if file is None else _read_tables(file))

    def load(self, kind: type[S], flags: Mapping[str, object]) -> tuple[S, dict[str, str]]:
        """The settings of one command, and where each is from: `--port`, `DETECTCTL_PORT`, `FILE: port` or `default`.

        `flags` has what the command line said by the field's name; None means that it said nothing. UsageError names
        the origin of a value that is wrong.
        """
        values: dict[str, Any] = {}
        origins: dict[str, str] = {}
        for setting in settings_of(kind):
            raw, origin = self._said(setting, flags)
            try:
                values[setting.name] = raw if origin == "default" else setting.parse(raw)
            except ValueError as error:
                hint = f"`{f'detectctl {kind.command}'.strip()} --help` shows every option"
                shown = ",".join(raw) if isinstance(raw, list) and origin.startswith("--") else raw
                raise UsageError(f"{origin} is {shown!r}", why=str(error), hint=hint) from error
            origins[setting.name] = origin
        return kind(**values), origins

    def _said(self, setting: Setting, flags: Mapping[str, object]) -> tuple[Any, str]:
        """The value as it was written, and where."""
        if flags.get(setting.name) is not None:
            return flags[setting.name], f"--{setting.key}"
        if setting.variable in self.environ and not self._is_kubernetes(setting.variable):
            return self.environ[setting.variable], setting.variable
        if setting.option.guards and variable_of(setting.key) in self.environ:
            raise UsageError(
                f"{variable_of(setting.key)} no longer says which keys `{setting.command}` uses",
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
        """One line for each variable with our prefix that nothing reads; never its value."""
        known = {setting.variable for setting in all_settings()} | {PREFIX + "CONFIG"}
        unread = (name for name in self.environ if name.startswith(PREFIX) and name not in known)
        return tuple(_about_unread(name, known) for name in sorted(unread) if not self._is_kubernetes(name))

    def _is_kubernetes(self, variable: str) -> bool:
        by_value = variable.endswith("_PORT") and self.environ[variable].startswith(("tcp://", "udp://", "sctp://"))
        return by_value or _SERVICE_VARIABLE.fullmatch(variable) is not None

    def refuse_to_send_keys(self, origins: Mapping[str, str]) -> None:
        """UsageError if an API key, or a cluster's token, would be sent where a file points that was merely found."""
        address = origins.get("address", "")
        token = origins.get("ray_token_file", "default") != "default" or may_find(self.environ)
        if not self.named and token and address.startswith(f"{self.file}: "):
            raise UsageError(
                f"{address} would be sent the token of a Ray cluster",
                why=f"{self.file} was merely found in this folder",
                hint=f"if you trust the file, name it: `detectctl --config {self.file} …`; or pass `--address`",
            )
        url, key = origins.get("url", ""), origins.get("api_key_file", "default")
        if not self.named and key != "default" and url.startswith(f"{self.file}: "):
            raise UsageError(
                f"{url} would be sent an API key",
                why=f"the key is from {key}; {self.file} was merely found in this folder",
                hint=f"if you trust the file, name it: `detectctl --config {self.file} …`; or pass `--url`",
            )


class Row(NamedTuple):
    """One line of `detectctl config`: what JSON and people call the value, and where it came from."""

    command: str
    key: str
    variable: str
    value: Any
    words: str
    origin: str


def rows(sources: Sources, flags: Mapping[str, object]) -> Iterator[Row]:
    """Every setting of every command, in the order of their declaration; raises what `Sources.load` does."""
    for kind in KINDS:
        settings, origins = sources.load(kind, flags if kind is GlobalSettings else {})
        for each in settings_of(kind):
            if each.command != kind.command:
                continue  # another's, which has shown it
            value = getattr(settings, each.name)
            words = each.words(value) or each.option.default
            if isinstance(value, Thresholds) and not value.by_class:
                value = value.confidence  # a number, as it has always been
            if isinstance(value, tuple):
                value = tuple(map(masked, value))
            plain = value if isinstance(value, (bool, int, float, tuple, types.NoneType)) else words
            yield Row(kind.command, each.key, each.variable, plain, words, origins[each.name])


def _about_unread(variable: str, known: set[str]) -> str:
    key = variable.removeprefix(PREFIX).lower().replace("_", "-")
    if key in ambiguous_keys():
        new = [setting.variable for setting in all_settings() if setting.key == key]
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
        data = tomllib.loads(file.read_text(encoding="utf-8-sig"))  # editors on Windows put a mark before it
    except OSError as error:
        raise UsageError(f"{file} cannot be read", why=reason(error), hint="check `--config`") from error
    except ValueError as error:  # also bytes that are not UTF-8
        hint = "write each setting as `key = value`: `port = 8000`, or `model = 'best.pt'`"
        raise UsageError(f"{file} is not TOML", why=str(error), hint=hint) from error
    tables = {key: value for key, value in data.items() if isinstance(value, dict)}
    tables[""] = {key: value for key, value in data.items() if key not in tables}
    known = {"": {setting.key for setting in all_settings()}}
    for setting in all_settings():  # `manifest` has most of its own from the table of `up`
        known.setdefault(setting.command, set()).add(setting.key)
    for table, values in tables.items():
        if table not in known:
            raise _unknown(f"{file}: [{table}] is not a command", table, set(COMMANDS))
        for key in values.keys() - known[table]:
            raise _unknown(f"{file}: {f'{table}.' if table else ''}{key} is not a setting", key, known[table])
    return tables


def _unknown(what: str, key: str, known: set[str]) -> UsageError:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return UsageError(
        what,
        why=f"did you mean {near[0]}?" if near else "none has this name",
        hint="correct the file; `detectctl --config /dev/null config` lists every setting without it",
    )
