"""The command line without a cluster: help, versions, errors, and what it imports."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

import detectctl
from bent_service import INFO, Request, bent
from detectctl.settings import COMMANDS
from installed import DETECTCTL, Home

if TYPE_CHECKING:
    from pathlib import Path

HEAVY = {"ray", "torch", "wandb", "httpx", "numpy", "PIL", "pydantic", "cv2", "openvino", "ultralytics", "rich"} | {
    "supervision"
}


_RUN = """
import json, sys
sys.argv = json.loads(sys.argv[1])
try:
    from detectctl.cli import main
    main()
except SystemExit:
    pass
print()
print(json.dumps(list(sys.modules)))
"""


def modules_after(*argv: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", _RUN, json.dumps(["detectctl", *argv])], capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_help_imports_nothing_heavy() -> None:
    """`detectctl --help` must answer at once."""
    assert modules_after("--help") & HEAVY == set()


def test_detect_imports_neither_ray_nor_torch() -> None:
    """The client side needs no serving stack."""
    loaded = modules_after("detect", "missing.jpg", "--url", "http://127.0.0.1:1")
    assert "detectctl.client.service_client" in loaded
    assert loaded & {"ray", "torch", "wandb", "openvino", "ultralytics", "numpy"} == set()


@pytest.mark.parametrize("command", [*COMMANDS, "config"])
def test_every_command_has_help_that_fits_80_columns(command: str, home: Home) -> None:
    """Help says what the command does, within a plain terminal."""
    done = home.run(command, "--help", COLUMNS="80")
    assert done.returncode == 0
    assert "Usage: detectctl" in done.stdout
    assert max(len(line) for line in done.stdout.splitlines()) <= 80


def test_version() -> None:
    """`--version` prints name and version on stdout."""
    done = subprocess.run([DETECTCTL, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"detectctl {detectctl.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["up", "--nonsense"], 2),
        (["up", "--port", "0"], 2),
        (["up", "--model", "not-there.pt"], 2),
        (["up", "--model", "yolov8z"], 2),
        (["up", "--precision", "fp64"], 2),
        (["up", "--host", "203.0.113.7"], 2),
        (["detect"], 2),
        (["detect", "a.jpg", "--format", "xml"], 2),
        (["annotate", "a.jpg", "-o", "a.tiff"], 2),
        (["annotate", "a.jpg"], 2),
        (["status"], 3),
        (["status", "--watch", "0"], 2),
        (["status", "--watch", "soon"], 2),
        (["status", "--watch="], 2),
        (["status", "5"], 2),
        (["upp"], 2),
        ([], 2),
        (["config"], 0),
        (["status", "--all"], 3),
        (["status", "--all", "--json"], 3),
        (["up", "--device", "cuda"], 2),
        (["down"], 0),
        (["down", "--all"], 0),
    ],
)
def test_exit_codes(arguments: list[str], code: int, home: Home) -> None:
    """Usage errors exit 2, nothing running exits 3; never a traceback, always a reason."""
    done = home.run(*arguments)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert code == 0 or done.stderr.strip()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["up", "--port", "99999"], ["--port is '99999'", "must be from 1 to 65535", "`detectctl up --help`"]),
        (["up", "--prot", "1"], ["no such option: --prot", "did you mean --host, --port?", "`detectctl up --help`"]),
        (["up", "--cors-origin", "a"], ["--cors-origin is 'a'", "must be an origin", "`detectctl up --help`"]),
        (["up", "--port"], ["option '--port' requires an argument", "usage: detectctl up", "`detectctl up --help`"]),
        (["upp"], ["no such command 'upp'", "did you mean 'up'?", "`detectctl --help` shows every command"]),
        (["serve"], ["no such command 'serve'", "must be one of up, detect, annotate", "shows every command"]),
        (["detect"], ["missing argument 'SOURCE…'", "usage: detectctl detect", "`detectctl detect --help`"]),
        (["annotate", "a.jpg"], ["missing option '--output' or '--grid'", "no place is named", "`-o annotated/`"]),
        (["down", "now"], ["unexpected argument 'now'", "usage: detectctl down", "--help"]),
        (["status", "prod"], ["unexpected argument 'prod'", "--watch", "`detectctl status --name prod`"]),
    ],
)
def test_errors_say_what_why_and_what_next(arguments: list[str], told: list[str], home: Home) -> None:
    """Three lines on stderr, and nothing on stdout; those of the command line's parser too."""
    done = home.run(*arguments)
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 3
    for line, begin, words in zip(lines, ("error: ", "  why: ", "  try: "), told, strict=True):
        assert line.startswith(begin)
        assert words in line


def test_what_only_pods_run_is_not_offered(home: Home) -> None:
    assert home.run("prepare", "--help").returncode == 0
    assert "prepare" not in home.run("--help").stdout + home.run("serve").stderr


def test_global_options_work_before_and_after_the_command(home: Home) -> None:
    """Also together with another short option; after `--` they are arguments."""
    for loud in (["-v", "status"], ["status", "--verbose"], ["logs", "-fv"]):
        assert "Traceback" in home.run(*loud).stderr
    assert "Traceback" not in home.run("status").stderr
    (home.path / "mine.toml").write_text("verbose = true")
    for named in (["--config", "mine.toml", "status"], ["status", "--config=mine.toml"]):
        assert "Traceback" in home.run(*named).stderr


def test_a_hint_about_the_settings_file_works_while_the_file_is_wrong(home: Home) -> None:
    """`detectctl config` alone would meet the same mistake again."""
    (home.path / "detectctl.toml").write_text("prot = 1")
    hint = home.run("config").stderr.splitlines()[2]
    named = re.findall("`detectctl (.+?)`", hint)
    assert home.run(*named[0].split()).returncode == 0


def test_everything_of_nothing_is_said_to_be_nothing(home: Home) -> None:
    """Neither silence nor a table without rows."""
    assert home.run("down", "--all").stdout == "nothing to stop: no instance is running\n"
    assert home.run("status", "--all").stdout == ""
    assert home.json("status", "--all", "--json", code=3)["instances"] == []


@pytest.mark.parametrize("name", ["--watch", "--watch=5", "-v", "--config"])
def test_what_follows_a_double_dash_is_a_source(home: Home, name: str) -> None:
    """A file may have such a name, and it is the only source: FILE.jpg would be refused for two."""
    (home.path / name).write_bytes(b"not an image")
    done = home.run("annotate", "--url", "http://127.0.0.1:1", "-o", "out.jpg", "--", name)
    assert (done.returncode, "Traceback" in done.stderr) == (3, False), done.stderr


def test_a_file_that_looks_like_an_option_is_told_how_to_be_named(home: Home) -> None:
    """A pattern brings it: `detect *.jpg`."""
    (home.path / "-a b.jpg").touch()
    done = home.run("detect", "-a b.jpg")
    assert done.returncode == 2
    assert done.stderr.splitlines()[2] == "  try: if the file is meant, write `'./-a b.jpg'`"
    assert "--help" in home.run("detect", "-b.jpg").stderr


@pytest.mark.parametrize("option", ["-o", "--grid"])
def test_a_tilde_after_an_option_is_the_home_folder(home: Home, option: str) -> None:
    """Bash leaves that of `--output=~/a.jpg` as it is."""
    image = io.BytesIO()
    Image.new("RGB", (100, 50)).save(image, "PNG")
    (home.path / "a.png").write_bytes(image.getvalue())
    with bent(lambda request: request.found()) as asked:
        done = home.run("annotate", "a.png", option, "~/below/a.jpg", "--url", asked.url)
    assert done.returncode == 0, done.stderr
    assert (home.path / "below" / "a.jpg").is_file()
    assert not (home.path / "~").exists()


@pytest.mark.parametrize("shape", ["table", "csv"])
def test_a_name_that_the_locale_has_no_letters_for_is_printed_all_the_same(home: Home, shape: str) -> None:
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    (home.path / "\u65e5.jpg").write_bytes(b"\xff\xd8\xff")
    with bent(lambda request: request.found()) as asked:
        done = home.run("detect", "\u65e5.jpg", "--format", shape, "--url", asked.url, **locale)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\u65e5.jpg" in done.stdout


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "detectctl", "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Usage: detectctl ")


def test_helps_headings_and_metavars_say_what_is_wanted(home: Home) -> None:
    """`up` has too many options for one list."""
    shown = home.run("up", "--help", COLUMNS="80").stdout
    headings = re.findall(r"^([A-Z].*):$", shown, re.MULTILINE)
    assert headings == [
        "Model",
        "Service",
        "Cluster",
        "Images and URLs",
        "Access",
        "Following",
        "Output",
        "Global options",
    ]
    for words in ("--host HOST", "--timeout SECONDS", "--calibrate DIR", "--device auto|cpu|cuda"):
        assert words in shown
    assert "TEXT" not in shown
    assert "INTEGER" not in shown


def test_config_shows_every_setting_with_its_origin(home: Home) -> None:
    """As a table, and as JSON with the values' own types; variables that nothing reads are warned of."""
    (home.path / "detectctl.toml").write_text("[up]\nport = 9000\n")
    environ = {"DETECTCTL_DETECT_TIMEOUT": "5", "DETECTCTL_PROT": "1", "DETECTCTL_SERVICE_HOST": "10.0.0.1"}
    done = home.run("config", "--json", "--quiet", **environ)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stderr.splitlines() if "DETECTCTL_PORT" not in line] == []
    data = json.loads(done.stdout)
    assert data["file"] == "detectctl.toml"
    found = {(row["command"], row["key"]): row for row in data["settings"]}
    assert (found["up", "port"]["value"], found["up", "port"]["origin"]) == (9000, "detectctl.toml: up.port")
    assert found["up", "port"]["variable"] == "DETECTCTL_PORT"
    assert (found["detect", "timeout"]["value"], found["annotate", "timeout"]["value"]) == (5, 30)
    assert (found["", "quiet"]["value"], found["", "quiet"]["origin"]) == (True, "--quiet")
    table = home.run("config", **environ).stdout
    assert re.search(r"^up +port +9000 +detectctl\.toml: up\.port *$", table, re.MULTILINE)


def test_a_service_of_kubernetes_with_our_name_hinders_no_command(home: Home) -> None:
    done = home.run("down", DETECTCTL_SERVICE_HOST="10.96.0.7", DETECTCTL_PORT="tcp://10.96.0.7:8000")
    assert (done.returncode, done.stderr) == (0, "")


def test_an_unknown_variable_is_a_warning(home: Home) -> None:
    done = home.run("down", DETECTCTL_PROT="1")
    assert done.returncode == 0
    assert done.stderr == "warning: unknown environment variable DETECTCTL_PROT: did you mean DETECTCTL_PORT?\n"


@pytest.mark.parametrize(
    ("options", "seen"),
    [
        (["--watch", "0.1", "--json"], {"name": "default", "state": "not running"}),
        (["--all", "--watch=0.1", "--json"], {"instances": []}),
    ],
)
def test_watching_prints_json_lines_and_waits_for_what_is_not_there_yet(
    home: Home, options: list[str], seen: dict[str, Any]
) -> None:
    """One document a line, for line readers; Ctrl-C ends it."""
    with home.start("status", *options) as process:
        assert process.stdout is not None
        for _ in range(3):
            assert seen.items() <= json.loads(process.stdout.readline()).items()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 130


def test_json_lines_are_whole_on_a_terminal_too(home: Home) -> None:
    """Neither wrapped nor redrawn."""
    ours, theirs = pty.openpty()
    command = [str(DETECTCTL), "status", "--watch", "0.1", "--json", "--name", "a-name-that-fills-most-of-a-narrow-one"]
    environ = home.env | {"TERM": "xterm-256color", "COLUMNS": "40"}
    with (
        os.fdopen(ours, encoding="utf-8") as terminal,
        subprocess.Popen(command, env=environ, stdout=theirs) as process,
    ):
        os.close(theirs)
        for _ in range(2):
            assert json.loads(terminal.readline())["state"] == "not running"
        process.terminate()


@pytest.mark.parametrize(
    ("options", "seen"), [([], "instance default is not running\n"), (["--all"], "no instance is running\n")]
)
def test_watching_without_seconds_looks_every_two(home: Home, options: list[str], seen: str) -> None:
    """`--watch` alone; of nothing it says so, instead of a table without rows."""
    with home.start("status", "--watch", *options) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == seen
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 130


def test_a_reader_that_has_read_enough_is_no_error(home: Home) -> None:
    """`detectctl … | head -1`."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([DETECTCTL, "down"], stdout=writing, stderr=subprocess.PIPE, env=home.env, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


def test_shell_completion_is_offered_and_completes(home: Home) -> None:
    """`--show-completion` prints a script for the shell, and what it calls completes commands and options."""
    # From a bash, because typer asks which shell it was started from; `:` keeps bash from becoming the command.
    with home.start_command(["bash", "-c", f"{DETECTCTL} --show-completion; :"]) as shown:
        assert shown.stdout is not None
        assert "complete" in shown.stdout.read()
    asked = {"_DETECTCTL_COMPLETE": "complete_bash", "COMP_CWORD": "1"}
    assert home.run(COMP_WORDS="detectctl de", **asked).stdout.split() == ["detect"]
    assert "--precision" in home.run(COMP_WORDS="detectctl up --pre", **(asked | {"COMP_CWORD": "2"})).stdout


def test_a_deadline_that_every_source_passed_is_exit_4(home: Home, bus_jpg: Path) -> None:
    """Not 6: nothing is wrong with the sources, the service was not ready in time."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        done = home.run("detect", str(bus_jpg), "--url", url, "--timeout", "1")
        assert done.returncode == 4, done.stderr
        done = home.run("detect", str(bus_jpg), "missing.jpg", "--url", url, "--timeout", "1")
        assert done.returncode == 6, done.stderr


def test_a_settings_file_can_be_quiet_about_tracebacks_and_loud(home: Home) -> None:
    """The global options are settings too: environment over file, and `false` means false."""
    (home.path / "detectctl.toml").write_text("verbose = true\n")
    assert "Traceback" in home.run("status").stderr
    assert "Traceback" not in home.run("status", DETECTCTL_VERBOSE="false").stderr
    done = home.run("status", DETECTCTL_VERBOSE="perhaps")
    assert (done.returncode, "true or false" in done.stderr) == (2, True)


def test_a_password_in_a_url_is_in_no_output(home: Home) -> None:
    """Of any format, whether the image was downloaded or not; it reaches the camera."""
    seen: list[str | None] = []

    def camera(request: Request) -> None:
        seen.append(request.headers.get("authorization"))
        request.answer(404 if "gone" in request.path else 200, b"\xff\xd8image")

    def service(request: Request) -> None:
        request.answer(200, INFO.to_json()) if request.path == "/info" else request.found()

    with bent(camera) as host, bent(service) as asked:
        urls = [f"{host.url.replace('://', '://admin:geheim@')}/{name}.jpg" for name in ("a", "gone")]
        for kind in ("table", "json", "jsonl", "csv", "coco"):
            done = home.run("detect", *urls, "--fetch", "client", "--url", asked.url, "--format", kind, "--verbose")
            assert done.returncode == 6
            assert "geheim" not in done.stdout + done.stderr
            assert "***@" in (done.stderr if kind == "table" else done.stdout)
    assert seen == ["Basic YWRtaW46Z2VoZWlt"] * 10


def test_a_variable_that_is_an_error_is_not_a_warning_too(home: Home) -> None:
    done = home.run("detect", "a.jpg", DETECTCTL_API_KEY_FILE="/keys")
    assert done.returncode == 2
    assert "warning" not in done.stderr
    assert done.stderr.startswith("error: DETECTCTL_API_KEY_FILE no longer says")
    assert "warning: unknown environment variable DETECTCTL_X" in home.run("down", DETECTCTL_X="1").stderr


def test_a_sheet_is_written_with_or_without_single_files(home: Home) -> None:
    home.path.joinpath("a.bmp").write_bytes(b"")
    image = io.BytesIO()
    Image.new("RGB", (100, 50)).save(image, "PNG")
    home.path.joinpath("a.png").write_bytes(image.getvalue())
    names = [str(home.path / name) for name in ("a.png", "a.bmp")]
    with bent(lambda request: request.found()) as asked:
        for more in ([], ["-o", f"{home.path}/out/"]):
            sheet = home.path / f"sheet{len(more)}.jpg"
            done = home.run("annotate", *names, "--grid", str(sheet), *more, "--url", asked.url)
            assert done.returncode == 6
            assert done.stdout.splitlines()[-1] == f"{sheet}  2 images"
            with Image.open(sheet) as drawn:
                assert drawn.size == (2 * 644 + 4, 480 + 40 + 8)
            assert len(asked.requests) == 1 + bool(more)
    assert [path.name for path in (home.path / "out").iterdir()] == ["a.png"]


def test_what_a_folder_has_beside_images_is_said_once(home: Home) -> None:
    folder = home.path / "photos"
    folder.mkdir()
    (folder / "a.jpg").symlink_to("a.jpg")
    (folder / "notes.txt").touch()
    with bent(lambda request: request.found()) as asked:
        done = home.run("annotate", str(folder), "-o", str(home.path / "out_2024.06"), "--url", asked.url)
    assert done.returncode == 6
    assert done.stderr.startswith("left out, by kind: 1 .txt\n")
    assert "why: Too many levels of symbolic links" in done.stderr
