"""The program `detectctl`: its commands, and how their errors are reported."""

from __future__ import annotations

import io
import os
import re
import shlex
import sys
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

import detectctl
from detectctl import limits
from detectctl.cli.doctor_command import doctor
from detectctl.cli.image_commands import annotate, detect
from detectctl.cli.instance_commands import down, logs, status, up
from detectctl.cli.manifest_command import manifest, prepare
from detectctl.cli.models_command import models
from detectctl.cli.options import GLOBAL_OPTIONS, GroupedCommand, Json, Session, asked, command, parameter, taking
from detectctl.errors import DetectctlError, UsageError
from detectctl.precedence import rows
from detectctl.settings import GLOBAL, Settings
from detectctl.signals import Interrupted, unwind_when_signalled


class _Commands(TyperGroup):
    """Ends quietly when the reader of the output has read enough, as in `detectctl … | head`; typer would exit 1."""

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]  # click's own context, by another name
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the flush at exit is quiet
            return 0
        return result


@command
def config(session: Session, settings: Settings, as_json: Json = False) -> None:  # noqa: ARG001 - it has none
    """Show every setting, its value and where it came from."""
    found, file = tuple(rows(session.sources, session.flags)), session.sources.file
    if as_json:
        session.console.json({"file": file and str(file), "settings": [row._asdict() for row in found]})
    else:
        session.console.config(found, file)


app = typer.Typer(
    name="detectctl",
    cls=_Commands,
    help="Serve a trained YOLO model with Ray Serve, without dropping a request.",
    rich_markup_mode=None,  # plain help costs half the start-up time of a framed one
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for each in (up, detect, annotate, status, logs, models, config, doctor, manifest, down):
    app.command(cls=GroupedCommand)(each)
app.command(cls=GroupedCommand, hidden=True)(prepare)


def _before_any_command(context: typer.Context, version: bool, **flags: Any) -> None:
    if version:
        typer.echo(f"detectctl {detectctl.__version__}")
        raise typer.Exit
    session: Session = context.obj
    session.note(flags)
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(UsageError.exit_code)


_VERSION = parameter("version", bool, asked("Show the version", GLOBAL, "--version"), default=False)
app.callback(invoke_without_command=True)(taking([*GLOBAL_OPTIONS, _VERSION], _before_any_command))


def main() -> NoReturn:
    """The console script; every error of ours is reported here, and becomes its exit code."""
    unwind_when_signalled()
    limits.set_soft()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr is: a name need not fit the locale
    session = Session()
    problem: DetectctlError
    try:
        sys.exit(app(prog_name="detectctl", standalone_mode=False, obj=session))
    except typer.TyperException as error:
        problem = _usage_error(error)
    except DetectctlError as error:
        problem = error
    except (KeyboardInterrupt, Interrupted, typer.Abort):
        sys.stderr.write("interrupted\n")
        sys.exit(130)
    except Exception as error:  # noqa: BLE001 - the last resort
        problem = DetectctlError(
            f"unexpected {type(error).__name__}: {error}",
            why="this is a bug in detectctl, or in what it builds on",
            hint="run the command again with `--verbose`, and report what it shows",
        )
        problem.__cause__ = error
    if session.common.verbose:
        import traceback

        traceback.print_exception(problem)
    session.console.error(problem)
    sys.exit(problem.exit_code)


def _usage_error(error: typer.TyperException) -> UsageError:
    """An error of typer's own in the form of ours."""
    context = getattr(error, "ctx", None)
    path, usage = (context.command_path, context.get_usage()) if context else ("detectctl", "")
    message = error.format_message().rstrip(".")
    message = re.sub(r"Got unexpected extra argument\(s\) \((.+)\)", r"Unexpected argument '\1'", message)
    # "No such option: --prot (Possible options: --port)", "No such command 'upp'. Did you mean 'up'?",
    # "Invalid value for '--seconds': 'x' is not a valid float."
    parts = re.fullmatch(r"(.+?)(?:(?: \(Possible options: |\. Did you mean )(.+)[)?]|(?<='): (.+))", message)
    what, meant, why = parts.groups() if parts else (message, None, usage)
    sought = "command" if what.startswith("No such command") else "option"
    hint = f"`{path} --help` shows every {sought}"
    if what.startswith("No such option") and (file := next(filter(_is_dashed_file, sys.argv[1:]), None)):
        hint = f"if the file is meant, write `{shlex.quote(f'./{file}')}`"
    elif meant:
        why = f"did you mean {meant}?"
    elif context and sought == "command":
        why = f"must be one of {', '.join(name for name, each in context.command.commands.items() if not each.hidden)}"
    problem = UsageError(what[:1].lower() + what[1:], why=why[:1].lower() + why[1:], hint=hint)
    problem.__cause__ = error
    return problem


def _is_dashed_file(argument: str) -> bool:
    """Whether a pattern such as `*.jpg` may have brought it."""
    return argument.startswith("-") and os.path.lexists(argument)
