"""What an operator adds to Ray's runtime environment of replicas: read and checked before anything is sent."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from detectctl.errors import UsageError
from detectctl.files import reason

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ATTEMPT = "DETECTCTL_ATTEMPT"
"""A variable for nobody to read: what differs in it is another environment to Ray."""
DRAIN = "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S"
PYTHON = "py_executable"
BUILT = ("conda", "pip", "uv")
"""What a node takes minutes to prepare."""
_KNOWN = (*BUILT, "config", "env_vars", PYTHON, "py_modules", "working_dir")
_WHY_NOT = {
    "container": "Ray does not combine it with packages, by which code and model come to a node",
    "image_uri": "Ray does not combine it with packages, by which code and model come to a node",
}


def read(file: Path | None, node_python: str | None) -> dict[str, Any]:
    """The runtime environment in a file, YAML or JSON, with this Python for replicas; empty if there is neither.

    Raises:
        UsageError: the file cannot be read, or has what Ray cannot find on the nodes, or what detectctl sets itself.
    """
    environment = {} if file is None else _checked(file, _loaded(file))
    if node_python is None:
        return environment
    if other := [key for key in (PYTHON, *BUILT) if key in environment]:
        raise _wrong(file, f"{other[0]} says which Python replicas run on, and so does --node-python", "leave one out")
    return {**environment, PYTHON: shlex.quote(node_python)}


def _loaded(file: Path) -> Any:
    import yaml

    try:
        return yaml.safe_load(file.read_text())
    except OSError as error:
        raise _wrong(file, reason(error), "name a readable file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise _wrong(file, f"it is not YAML: {' '.join(str(error).split())}", "correct it") from error


def _checked(file: Path, environment: Any) -> dict[str, Any]:
    if not isinstance(environment, dict):
        raise _wrong(file, "it has no keys", f"give it some of {', '.join(sorted(_KNOWN))}")
    for key in environment:
        if key not in _KNOWN:
            why = _WHY_NOT.get(key, "detectctl passes on no such key")
            raise _wrong(file, f"{key} is not possible: {why}", f"use only {', '.join(sorted(_KNOWN))}")
    if len(several := [key for key in (PYTHON, *BUILT) if key in environment]) > 1:
        raise _wrong(file, f"{' and '.join(several)} exclude each other", "leave all but one out")
    variables, modules = environment.get("env_vars", {}), environment.get("py_modules", [])
    if not isinstance(variables, dict) or not all(isinstance(text, str) for pair in variables.items() for text in pair):
        raise _wrong(file, "env_vars is not a table of strings", "put numbers and truth values in quotes")
    if not isinstance(modules, list):
        raise _wrong(file, "py_modules is not a list", "give it as one, of URIs")
    if own := sorted({ATTEMPT, DRAIN} & set(variables)):
        raise _wrong(file, f"detectctl sets the variable {own[0]} itself", "leave it out")
    for path in _local(environment):
        raise _wrong(file, f"{path} is on this machine's disk, of which nodes see nothing", "give a URI or its content")
    return environment


def _local(environment: dict[str, Any]) -> Iterator[str]:
    """What it names that Ray would look for on the disk of whoever deploys."""
    folders = [*environment.get("py_modules", ()), environment.get("working_dir", "://")]
    yield from (str(folder) for folder in folders if "://" not in str(folder))
    for key in BUILT:  # conda may be the name of an environment on the nodes
        named = environment.get(key)
        if isinstance(named, str) and (key != "conda" or named.endswith((".yml", ".yaml"))):
            yield named


def _wrong(file: Path | None, why: str, hint: str) -> UsageError:
    return UsageError(f"--runtime-env {file} cannot be used", why=why, hint=f"{hint}, and run `detectctl up` again")


def of_replicas(theirs: dict[str, Any]) -> dict[str, Any]:
    """In a job of ours: its own environment, with what an operator adds; our packages come first on Python's path."""
    import ray

    ours: dict[str, Any] = dict(ray.get_runtime_context().runtime_env)
    modules = [*ours.get("py_modules", ()), *theirs.get("py_modules", ())]
    variables = {**ours.get("env_vars", {}), **theirs.get("env_vars", {})}
    return {**ours, **theirs, "py_modules": modules, "env_vars": variables}
