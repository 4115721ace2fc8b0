"""Who may ask a service: what `up` refuses, and the key it makes."""

from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from detectctl.errors import UsageError
from detectctl.keys import read_keys
from detectctl.lifecycle import exposure
from detectctl.lifecycle.state import InstanceFolder
from detectctl.progress import silent
from detectctl.settings import UpSettings
from lifecycle_values import DEPLOYMENT, STATE

if TYPE_CHECKING:
    from detectctl.progress import Progress, Report


def check(host: str, **given: Any) -> None:
    exposure.check(UpSettings(host=host, **given))


def exposed(folder: InstanceFolder, report: Report = silent, **given: Any) -> Any:
    return exposure.prepared(UpSettings(**given), folder, report)


@pytest.mark.parametrize(
    "where",
    [
        *({"host": host} for host in ("0.0.0.0", "::", "192.0.2.2", "10.1.2.3")),  # noqa: S104 - nothing binds here
        {"host": "127.0.0.1", "address": "http://head:8265"},
    ],
    ids=str,
)
def test_a_service_that_others_reach_needs_a_word_about_keys(where: dict[str, str]) -> None:
    """The error names the three ways out, and is one of usage."""
    with pytest.raises(UsageError) as caught:
        check(**where)
    assert caught.value.exit_code == 2
    for option in ("--api-key-file", "--generate-api-key", "--no-auth"):
        assert option in str(caught.value.hint)


@pytest.mark.parametrize(
    "wanted", [{"no_auth": True}, {"generate_api_key": True}, {"api_key_file": Path("keys")}], ids=str
)
def test_any_of_the_three_will_do(wanted: dict[str, Any]) -> None:
    check("0.0.0.0", **wanted)  # noqa: S104 - nothing binds here


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_needs_none(host: str) -> None:
    check(host)


def test_two_of_the_three_exclude_each_other() -> None:
    with pytest.raises(UsageError, match="--generate-api-key and --no-auth"):
        check("127.0.0.1", generate_api_key=True, no_auth=True)


@pytest.mark.parametrize("no_auth", [True, False])
def test_a_host_that_does_not_exist_is_said(no_auth: bool) -> None:
    with pytest.raises(UsageError, match="cannot be resolved"):
        check("nowhere.invalid", no_auth=no_auth)


@pytest.fixture
def folder(tmp_path: Path) -> InstanceFolder:
    made = InstanceFolder(tmp_path, "default")
    made.create()
    return made


def test_a_made_key_is_shown_once_and_stays(folder: InstanceFolder) -> None:
    """The second `up` uses the first one's key and does not show it again; `repr` never does."""
    with exposed(folder, generate_api_key=True) as first:
        assert first.new_key is not None
        assert first.key == first.new_key
        assert first.new_key not in repr(first)
    assert stat.S_IMODE(folder.api_key_file.stat().st_mode) == 0o600
    with exposed(folder, generate_api_key=True) as second:
        assert second.new_key is None
        assert second.key == first.new_key


def test_a_failed_start_leaves_no_key_that_nobody_saw(folder: InstanceFolder) -> None:
    """It was never shown, so it would lock its owner out; one of before stays."""

    class Failure(Exception):
        pass

    with pytest.raises(Failure), exposed(folder, generate_api_key=True):
        raise Failure
    assert not folder.api_key_file.exists()
    with exposed(folder, generate_api_key=True) as access:
        pass
    with pytest.raises(Failure), exposed(folder, generate_api_key=True):
        raise Failure
    assert read_keys(folder.api_key_file) == (access.new_key,)


def test_a_key_that_replicas_have_by_now_stays(folder: InstanceFolder) -> None:
    """Whatever fails after the rollout: without the file nobody could ask the service any more."""
    config = replace(DEPLOYMENT.config, api_key_file=str(folder.api_key_file.absolute()))
    deployed = replace(DEPLOYMENT, config=config)
    with pytest.raises(KeyboardInterrupt), exposed(folder, generate_api_key=True):  # noqa: PT012 - it is written meanwhile
        folder.write(replace(STATE, deployed=deployed))
        raise KeyboardInterrupt
    assert folder.api_key_file.exists()


def test_a_key_file_is_checked_before_anything_starts(
    folder: InstanceFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It must hold a key; others' reading it is warned of; its path is made absolute, replicas live elsewhere."""
    monkeypatch.chdir(tmp_path)
    said: list[Progress] = []
    with pytest.raises(UsageError), exposed(folder, api_key_file=Path("keys"), report=said.append):
        pass
    Path("keys").write_text("key-0123456789\n")
    Path("keys").chmod(0o644)
    with exposed(folder, api_key_file=Path("keys"), report=said.append) as access:
        assert access.key_file == tmp_path / "keys"
    assert [one.warning for one in said] == [True]
    assert "key-0123456789" not in said[0].message
    Path("keys").chmod(0o600)
    with exposed(folder, api_key_file=Path("keys"), report=said.append):
        pass
    assert len(said) == 1
