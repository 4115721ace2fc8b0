"""Commands made of a body and its settings: each option of the command line is a field of the settings."""

from __future__ import annotations

import inspect
import os
import re
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_origin

import typer
from typer.core import TyperCommand

from detectctl.files import at_home
from detectctl.paths import Paths, with_home
from detectctl.precedence import FILE_NAME, Sources
from detectctl.settings import (
    GLOBAL,
    GROUPS,
    OUTPUT,
    SERVICE,
    GlobalSettings,
    PlacedSettings,
    RequestSettings,
    Setting,
    Settings,
    settings_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from detectctl.console import Console

S = TypeVar("S", bound=Settings)


def asked(
    help_text: str, group: str, *names: str, metavar: str | None = None, parser: Callable[[str], Any] | None = None
) -> Any:
    """An option that says what to do now, and is not a setting."""
    return typer.Option(
        *names, help=help_text, metavar=metavar, rich_help_panel=group, show_default=False, parser=parser
    )


def path(text: str) -> Path:
    """For `parser`: no shell has seen to the `~` of `--output=~/out`."""
    return Path(at_home(text))


Json = Annotated[bool, asked("Print JSON", OUTPUT, "--json")]
Every = Annotated[bool, asked("Every instance of this user", SERVICE, "--all")]


@dataclass
class Session:
    """What a command runs in; `main` uses it to report errors.

    Attributes:
        flags: the global options of the command line; those after the command's name win.
        common: the global settings, once they are known.
    """

    flags: dict[str, Any] = field(default_factory=dict)
    common: GlobalSettings = field(default_factory=GlobalSettings)

    @cached_property
    def paths(self) -> Paths:
        """Where detectctl keeps its files; UsageError if there is nowhere."""
        return Paths.from_environ(os.environ)

    @cached_property
    def environ(self) -> dict[str, str]:
        """For child processes."""
        return with_home(os.environ)

    @cached_property
    def console(self) -> Console:
        """The place where results go."""
        from detectctl.console import Console

        return Console(quiet=self.common.quiet, no_color=self.common.no_color)

    @cached_property
    def sources(self) -> Sources:
        """What environment and file say."""
        return Sources.read(os.environ, self.flags.get("config_file"))

    def note(self, flags: Mapping[str, Any]) -> None:
        """Remember the global options given so far: they decide how an error in the rest is shown."""
        self.flags |= {name: value for name, value in flags.items() if value is not None}
        self.common = GlobalSettings(**{each.name: bool(self.flags.get(each.name)) for each in fields(GlobalSettings)})

    def load(self, kind: type[S], flags: Mapping[str, Any]) -> S:
        """The settings of the command; also sets the global ones, and warns of variables that nothing reads."""
        self.common, _ = self.sources.load(GlobalSettings, self.flags)
        settings, origins = self.sources.load(kind, flags)
        for warning in self.sources.warnings():  # after what may be an error about the same variable
            self.console.warning(warning)
        if issubclass(kind, (RequestSettings, PlacedSettings)):
            self.sources.refuse_to_send_keys(origins)
        return settings


class GroupedCommand(TyperCommand):
    """Shows its options under the headings that they belong to."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Also take `--watch=5`, and give each error its context, which the parser's own errors lack."""
        if self.name == "status":  # typer has no options with an optional value: `--watch` has an argument beside it
            args = [word for arg in args for word in re.split(r"(?<=^--watch)=", arg)]
        try:
            return super().parse_args(ctx, args)
        except typer.TyperException as error:
            error.ctx = getattr(error, "ctx", None) or ctx  # type: ignore[attr-defined]
            raise

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Without the braces that typer puts around a required argument."""
        return [piece.strip("{}") for piece in super().collect_usage_pieces(ctx)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """As typer does, but with a section per heading."""
        sections: dict[str, list[tuple[str, str]]] = {heading: [] for heading in GROUPS}
        for each in self.get_params(ctx):
            heading = "Arguments" if each.param_type_name == "argument" else getattr(each, "rich_help_panel", None)
            if record := each.get_help_record(ctx):
                sections[heading or GLOBAL].append(record)
        for heading, records in sections.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)


def command(body: Callable[..., int | None]) -> Callable[..., int | None]:
    """Turn the body of a command into a function that typer understands.

    Args:
        body: takes the session, the settings (its second annotation says which class), and whatever else it needs from
            the command line. Its docstring is the help; it returns the exit code, where None is 0.
    """
    _, settings, *own = inspect.signature(body, eval_str=True).parameters.values()

    def run(context: typer.Context, **said: Any) -> int | None:
        session: Session = context.obj
        session.note({each.name: said.pop(each.name) for each in GLOBAL_OPTIONS})
        besides = {each.name: said.pop(each.name) for each in own}
        return body(session, session.load(settings.annotation, said), **besides)

    run.__name__, run.__doc__ = body.__name__, body.__doc__
    return taking([*_options_of(settings.annotation), *own, *GLOBAL_OPTIONS], run)


def taking(options: Iterable[inspect.Parameter], run: Callable[..., Any]) -> Callable[..., Any]:
    """Give `run` the signature that typer reads: a context and these options."""
    context = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    by_name = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in options]
    run.__signature__ = inspect.Signature([context, *by_name])  # type: ignore[attr-defined]
    return run


def parameter(name: str, kind: Any, option: Any, default: Any = None) -> inspect.Parameter:
    """One option of the command line."""
    annotation = Annotated[kind, option]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _options_of(kind: type[Settings]) -> list[inspect.Parameter]:
    return [_option_of(setting) for setting in settings_of(kind) if setting.option.group]


def _option_of(setting: Setting) -> inspect.Parameter:
    """The option for a setting; its value is None if the user did not give it."""
    option, key, words = setting.option, setting.key, setting.option.default or setting.words(setting.default)
    kind: Any = list[str] if get_origin(setting.kind) is tuple else str
    flag = f"--{key}"
    if setting.kind is bool:
        kind, flag, words = bool, f"--{key}/--no-{key}", option.default or (key if setting.default else "")
    text = option.help + (f" [default: {words}]" if words else "")
    metavar = option.metavar or "|".join(setting.choices) or None
    return parameter(setting.name, kind | None, asked(text, option.group, *(option.names or (flag,)), metavar=metavar))


_FILE = asked(f"Settings file [default: ./{FILE_NAME}]", GLOBAL, "--config", metavar="FILE", parser=path)
GLOBAL_OPTIONS = (parameter("config_file", Path | None, _FILE), *_options_of(GlobalSettings))
"""The options that every command takes, before or after its name."""
