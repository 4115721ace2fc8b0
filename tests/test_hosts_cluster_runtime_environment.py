"""What an operator's runtime environment may have; that replicas get it is shown in tests/cluster."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import pytest
from ray.exceptions import GetTimeoutError, RuntimeEnvSetupError, WorkerCrashedError

from detectctl.errors import UsageError
from detectctl.hosts.cluster.probe import look_at_python, trouble
from detectctl.hosts.cluster.runtime_environment import read
from detectctl.lifecycle.deployment import plan
from detectctl.settings import UpSettings
from lifecycle_values import COMPILED, MODEL

if TYPE_CHECKING:
    from pathlib import Path

    from detectctl.lifecycle.deployment import Deployment

GIVEN = {
    "working_dir": "https://example.org/work.zip",
    "py_modules": ["s3://bucket/mine.zip"],
    "env_vars": {"LD_PRELOAD": "libjemalloc.so"},
    "config": {"setup_timeout_seconds": 300},
}
PIP_SAID = """
Command '['python', '-m', 'pip']' returned non-zero exit status 1.
    WARNING: Retrying after connection broken by 'NewConnectionError('<pip.Connection object at 0x7f>: no name')': /six/
    ERROR: Could not find a version that satisfies the requirement six (from versions: none)
    ERROR: No matching distribution found for six
"""


def _file(folder: Path, given: object) -> Path:
    file = folder / "environment.yaml"
    file.write_text(given if isinstance(given, str) else json.dumps(given))
    return file


def test_what_is_in_the_file_is_passed_on_and_another_one_is_another_deployment(tmp_path: Path) -> None:
    """A Python beside it, whose path no shell takes apart."""
    file = _file(tmp_path, GIVEN)

    def planned_with(environment: dict[str, Any]) -> Deployment:
        return plan(UpSettings(), MODEL, COMPILED, "cpu", None, remote=True, environment=environment)

    without, planned = planned_with({}), planned_with(read(file, "/opt/my env/python"))
    expected = {**GIVEN, "py_executable": "'/opt/my env/python'"}
    assert planned.application()["deployments"][0]["ray_actor_options"]["runtime_env"] == expected
    assert "runtime_env" not in without.application()["deployments"][0]["ray_actor_options"]
    assert planned.fingerprint != without.fingerprint
    file.write_text("env_vars: {LD_PRELOAD: other.so}\n")
    assert planned_with(read(file, None)).fingerprint != planned.fingerprint
    assert read(_file(tmp_path, {"conda": "named", "env_vars": {}}), None) == {"conda": "named", "env_vars": {}}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("[1, 2", "not YAML"),
        ("", "no keys"),
        ({"pip_packages": []}, "pip_packages is not possible"),
        ({"image_uri": "x/y:z"}, "does not combine"),
        ({"working_dir": "./here"}, "./here is on this machine's disk"),
        ({"py_modules": ["/srv/mine"]}, "/srv/mine is on this machine's disk"),
        ({"py_modules": "s3://bucket/mine.zip"}, "not a list"),
        ({"pip": "requirements.txt"}, "requirements.txt is on this machine's disk"),
        ({"conda": "environment.yml"}, "environment.yml is on this machine's disk"),
        ({"pip": ["six"], "py_executable": "/opt/python"}, "py_executable and pip exclude each other"),
        ({"env_vars": {"THREADS": 2}}, "not a table of strings"),
        ({"env_vars": {"DETECTCTL_ATTEMPT": "1"}}, "sets the variable DETECTCTL_ATTEMPT itself"),
        ({"env_vars": {"RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "9"}}, "itself"),
    ],
)
def test_what_ray_would_misunderstand_or_detectctl_sets_is_refused(tmp_path: Path, given: Any, words: str) -> None:
    """Before anything is sent."""
    with pytest.raises(UsageError) as refused:
        read(_file(tmp_path, given), None)
    assert words in refused.value.what_and_why


@pytest.mark.parametrize("given", [{"py_executable": "/opt/python"}, {"pip": ["six"]}, {"conda": "named"}])
def test_only_one_can_say_which_python_replicas_run_on(tmp_path: Path, given: Any) -> None:
    """Also where there is no such file, that is an error."""
    with pytest.raises(UsageError, match="cannot be used") as refused:
        read(_file(tmp_path, given), "/opt/python")
    assert "--node-python" in refused.value.what_and_why
    with pytest.raises(UsageError, match="cannot be used"):
        read(tmp_path / "none", None)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (sys.executable, ""),
        ("/nowhere/python", "No such file or directory"),
        (f"{sys.executable} -S -I", "No package metadata was found for ray"),
        ("echo 3.4.0 1.0 #", "Python 3.4.0 with Ray 1.0, and must be Python "),
    ],
)
def test_a_python_is_looked_at_before_ray_starts_it(command: str, said: str) -> None:
    """One that is not there, or not as Ray's own, would hold Ray up on that node."""
    seen = look_at_python(command)
    assert said in seen.trouble
    assert bool(said) == bool(seen.words)


@pytest.mark.parametrize(
    ("error", "environment", "words"),
    [
        (GetTimeoutError("late"), {}, "it does not answer, although Ray has not missed it yet"),
        (GetTimeoutError("late"), {"pip": ["six"]}, "pip has not finished its environment in time; `--timeout` allows"),
        (RuntimeEnvSetupError("Traceback\n  S3 has no such file\n"), {}, "its environment: S3 has no such file"),
        (RuntimeEnvSetupError(PIP_SAID), {"pip": ["six"]}, "for six; 'NewConnectionError('no name')': /six/"),
        (WorkerCrashedError(), {}, "WorkerCrashedError: "),
    ],
)
def test_a_node_that_cannot_be_looked_at_says_why(error: Exception, environment: dict[str, Any], words: str) -> None:
    """In Ray's words and those of what it ran, and what to do where Ray says nothing."""
    assert words in trouble(error, environment)
