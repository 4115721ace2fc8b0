"""Settings: precedence, origins, and errors that name the culprit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from detectctl import settings
from detectctl.errors import UsageError
from detectctl.settings import AnnotateSettings, DetectSettings, Replicas, UpSettings

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def _up(
    flags: dict[str, object] | None = None, environ: dict[str, str] | None = None, file: Path | None = None
) -> settings.Loaded[UpSettings]:
    return settings.load("up", UpSettings, flags or {}, {"HOME": "/nowhere"} | (environ or {}), file)


def test_flag_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    """Each source wins over those after it, and the origin of each value is remembered."""
    (tmp_path / "detectctl.toml").write_text('port = 1001\nhost = "::1"\nconf = 0.5\n')
    loaded = _up({"port": 1003}, {"DETECTCTL_PORT": "1002", "DETECTCTL_HOST": "::"})
    assert (loaded.settings.port, loaded.settings.host, loaded.settings.conf) == (1003, "::", 0.5)
    assert loaded.origins["port"] == "--port"
    assert loaded.origins["host"] == "DETECTCTL_HOST"
    assert loaded.origins["conf"] == "detectctl.toml: conf"
    assert loaded.origins["imgsz"] == "default"


def test_a_table_named_like_the_command_wins_over_the_top_level(tmp_path: Path) -> None:
    """`[up]` is for `up` alone; the top level is for every command that knows the key."""
    (tmp_path / "detectctl.toml").write_text("timeout = 5\n[up]\ntimeout = 90\n")
    assert _up().settings.timeout == 90
    assert settings.load("detect", DetectSettings, {}, {}, None).settings.timeout == 5


def test_the_users_config_folder_is_read_when_the_working_folder_has_no_file(tmp_path: Path) -> None:
    """XDG_CONFIG_HOME/detectctl/detectctl.toml is the last file looked for."""
    home = tmp_path / "xdg" / "detectctl"
    home.mkdir(parents=True)
    (home / "detectctl.toml").write_text("port = 1234")
    assert _up(environ={"XDG_CONFIG_HOME": str(tmp_path / "xdg")}).settings.port == 1234


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("prot = 1", ["prot", "did you mean port"]),
        ("[upp]\nport = 1", ["[upp]", "did you mean up"]),
        ("[up]\nmodle = 'x'", ["up.modle", "did you mean model"]),
        ("port = 'eighty'", ["port", "whole number"]),
        ("port = 70000", ["port", "1 to 65535"]),
        ("port = true", ["port", "whole number"]),
        ("conf = 2", ["conf", "from 0 to 1"]),
        ("imgsz = 100", ["imgsz", "multiple of 32"]),
        ("replicas = '3..1'", ["replicas", "grow"]),
        ("replicas = '0..0'", ["replicas", "at least one"]),
        ("name = 'Über'", ["name", "lower-case"]),
        ("max-image-bytes = '20 potatoes'", ["max-image-bytes", "20MiB"]),
        ("precision = 'fp64'", ["precision", "bf16"]),
        ("port = ", ["not TOML"]),
    ],
)
def test_a_wrong_file_is_refused_with_key_and_cause(tmp_path: Path, text: str, told: list[str]) -> None:
    """The error names the file's key, says what is wanted, and the nearest known key for a typo."""
    file = tmp_path / "other.toml"
    file.write_text(text)
    with pytest.raises(UsageError) as caught:
        _up(file=file)
    words = f"{caught.value.what} {caught.value.why} {caught.value.hint}"
    for word in told:
        assert word in words


def test_a_typo_in_the_environment_is_refused() -> None:
    """A variable of ours that no option has is an error, not silence."""
    with pytest.raises(UsageError, match="DETECTCTL_PROT"):
        _up(environ={"DETECTCTL_PROT": "1"})


def test_a_missing_config_file_is_refused(tmp_path: Path) -> None:
    """`--config` of a file that is not there is an error."""
    with pytest.raises(UsageError, match="nowhere"):
        _up(file=tmp_path / "nowhere.toml")


@pytest.mark.parametrize(
    ("text", "size"), [("20MiB", 20 * 2**20), ("500kB", 500_000), ("1.5 GiB", 3 * 2**29), ("17", 17)]
)
def test_sizes_are_bytes(text: str, size: int) -> None:
    """Binary and decimal units, and plain numbers."""
    assert settings.parse_bytes(text) == size


@pytest.mark.parametrize(("text", "wanted"), [("2", (2, 2)), ("1..3", (1, 3)), ("0..2", (0, 2))])
def test_replicas_are_a_number_or_a_range(text: str, wanted: tuple[int, int]) -> None:
    """A number is a range of one."""
    assert settings.parse_replicas(text) == Replicas(*wanted)
    assert str(settings.parse_replicas(text)) == text


def test_lists_may_be_written_with_commas_in_the_environment() -> None:
    """`DETECTCTL_ALLOW_URL=a,b` is two entries."""
    assert _up(environ={"DETECTCTL_ALLOW_URL": "a.example, 10.0.0.0/8"}).settings.allow_url == (
        "a.example",
        "10.0.0.0/8",
    )


def test_line_width_auto_is_the_default_spelled_out() -> None:
    """`--line-width auto` is what no flag means."""
    loaded = settings.load("annotate", AnnotateSettings, {"line_width": "auto"}, {}, None)
    assert loaded.settings.line_width is None


def test_global_options_are_settings_of_the_files_top(tmp_path: Path) -> None:
    """They come from flag, environment or file like the others, and belong to no command's table."""
    (tmp_path / "detectctl.toml").write_text("quiet = true\nno-color = true\n")
    common = settings.load_globals({"verbose": True}, {"DETECTCTL_NO_COLOR": "off"}, None)
    assert common == settings.GlobalSettings(verbose=True, quiet=True, no_color=False)
    (tmp_path / "detectctl.toml").write_text("[up]\nquiet = true\n")
    with pytest.raises(UsageError, match="quiet"):
        _up()


def test_a_file_that_is_not_utf_8_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "detectctl.toml").write_bytes(b'model = "caf\xe9.pt"\n')
    with pytest.raises(UsageError, match="not TOML"):
        _up()


def test_how_many_log_lines_can_be_set() -> None:
    """DETECTCTL_TAIL, as every option has its variable."""
    assert settings.load("logs", settings.LogsSettings, {}, {"DETECTCTL_TAIL": "5"}, None).settings.tail == 5


URL = 'url = "https://evil.example"\n'


@pytest.mark.parametrize("in_file", ["", 'api-key-file = "keys"'])
def test_a_file_that_lies_around_chooses_nobody_to_send_a_key_to(tmp_path: Path, in_file: str) -> None:
    """Neither the user's key nor the first line of any file; one that was named may."""
    (tmp_path / "detectctl.toml").write_text(URL + in_file)
    environ = {} if in_file else {"DETECTCTL_API_KEY_FILE": "/keys"}
    for command in ("detect", "annotate"):
        kind = settings.COMMANDS[command]
        with pytest.raises(UsageError, match=r"detectctl\.toml: url would be sent an API key") as error:
            settings.load(command, kind, {}, environ, None)
        assert "--config detectctl.toml" in str(error.value.hint)
        settings.load(command, kind, {}, environ, tmp_path / "detectctl.toml")
        settings.load(command, kind, {}, environ | {"DETECTCTL_CONFIG": "detectctl.toml"}, None)
        settings.load(command, kind, {"url": "https://good.example"}, environ, None)
    settings.load("up", UpSettings, {}, environ, None)


def test_without_a_key_such_a_file_may_say_where_the_service_is(tmp_path: Path) -> None:
    (tmp_path / "detectctl.toml").write_text(URL)
    assert settings.load("detect", DetectSettings, {}, {}, None).settings.url == "https://evil.example"


def test_the_users_own_file_may_hold_address_and_key(tmp_path: Path) -> None:
    home = tmp_path / "xdg" / "detectctl"
    home.mkdir(parents=True)
    (home / "detectctl.toml").write_text(URL + 'api-key-file = "/keys"')
    environ = {"XDG_CONFIG_HOME": str(tmp_path / "xdg")}
    assert settings.load("detect", DetectSettings, {}, environ, None).settings.url == "https://evil.example"
