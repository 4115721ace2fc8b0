"""Which value of a setting wins, where it came from, and errors that name the culprit."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import pytest

from detectctl.errors import UsageError
from detectctl.precedence import Sources, rows
from detectctl.settings import (
    COMMANDS,
    AnnotateSettings,
    DetectSettings,
    DownSettings,
    GlobalSettings,
    LogsSettings,
    RequestSettings,
    Settings,
    UpSettings,
    settings_of,
)
from detectctl.thresholds import Thresholds

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


S = TypeVar("S", bound=Settings)


def _load(
    kind: type[S],
    flags: dict[str, object] | None = None,
    environ: dict[str, str] | None = None,
    file: Path | None = None,
) -> S:
    return Sources.read({"HOME": "/nowhere"} | (environ or {}), file).load(kind, flags or {})[0]


def _up(
    flags: dict[str, object] | None = None, environ: dict[str, str] | None = None, file: Path | None = None
) -> UpSettings:
    return _load(UpSettings, flags, environ, file)


def test_flag_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    """Each source wins over those after it, and the origin of each value is remembered."""
    (tmp_path / "detectctl.toml").write_text('port = 1001\nhost = "::1"\nconf = 0.5\n')
    environ = {"HOME": "/nowhere", "DETECTCTL_PORT": "1002", "DETECTCTL_HOST": "::"}
    settings, origins = Sources.read(environ).load(UpSettings, {"port": 1003})
    assert (settings.port, settings.host, settings.conf) == (1003, "::", Thresholds(0.5))
    assert origins["port"] == "--port"
    assert origins["host"] == "DETECTCTL_HOST"
    assert origins["conf"] == "detectctl.toml: conf"
    assert origins["imgsz"] == "default"


def test_a_table_named_like_the_command_wins_over_the_top_level(tmp_path: Path) -> None:
    """`[up]` is for `up` alone; the top level is for every command that knows the key."""
    (tmp_path / "detectctl.toml").write_text("timeout = 5\n[up]\ntimeout = 90\n")
    assert _up().timeout == 90
    assert _load(DetectSettings).timeout == 5


def test_the_users_config_folder_is_read_when_the_working_folder_has_no_file(tmp_path: Path) -> None:
    """XDG_CONFIG_HOME/detectctl/detectctl.toml is the last file looked for."""
    home = tmp_path / "xdg" / "detectctl"
    home.mkdir(parents=True)
    (home / "detectctl.toml").write_text("port = 1234")
    assert _up(environ={"XDG_CONFIG_HOME": str(tmp_path / "xdg")}).port == 1234


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("prot = 1", ["prot", "did you mean port"]),
        ("[upp]\nport = 1", ["[upp] is not a command", "did you mean up"]),
        ("[up]\nmodle = 'x'", ["up.modle", "did you mean model"]),
        ("port = 'eighty'", ["port", "must be an integer"]),
        ("port = 70000", ["port", "1 to 65535"]),
        ("port = true", ["port", "must be an integer"]),
        ("conf = 2", ["conf", "must be from 0 to 1"]),
        ("conf = true", ["conf", "must be a number"]),
        ("conf = '0.4,person=2'", ["conf", "must be from 0 to 1"]),
        ("conf = '0.4,person'", ["conf", "0.4,person=0.25"]),
        ("conf = 'person=0.1,person=0.2'", ["conf", "'person' one threshold"]),
        ("max-det = 0", ["max-det", "from 1 to 1000"]),
        ("agnostic-nms = 'maybe'", ["agnostic-nms", "true or false"]),
        ("imgsz = 100", ["imgsz", "multiple of 32"]),
        ("replicas = '3..1'", ["replicas", "not shrink"]),
        ("replicas = '0..0'", ["replicas", "at least one"]),
        ("name = 'Über'", ["name", "lower-case"]),
        ("max-image-bytes = '20 potatoes'", ["max-image-bytes", "20MiB"]),
        ("precision = 'fp64'", ["precision", "bf16"]),
        ("port = ", ["not TOML", "at end of document", "`key = value`"]),
    ],
)
def test_a_wrong_file_is_refused_with_key_and_cause(tmp_path: Path, text: str, told: list[str]) -> None:
    """The error names the file's key, says what the value must be, and gives the nearest known key for a typo."""
    file = tmp_path / "other.toml"
    file.write_text(text)
    with pytest.raises(UsageError) as caught:
        _up(file=file)
    words = f"{caught.value.what} {caught.value.why} {caught.value.hint}"
    for word in told:
        assert word in words


def test_a_file_of_windows_is_read(tmp_path: Path) -> None:
    """Its editors put a byte order mark before the first line, which nobody sees."""
    file = tmp_path / "other.toml"
    file.write_bytes(b"\xef\xbb\xbf[up]\r\nport = 8123\r\n")
    assert _up(file=file).port == 8123


def test_a_missing_config_file_is_refused(tmp_path: Path) -> None:
    """`--config` of a file that is not there is an error."""
    with pytest.raises(UsageError, match="nowhere"):
        _up(file=tmp_path / "nowhere.toml")


def test_lists_may_be_written_with_commas_in_the_environment() -> None:
    """`DETECTCTL_ALLOW_URL=a,b` is two entries."""
    assert _up(environ={"DETECTCTL_ALLOW_URL": "a.example, 10.0.0.0/8"}).allow_url == (
        "a.example",
        "10.0.0.0/8",
    )


def test_a_tilde_in_a_path_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No shell expands it in a file, in a variable, or after `--calibrate=`."""
    monkeypatch.setenv("HOME", "/home/somebody")
    (tmp_path / "detectctl.toml").write_text("[up]\napi-key-file = '~/keys'")
    settings = _up({"calibrate": "~/images"})
    assert (str(settings.api_key_file), str(settings.calibrate)) == ("/home/somebody/keys", "/home/somebody/images")
    (tmp_path / "mine.toml").write_text("[up]\nport = 8123")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert _up(environ={"DETECTCTL_CONFIG": "~/mine.toml"}).port == 8123
    with pytest.raises(UsageError) as caught:
        _up({"calibrate": "~nobody-of-this-name/images"})
    assert "must not begin with ~" in str(caught.value.why)


def test_auto_is_the_default_spelled_out() -> None:
    """`--line-width auto` and `--replicas auto` are what no flag means."""
    assert _load(AnnotateSettings, {"line_width": "auto"}).line_width is None
    assert _up({"replicas": "auto"}, environ={"DETECTCTL_REPLICAS": "3"}).replicas is None


def test_global_options_are_settings_of_the_files_top(tmp_path: Path) -> None:
    """They come from flag, environment or file like the others, and belong to no command's table."""
    (tmp_path / "detectctl.toml").write_text("quiet = true\nno-color = true\n")
    loaded = _load(GlobalSettings, {"verbose": True}, {"DETECTCTL_NO_COLOR": "off"})
    assert loaded == GlobalSettings(verbose=True, quiet=True, no_color=False)
    (tmp_path / "detectctl.toml").write_text("[up]\nquiet = true\n")
    with pytest.raises(UsageError, match="quiet"):
        _up()


def test_a_file_that_is_not_utf_8_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "detectctl.toml").write_bytes(b'model = "caf\xe9.pt"\n')
    with pytest.raises(UsageError, match="not TOML"):
        _up()


def test_how_many_log_lines_can_be_set() -> None:
    """DETECTCTL_TAIL, as every option has its variable."""
    assert _load(LogsSettings, environ={"DETECTCTL_TAIL": "5"}).tail == 5


URL = 'url = "https://evil.example"\n'


def _sent_to(kind: type[RequestSettings], environ: dict[str, str], file: Path | None = None, **flags: str) -> str:
    sources = Sources.read({"HOME": "/nowhere"} | environ, file)
    settings, origins = sources.load(kind, flags)
    sources.refuse_to_send_keys(origins)
    [url] = settings.url
    return url


@pytest.mark.parametrize("in_file", ["", 'api-key-file = "keys"'])
@pytest.mark.parametrize("kind", [DetectSettings, AnnotateSettings])
def test_a_file_that_was_merely_found_chooses_nobody_to_send_a_key_to(
    tmp_path: Path, in_file: str, kind: type[RequestSettings]
) -> None:
    """Neither the user's key nor the first line of any file; a file that somebody named may."""
    (tmp_path / "detectctl.toml").write_text(URL + in_file)
    environ = {} if in_file else {f"DETECTCTL_{kind.command.upper()}_API_KEY_FILE": "/keys"}
    with pytest.raises(UsageError, match=r"detectctl\.toml: url would be sent an API key") as error:
        _sent_to(kind, environ)
    assert "--config detectctl.toml" in str(error.value.hint)
    assert _sent_to(kind, environ, tmp_path / "detectctl.toml") == "https://evil.example"
    assert _sent_to(kind, environ | {"DETECTCTL_CONFIG": "detectctl.toml"}) == "https://evil.example"
    assert _sent_to(kind, environ, url="https://good.example") == "https://good.example"


def test_nor_somebody_to_send_the_token_of_a_cluster_to(tmp_path: Path) -> None:
    """A dashboard with the token runs any code on the cluster."""
    (tmp_path / "detectctl.toml").write_text('[up]\naddress = "http://evil.example:8265"\n')
    environ = {"HOME": str(tmp_path)}

    def load(**more: str) -> str | None:
        sources = Sources.read(environ | more, None)
        settings, origins = sources.load(UpSettings, {})
        sources.refuse_to_send_keys(origins)
        return settings.address

    assert load() == "http://evil.example:8265", "without a token there is nothing to lose"
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("token")
    for more in ({}, {"RAY_AUTH_TOKEN": "token"}, {"RAY_AUTH_TOKEN_PATH": "/token"}):
        with pytest.raises(UsageError, match=r"detectctl\.toml: up\.address would be sent the token of a Ray cluster"):
            load(**more)
    assert load(DETECTCTL_CONFIG="detectctl.toml") == "http://evil.example:8265"


def test_without_a_key_such_a_file_may_say_where_the_service_is(tmp_path: Path) -> None:
    (tmp_path / "detectctl.toml").write_text(URL)
    assert _sent_to(DetectSettings, {}) == "https://evil.example"


def test_the_users_own_file_may_hold_address_and_key(tmp_path: Path) -> None:
    home = tmp_path / "xdg" / "detectctl"
    home.mkdir(parents=True)
    (home / "detectctl.toml").write_text(URL + 'api-key-file = "/keys"')
    assert _sent_to(DetectSettings, {"XDG_CONFIG_HOME": str(tmp_path / "xdg")}) == "https://evil.example"


KUBERNETES = {
    "DETECTCTL_SERVICE_HOST": "10.96.0.7",
    "DETECTCTL_SERVICE_PORT": "8000",
    "DETECTCTL_SERVICE_PORT_HTTP": "8000",
    "DETECTCTL_PORT": "tcp://10.96.0.7:8000",
    "DETECTCTL_PORT_8000_TCP": "tcp://10.96.0.7:8000",
    "DETECTCTL_PORT_8000_TCP_PROTO": "tcp",
    "DETECTCTL_PORT_8000_TCP_PORT": "8000",
    "DETECTCTL_PORT_8000_TCP_ADDR": "10.96.0.7",
    "DETECTCTL_MODEL_SERVICE_HOST": "10.96.0.8",
    "DETECTCTL_MODEL_PORT": "udp://10.96.0.8:53",
}
"""Of the Services `detectctl` and `detectctl-model`, in every pod of their namespace."""


def test_what_kubernetes_says_of_its_services_is_nothing() -> None:
    """Neither an error nor a warning, and not the port to listen on; a number is."""
    assert Sources.read(KUBERNETES).warnings() == ()
    assert _up(environ=KUBERNETES).port == 8000
    assert _up(environ=KUBERNETES | {"DETECTCTL_PORT": "9000"}).port == 9000


def test_an_unknown_variable_is_a_warning_with_the_nearest_known_one() -> None:
    """Its value is not repeated: it may be a secret under a wrong name."""
    (prot, key) = Sources.read({"DETECTCTL_PROT": "1", "DETECTCTL_API_KEY": "geheim-123"}).warnings()[::-1]
    assert "unknown environment variable DETECTCTL_PROT: did you mean DETECTCTL_PORT?" in prot
    assert "DETECTCTL_API_KEY" in key
    assert "geheim" not in key
    assert _up(environ={"DETECTCTL_PROT": "1"}).port == 8000


def test_an_option_that_commands_mean_differently_has_a_variable_for_each() -> None:
    """`DETECTCTL_UP_TIMEOUT` for a slow start leaves the time per image alone."""
    environ = {"DETECTCTL_UP_TIMEOUT": "600", "DETECTCTL_DETECT_CONF": "0.9"}
    assert _up(environ=environ).timeout == 600
    assert _up(environ=environ).conf == Thresholds(0.25)
    assert _load(DetectSettings, environ=environ).timeout == 30
    assert _load(DetectSettings, environ=environ).conf == Thresholds(0.9)
    assert _load(AnnotateSettings, environ=environ).conf is None
    assert _load(DownSettings, environ=environ).timeout == 30
    assert Sources.read(environ).warnings() == ()


def test_a_variable_with_several_meanings_is_ignored_with_a_warning() -> None:
    """The warning names those that took its place."""
    environ = {"DETECTCTL_TIMEOUT": "600"}
    assert _up(environ=environ).timeout == 180
    (warning,) = Sources.read(environ).warnings()
    for command in ("UP", "DETECT", "ANNOTATE", "DOWN"):
        assert f"DETECTCTL_{command}_TIMEOUT" in warning


def test_the_old_variable_of_keys_is_refused_not_ignored() -> None:
    """To ignore it would start a service without the keys that it asked for."""
    environ = {"DETECTCTL_API_KEY_FILE": "/keys"}
    with pytest.raises(UsageError, match="DETECTCTL_API_KEY_FILE") as caught:
        _up(environ=environ)
    assert "DETECTCTL_UP_API_KEY_FILE" in str(caught.value.hint)
    assert _load(DownSettings, environ=environ).timeout == 30
    kept = _up(environ=environ | {"DETECTCTL_UP_API_KEY_FILE": "/new"}).api_key_file
    assert str(kept) == "/new"


def test_a_user_without_a_home_folder_has_no_file_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """`detect --url …` needs no home folder."""

    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr("pathlib.Path.home", nobody)
    assert Sources.read({}).file is None


def test_every_setting_is_listed_with_its_origin(tmp_path: Path) -> None:
    """Those of all commands; a password in a URL is hidden."""
    (tmp_path / "detectctl.toml").write_text(
        'retries = 2\n[detect]\nurl = "https://user:hunter2@hunter2@host.example"\n'
    )
    environ = {"HOME": "/nowhere", "DETECTCTL_ANNOTATE_CONF": "0.5", "DETECTCTL_DETECT_CONF": "0.4,person=0.25"}
    found = {(row.command, row.key): row for row in rows(Sources.read(environ), {"quiet": True})}
    assert (found["", "quiet"].value, found["", "quiet"].origin) == (True, "--quiet")
    assert found["annotate", "retries"].origin == "detectctl.toml: retries"
    assert found["annotate", "conf"].origin == "DETECTCTL_ANNOTATE_CONF"
    assert (found["up", "conf"].value, found["up", "conf"].origin) == (0.25, "default")
    assert (found["annotate", "conf"].value, found["detect", "conf"].value) == (0.5, "0.4,person=0.25")
    assert (found["up", "max-det"].value, found["detect", "agnostic-nms"].words) == (300, "the service's")
    assert found["detect", "url"].value == ("https://***@host.example",)
    assert found["up", "max-image-bytes"].words == "20MiB"
    assert "hunter2" not in str(found)
    kinds: list[type[Settings]] = [GlobalSettings, *COMMANDS.values()]
    declared = {(each.command, each.key) for kind in kinds for each in settings_of(kind)}
    assert found.keys() == declared
