"""The commands: parse, resolve settings, one call, render the result."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar, cast

import typer
from typer.core import TyperGroup

import detectctl
from detectctl import settings as config
from detectctl.errors import DetectctlError, NotRunning, UsageError
from detectctl.keys import read_keys
from detectctl.paths import Paths

if TYPE_CHECKING:
    from detectctl.client.service_client import Client
    from detectctl.console import Console
    from detectctl.lifecycle.down import DownResult
    from detectctl.sources import Source
    from detectctl.wire import DetectOptions

S = TypeVar("S", bound=config.Settings)


class _Commands(TyperGroup):
    """Ends quietly when whoever reads the output has read enough: `detectctl … | head`; click would exit 1."""

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]  # click's own context, by another name
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the flush at exit is quiet
            raise typer.Exit(0) from None
        return result


app = typer.Typer(
    name="detectctl",
    cls=_Commands,
    help="Serve a trained YOLOv8 model with Ray Serve, and drop nothing.",
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help costs half the start-up time of a framed one
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@dataclass(slots=True)
class Session:
    """What the global options say; every command gets it, and `main` has it for the errors."""

    config_file: Path | None = None
    common: config.GlobalSettings = field(default_factory=config.GlobalSettings)

    def console(self) -> Console:
        """The place where results go."""
        from detectctl.console import Console

        return Console(quiet=self.common.quiet, no_color=self.common.no_color)

    def settings(self, command: str, kind: type[S], **flags: object) -> S:
        """The command's settings; see `config.load`."""
        return config.load(command, kind, flags, os.environ, self.config_file).settings


def _option(
    command: str, field: str, text: str, *names: str, metavar: str | None = None, default: str | None = None
) -> Any:
    """An option whose default `config` knows: the command line only says what the user said.

    Args:
        command: whose settings.
        field: of the settings' class.
        text: what it does.
        names: as typed, where they differ from the field's name.
        metavar: as in the help.
        default: in words, where the value does not say it.
    """
    value = config.default_of(command, field)
    if isinstance(value, bool):
        key = config.key_of(field)
        names, words = (f"--{key}/--no-{key}",), key if value else f"no-{key}"
    else:
        words = default or ("" if value in {None, ()} else str(value))
    return typer.Option(
        *names, metavar=metavar, help=f"{text} [default: {words}]" if words else text, show_default=False
    )


def _version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"detectctl {detectctl.__version__}\n")
        raise typer.Exit


@app.callback()
def _global(
    context: typer.Context,
    config_file: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="Settings file [default: ./detectctl.toml]")
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show tracebacks.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress; warnings and errors only.")] = False,
    no_color: Annotated[bool, typer.Option("--no-color", help="Never colour the output.")] = False,
    version: Annotated[  # noqa: ARG001 - its callback does the work
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    session = context.ensure_object(Session)
    session.config_file = config_file
    no_color = no_color or bool(os.environ.get("NO_COLOR"))  # no-color.org: set and not empty
    flags = {"verbose": verbose or None, "quiet": quiet or None, "no_color": no_color or None}
    session.common = config.load_globals(flags, os.environ, config_file)


def _asking(field: str, text: str, *names: str, metavar: str | None = None, default: str | None = None) -> Any:
    return _option("detect", field, text, *names, metavar=metavar, default=default)


Name = Annotated[str | None, _option("status", "name", "Which instance", "--name", "-n")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Every = Annotated[bool, typer.Option("--all", help="Every instance of this user.")]
Sources = Annotated[
    list[str], typer.Argument(metavar="SOURCE…", help="URL, file, folder, quoted glob, or - for image bytes on stdin.")
]
Endpoint = Annotated[
    str | None, _asking("url", "Service to ask", metavar="ENDPOINT", default="where the instance listens")
]
KeyFile = Annotated[
    Path | None, _asking("api_key_file", "Holds the service's key", metavar="FILE", default="the local instance's own")
]
Conf = Annotated[float | None, _asking("conf", "Least confidence, 0 to 1", default="the service's")]
Iou = Annotated[float | None, _asking("iou", "NMS threshold, 0 to 1", default="the service's")]
Class = Annotated[list[str] | None, _asking("class_", "Only this class; repeatable", "--class", metavar="NAME")]
Concurrency = Annotated[int | None, _asking("concurrency", "Requests in flight")]
Fetch = Annotated[str | None, _asking("fetch", "Who downloads a URL", metavar="server|client")]
Retries = Annotated[int | None, _asking("retries", "Attempts after the first")]
Patience = Annotated[float | None, _asking("timeout", "Seconds for each source", "--timeout")]
Recursive = Annotated[bool | None, _asking("recursive", "Search the folders below a folder")]


@app.command()
def up(
    context: typer.Context,
    model: Annotated[
        str | None,
        _option(
            "up",
            "model",
            "base, yolov8{n,s,m,l,x}, a .pt file, or a W&B artifact entity/project/name:alias",
            "--model",
            "-m",
            metavar="REF",
        ),
    ] = None,
    name: Name = None,
    host: Annotated[str | None, _option("up", "host", "Address to listen at")] = None,
    port: Annotated[int | None, _option("up", "port", "Port to listen at")] = None,
    replicas: Annotated[
        str | None, _option("up", "replicas", "How many; a range autoscales", metavar="N|MIN..MAX")
    ] = None,
    device: Annotated[str | None, _option("up", "device", "What computes", metavar="auto|cpu|cuda")] = None,
    precision: Annotated[
        str | None, _option("up", "precision", "Of the arithmetic", metavar="auto|fp32|bf16|fp16|int8")
    ] = None,
    calibrate: Annotated[
        Path | None, _option("up", "calibrate", "Images such as the service will see, for int8", metavar="DIR")
    ] = None,
    max_int8_loss: Annotated[
        float | None, _option("up", "max_int8_loss", "Share of boxes in which int8 may differ from fp32")
    ] = None,
    imgsz: Annotated[int | None, _option("up", "imgsz", "Longer side that the network sees, pixels")] = None,
    conf: Annotated[float | None, _option("up", "conf", "Least confidence of a detection, 0 to 1")] = None,
    iou: Annotated[float | None, _option("up", "iou", "NMS threshold, 0 to 1")] = None,
    fallback: Annotated[
        bool | None, _option("up", "fallback", "Serve base YOLOv8, visibly, if the model cannot be had")
    ] = None,
    model_timeout: Annotated[float | None, _option("up", "model_timeout", "Seconds to get the model")] = None,
    timeout: Annotated[float | None, _option("up", "timeout", "Seconds until the service must answer")] = None,
    allow_url: Annotated[
        list[str] | None,
        _option(
            "up",
            "allow_url",
            "Image URLs may lead here although it is not public; repeatable",
            metavar="HOST|CIDR",
        ),
    ] = None,
    url_input: Annotated[bool | None, _option("up", "url_input", "Accept image URLs")] = None,
    max_image_bytes: Annotated[
        str | None, _option("up", "max_image_bytes", "Largest image accepted", metavar="SIZE", default="20MiB")
    ] = None,
    trust_checkpoint: Annotated[
        bool | None, _option("up", "trust_checkpoint", "Load a checkpoint that runs code of its own")
    ] = None,
    follow: Annotated[
        bool | None, _option("up", "follow", "Stay, and roll to what the reference means when that changes")
    ] = None,
    interval: Annotated[float | None, _option("up", "interval", "Seconds between two looks with --follow")] = None,
    down_on_exit: Annotated[
        bool | None, _option("up", "down_on_exit", "End the service with --follow's own end")
    ] = None,
    api_key_file: Annotated[
        Path | None, _option("up", "api_key_file", "Ask callers for one of the keys in it", metavar="FILE")
    ] = None,
    generate_api_key: Annotated[
        bool | None, _option("up", "generate_api_key", "Make a key and ask callers for it; shown once")
    ] = None,
    no_auth: Annotated[
        bool | None, typer.Option("--no-auth", help="Let in everybody who reaches --host.", show_default=False)
    ] = None,
    cors_origin: Annotated[
        list[str] | None,
        _option("up", "cors_origin", "Web pages from here may ask, or *; repeatable", metavar="ORIGIN"),
    ] = None,
    docs: Annotated[bool | None, _option("up", "docs", "Have the pages /docs and /openapi.json")] = None,
    as_json: Json = False,
) -> None:
    """Make the service run a model; return when it answers."""
    session: Session = context.obj
    settings = session.settings(
        "up", config.UpSettings, model=model, name=name, host=host, port=port, replicas=replicas, device=device,
        precision=precision, calibrate=calibrate and str(calibrate), max_int8_loss=max_int8_loss, imgsz=imgsz,
        conf=conf, iou=iou, fallback=fallback, model_timeout=model_timeout, timeout=timeout,
        allow_url=allow_url or None, url_input=url_input, max_image_bytes=max_image_bytes,
        trust_checkpoint=trust_checkpoint, api_key_file=api_key_file and str(api_key_file),
        generate_api_key=generate_api_key, no_auth=no_auth or None, cors_origin=cors_origin or None, docs=docs,
        follow=follow, interval=interval, down_on_exit=down_on_exit,
    )  # fmt: skip
    from detectctl.lifecycle.up import up as bring_up

    console = session.console()
    with console.progress() as progress:
        result = bring_up(settings, Paths.from_environ(os.environ), os.environ, progress.report)
    console.json(asdict(result)) if as_json else console.up(result)
    if settings.follow:
        _follow(settings, console)


def _follow(settings: config.UpSettings, console: Console) -> None:
    """Until SIGTERM, Ctrl-C, or somebody's `down`."""
    from detectctl.lifecycle.follow import Follower

    sys.stdout.flush()
    try:
        with console.progress() as progress:
            Follower(settings, Paths.from_environ(os.environ), os.environ, progress.report).run()
    except Interrupted:
        pass  # how systemd and containers end what they started
    finally:
        if settings.down_on_exit:
            _down([settings.name], config.DownSettings(name=settings.name), console, force=False)


@app.command()
def detect(
    context: typer.Context,
    sources: Sources,
    output_format: Annotated[
        str | None,
        _option(
            "detect",
            "format",
            "Of the output",
            "--format",
            "-f",
            metavar="table|json|jsonl|csv|coco",
            default="table on a terminal, jsonl in a pipe",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write here instead of stdout.")
    ] = None,
    conf: Conf = None,
    iou: Iou = None,
    class_: Class = None,
    concurrency: Concurrency = None,
    fetch: Fetch = None,
    url: Endpoint = None,
    api_key_file: KeyFile = None,
    name: Name = None,
    retries: Retries = None,
    timeout: Patience = None,
    recursive: Recursive = None,
) -> None:
    """Send images and print their detections."""
    session: Session = context.obj
    settings = session.settings(
        "detect", config.DetectSettings, format=output_format, conf=conf, iou=iou, class_=class_ or None,
        concurrency=concurrency, fetch=fetch, url=url, name=name, retries=retries, timeout=timeout,
        recursive=recursive, api_key_file=api_key_file and str(api_key_file),
    )  # fmt: skip
    from detectctl.client import formats, outputs

    console = session.console()
    images = _images(sources, settings)
    shape = settings.format or ("table" if console.is_terminal and output is None else "jsonl")
    with _client(settings) as client, outputs.text_file(output) as stream:
        outcomes = client.detect_all(images, _detect_options(settings))
        found = console.tracked(outcomes, len(images))
        if shape == "table":
            console.detections(found, stream)
        else:
            formats.WRITERS[shape](found, stream or sys.stdout, client.labels)
    raise typer.Exit(outcomes.exit_code)


@app.command()
def annotate(
    context: typer.Context,
    sources: Sources,
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE|DIR",
            help="A .jpg, .png or .webp file for one source, a folder for several.",
        ),
    ],
    labels: Annotated[bool | None, _option("annotate", "labels", "Write class and confidence at each box")] = None,
    line_width: Annotated[
        str | None, _option("annotate", "line_width", "Pixels of a box's line", metavar="PIXELS", default="auto")
    ] = None,
    quality: Annotated[int | None, _option("annotate", "quality", "Of a JPEG or WebP, 1 to 100")] = None,
    conf: Conf = None,
    iou: Iou = None,
    class_: Class = None,
    concurrency: Concurrency = None,
    fetch: Fetch = None,
    url: Endpoint = None,
    api_key_file: KeyFile = None,
    name: Name = None,
    retries: Retries = None,
    timeout: Patience = None,
    recursive: Recursive = None,
) -> None:
    """Send images and write them with their detections drawn on."""
    session: Session = context.obj
    settings = session.settings(
        "annotate", config.AnnotateSettings, labels=labels, line_width=line_width, quality=quality, conf=conf, iou=iou,
        class_=class_ or None, concurrency=concurrency, fetch=fetch, url=url, name=name, retries=retries,
        timeout=timeout, recursive=recursive, api_key_file=api_key_file and str(api_key_file),
    )  # fmt: skip
    from detectctl.client import outputs
    from detectctl.wire import DrawOptions

    console = session.console()
    images = _images(sources, settings)
    jobs = list(zip(images, outputs.plan_outputs(images, output), strict=True))
    drawing = DrawOptions(settings.labels, settings.line_width, settings.quality)
    with _client(settings) as client:
        outcomes = outputs.annotate_all(client, jobs, _detect_options(settings), drawing)
        console.annotated(console.tracked(outcomes, len(jobs)))
    raise typer.Exit(outcomes.exit_code)


@app.command()
def status(
    context: typer.Context,
    name: Name = None,
    every: Every = False,
    watch: Annotated[
        float | None,
        typer.Option("--watch", metavar="[SECONDS]", min=0.1, help="Show it again and again; each 2 s if left out."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what runs: model, replicas, requests, latency."""
    session: Session = context.obj
    settings = session.settings("status", config.InstanceSettings, name=name)
    from detectctl.lifecycle import status as statuses

    console = session.console()
    paths = Paths.from_environ(os.environ)
    while True:
        if every:
            found = statuses.all_statuses(paths)
            console.json({"instances": [one.to_json() for one in found]}) if as_json else console.statuses(found)
        else:
            found = (statuses.status(settings.name, paths),)
            console.json(found[0].to_json()) if as_json else console.status(found[0])
        if watch is None:
            break
        time.sleep(watch)
    if not found:
        raise NotRunning("no instance is running", hint="detectctl up")
    if not all(one.healthy for one in found):
        raise typer.Exit(4)


@app.command()
def models(
    context: typer.Context,
    reference: Annotated[
        str | None, typer.Argument(metavar="[REF]", help="A W&B collection: entity/project/name", show_default=False)
    ] = None,
    prune: Annotated[bool, typer.Option("--prune", help="Free the store of models that nobody serves.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    model_timeout: Annotated[float | None, _option("models", "model_timeout", "Seconds to ask W&B")] = None,
    as_json: Json = False,
) -> None:
    """List the versions of a W&B collection, or free the store."""
    session: Session = context.obj
    settings = session.settings("models", config.ModelsSettings, model_timeout=model_timeout)
    console = session.console()
    if prune:
        _prune(settings, console, yes=yes, as_json=as_json)
        return
    if reference is None:
        raise UsageError("a collection is missing", hint="detectctl models entity/project/name, or models --prune")
    from detectctl.lifecycle.state import served_artifacts
    from detectctl.registry import collection

    paths = Paths.from_environ(os.environ)
    found = collection.versions(
        reference,
        cache=paths.cache,
        environ=os.environ,
        timeout_s=settings.model_timeout,
        served=served_artifacts(paths.state),
    )
    if as_json:
        console.json({"versions": [{**asdict(one), "stored": one.stored} for one in found]})
    else:
        console.versions(found)


def _prune(settings: config.ModelsSettings, console: Console, *, yes: bool, as_json: bool) -> None:
    from detectctl.lifecycle import prune

    paths = Paths.from_environ(os.environ)
    doomed = prune.unserved(paths)
    if doomed and not yes:
        if not sys.stdin.isatty():
            raise UsageError(
                "models --prune asks before it removes anything, and nobody can answer here",
                why="standard input is no terminal",
                hint="detectctl models --prune --yes",
            )
        if not as_json:
            console.pruned(doomed, done=False)
        typer.confirm(f"Remove {len(doomed)}?", abort=True, err=True)
    agreed = {stored.sha256 for stored in doomed}
    removed = prune.prune(paths, agreed, timeout_s=settings.model_timeout, on_wait=console.warning)
    if as_json:
        console.json({"removed": [{"sha256": stored.sha256, "size": stored.size} for stored in removed]})
    else:
        console.pruned(removed, done=True)


@app.command()
def logs(
    context: typer.Context,
    name: Name = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines come.")] = False,
    tail: Annotated[int | None, _option("logs", "tail", "How many of the last lines")] = None,
    replica: Annotated[str | None, typer.Option(metavar="ID", help="Only this replica's; see status.")] = None,
    level: Annotated[str | None, _option("logs", "level", "Least level", metavar="debug|info|warning|error")] = None,
    as_json: Json = False,
) -> None:
    """Show the service's log lines, also of one that failed to start."""
    session: Session = context.obj
    settings = session.settings("logs", config.LogsSettings, name=name, level=level, tail=tail)
    from detectctl.lifecycle import logs as log_files

    console = session.console()
    wanted = log_files.LogFilter(replica, settings.level.upper())
    show = log_files.follow if follow else log_files.read
    for line in show(settings.name, Paths.from_environ(os.environ), wanted, settings.tail):
        console.log_line(line, as_json=as_json)


@app.command()
def down(
    context: typer.Context,
    name: Name = None,
    every: Every = False,
    timeout: Annotated[float | None, _option("down", "timeout", "Seconds that accepted requests may take")] = None,
    force: Annotated[bool, typer.Option("--force", help="Do not wait for accepted requests.")] = False,
    as_json: Json = False,
) -> None:
    """Finish accepted requests; stop what `up` started, nothing else."""
    session: Session = context.obj
    settings = session.settings("down", config.DownSettings, name=name, timeout=timeout)
    from detectctl.lifecycle.state import names

    console = session.console()
    wanted = names(Paths.from_environ(os.environ).state) if every else [settings.name]
    results = _down(wanted, settings, console, force=force, quiet=as_json)
    if as_json:
        console.json({"instances": [asdict(result) for result in results]} if every else asdict(results[0]))
    if not force and any(result.action == "stopped" and not result.drained for result in results):
        raise typer.Exit(4)  # it is down, but the deadline passed before every accepted request was answered


def _down(
    wanted: list[str], settings: config.DownSettings, console: Console, *, force: bool, quiet: bool = False
) -> list[DownResult]:
    from detectctl.lifecycle.down import down as take_down

    paths = Paths.from_environ(os.environ)
    results = []
    for one in wanted:
        with console.progress() as progress:
            result = take_down(one, paths, timeout_s=settings.timeout, force=force, report=progress.report)
        results.append(result)
        if not quiet:
            console.down(result)
    return results


def _client(settings: config.RequestSettings) -> Client:
    from detectctl.client.service_client import Client

    endpoint, key_file = settings.url, settings.api_key_file
    ours = endpoint is None
    if endpoint is None:
        from detectctl.lifecycle.state import reach

        endpoint, own_key_file = reach(Paths.from_environ(os.environ).state, settings.name)
        key_file = key_file or own_key_file
    return Client(
        endpoint,
        api_key=None if key_file is None else read_keys(key_file)[0],
        timeout_s=settings.timeout,
        retries=settings.retries,
        concurrency=settings.concurrency,
        fetch=cast("Any", settings.fetch),  # the settings have checked it
        wait_for_restart=ours,  # its head lives, so a service that does not answer now will again
    )


def _images(arguments: list[str], settings: config.RequestSettings) -> list[Source]:
    from detectctl import sources as images

    stdin = sys.stdin.buffer.read() if "-" in arguments else None
    return list(images.resolve(arguments, recursive=settings.recursive, stdin=stdin))


def _detect_options(settings: config.RequestSettings) -> DetectOptions:
    from detectctl.wire import DetectOptions

    return DetectOptions(settings.conf, settings.iou, settings.class_)


_WATCH_S = "2"
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """SIGTERM or SIGHUP: unwinds like Ctrl-C, so that what was begun is taken back."""


def _interrupt(signum: int, _: object) -> NoReturn:
    # What was begun is being taken back from here on; a second signal must not leave that half done.
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    if signum == signal.SIGINT:
        raise KeyboardInterrupt
    raise Interrupted(signum)


def _hoist_globals(arguments: list[str]) -> list[str]:
    """Global options work after the command too, where people write them."""
    flags = {"--verbose", "-v", "--quiet", "--no-color"}
    front: list[str] = []
    rest: list[str] = []
    remaining = iter(arguments)
    for argument in remaining:
        if argument == "--":
            rest += [argument, *remaining]
        elif argument in flags or argument.startswith("--config="):
            front.append(argument)
        elif argument == "--config":
            front += [argument, *(value for value in [next(remaining, None)] if value is not None)]
        else:
            rest.append(argument)
    return front + rest


def _with_watch_seconds(arguments: list[str]) -> list[str]:
    """`--watch` may stand without its seconds, which typer knows no way to say."""
    found: list[str] = []
    for argument, following in itertools.zip_longest(arguments, arguments[1:], fillvalue=""):
        found.append(argument)
        if argument == "--watch" and not following.replace(".", "", 1).isdecimal():
            found.append(_WATCH_S)
    return found


def main() -> NoReturn:
    """The console script; every error of ours is told here, and becomes its exit code."""
    for signum in _SIGNALS:
        if signal.getsignal(signum) is not signal.SIG_IGN:  # nohup, and what a shell puts into the background
            signal.signal(signum, _interrupt)
    arguments = _hoist_globals(_with_watch_seconds(sys.argv[1:]))
    session = Session()
    try:
        app(arguments, standalone_mode=True, obj=session)
        sys.exit(0)
    except DetectctlError as error:
        _tell(error, session)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, Interrupted):
        sys.stderr.write("interrupted\n")
        sys.exit(130)
    except Exception as error:  # noqa: BLE001 - the last resort
        _tell(
            DetectctlError(
                f"unexpected {type(error).__name__}: {error}",
                why="this is a bug in detectctl, or in what it builds on",
                hint="run the command again with --verbose and report what it shows",
            ),
            session,
        )
        sys.exit(1)


def _tell(error: DetectctlError, session: Session) -> None:
    """Print an error that is being handled; its traceback is for --verbose."""
    if session.common.verbose:
        import traceback

        traceback.print_exc()
    session.console().error(error)


if __name__ == "__main__":
    main()
