"""The state file: what was started and what is deployed, so that a later command can find and end it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from detectctl.errors import NotReady, NotRunning
from detectctl.processes import Process

SCHEMA = 2
"""Of the state file; another number when what was deployed is written in another way."""

# Enough to find an instance, to roll it to what this version deploys, and to end it. These keep their meaning for ever.
_OF_EVERY_SCHEMA = ("name", "instance_id", "head", "temp_dir", "dashboard_url", "host", "port", "created_at")
_OF_THIS_SCHEMA = ("deployed", "last_good", "last_failure")
_BY_IMPORTANCE = ("schema", *_OF_EVERY_SCHEMA, *_OF_THIS_SCHEMA)  # a file that was cut lost the least

UNKNOWN = "its state was written by another version of detectctl, or was damaged"
"""Why it is not known what an instance has deployed."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An update that failed, while what ran before went on serving.

    Attributes:
        model: what was asked for.
        digest: of its checkpoint, `sha256:…`; None if it was not got so far.
        what: what failed.
        why: the cause.
        at: seconds since the epoch.
    """

    model: str
    digest: str | None
    what: str
    why: str | None
    at: float


@dataclass(frozen=True, slots=True)
class InstanceState:
    """What an instance is made of.

    Attributes:
        name: the instance's name.
        instance_id: random; every process of the instance carries it in its environment.
        head: the Ray head's process; None until it has been started.
        temp_dir: Ray's folder for sockets and logs; ours alone, 0700.
        dashboard_url: where Serve's REST interface listens, on loopback.
        host: the address the service listens at.
        port: the port the service listens at.
        deployed: what was last PUT to Serve; `Deployment.to_json`. None before the first time; empty if it is
            not known, see `InstanceFolder.read`.
        last_good: the last deployment that answered its warm-up; put back if a newer one fails.
        last_failure: what became of the last update if it failed.
        created_at: seconds since the epoch.
    """

    name: str
    instance_id: str
    head: Process | None
    temp_dir: Path
    dashboard_url: str
    host: str
    port: int
    deployed: dict[str, Any] | None
    last_good: dict[str, Any] | None
    last_failure: Failure | None
    created_at: float

    @property
    def endpoint(self) -> str:
        """Where a client on this machine reaches the service."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104 - read, not bound
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    @property
    def token_file(self) -> Path:
        """Ray's authentication token, 0600."""
        return self.temp_dir / "token"

    @property
    def api_key_file(self) -> Path | None:
        """Where the keys are that the deployed service asks for; None if it asks for none."""
        file = ((self.deployed or {}).get("config") or {}).get("api_key_file")
        return Path(file) if file else None

    @property
    def alive(self) -> bool:
        """Whether the head we started still runs."""
        return self.head is not None and self.head.find() is not None


class InstanceFolder:
    """One instance's folder under the state home; what it says is noticed, never trusted."""

    def __init__(self, state_home: Path, name: str) -> None:
        self.name = name
        self.path = state_home / name

    @property
    def state_file(self) -> Path:
        """JSON, 0600."""
        return self.path / "instance.json"

    @property
    def api_key_file(self) -> Path:
        """The key that `up --generate-api-key` made, 0600; it stays, because its callers do."""
        return self.path / "api-key"

    @property
    def failed_logs(self) -> Path:
        """The logs of the last start that failed."""
        return self.path / "failed-logs"

    def create(self) -> None:
        """Make the folder, 0700; NotReady if that is not possible."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise NotReady(f"the folder {self.path} cannot be made", why=error.strerror) from error

    def read(self) -> InstanceState | None:
        """The state, or None.

        A file that cannot be understood is set aside under another name, and what can still be read of it is given:
        all; or what every version knows; or how to find the instance's processes, as an instance that was never
        finished, which `up` and `down` clean away. Where what is deployed is not known, because of this or because
        another version of detectctl wrote it, `up` rolls to what this version deploys.

        Raises:
            NotReady: the file was damaged beyond that; the next call gives None.
        """
        try:
            text = self.state_file.read_text(errors="replace")
        except FileNotFoundError:
            return None
        try:
            return _parse(json.loads(text))
        except (ValueError, KeyError, TypeError, AttributeError):
            aside = self.path / f"instance.corrupt-{int(time.time())}.json"
            with contextlib.suppress(FileNotFoundError):
                self.state_file.replace(aside)
            if (salvaged := _salvaged(self.name, text)) is not None:
                self.write(salvaged)
                return salvaged
            raise NotReady(
                f"the state of instance {self.name} cannot be read",
                why=f"its file is damaged, and was moved to {aside}",
                hint="run the command again; what the instance had running has to be found by hand",
            ) from None

    def write(self, state: InstanceState) -> None:
        """Atomically: a reader sees the old state or the new one.

        Raises:
            NotReady: the disk is full, or the folder is not ours to write.
        """
        data = {**asdict(state), "temp_dir": str(state.temp_dir), "schema": SCHEMA}
        data = {key: data[key] for key in _BY_IMPORTANCE}
        temporary = self.path / f".instance-{secrets.token_hex(4)}.json"
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                json.dump(data, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.state_file)
        except OSError as error:
            raise NotReady(
                f"the state of instance {self.name} cannot be written",
                why=f"{error.strerror}: {self.path}",
                hint="free some space there, then run this command again",
            ) from error
        finally:
            temporary.unlink(missing_ok=True)

    def forget(self) -> None:
        """Remove the state; logs of a failed start stay."""
        self.state_file.unlink(missing_ok=True)


def _parse(data: dict[str, Any]) -> InstanceState:
    known: dict[str, Any] = {key: data[key] for key in _OF_EVERY_SCHEMA}
    if data["schema"] == SCHEMA:
        known |= {key: data[key] for key in _OF_THIS_SCHEMA}
    else:
        known |= {"deployed": {}, "last_good": None, "last_failure": None}
    known["head"] = None if known["head"] is None else Process(**known["head"])
    known["last_failure"] = None if known["last_failure"] is None else Failure(**known["last_failure"])
    known["temp_dir"] = Path(known["temp_dir"])
    return InstanceState(**known)


def _salvaged(name: str, text: str) -> InstanceState | None:
    """What a damaged state file still tells of its instance; None if not even how to find its processes."""
    found: dict[str, Any] = {"schema": None}
    for key in _BY_IMPORTANCE:
        at = re.search(rf'^ "{key}": ', text, re.MULTILINE)  # outermost, by its indent
        if at is not None:
            with contextlib.suppress(ValueError):
                found[key] = json.JSONDecoder().raw_decode(text, at.end())[0]
    if not found.keys() >= {*_OF_THIS_SCHEMA}:
        found["schema"] = None
    with contextlib.suppress(KeyError, TypeError, AttributeError):
        return _parse(found | {"name": name})
    mark = re.search(r'"instance_id": "([0-9a-f]{16})"', text)
    folder = re.search(r'"temp_dir": "(/[^"\\]*/dctl-[0-9a-f]{8})"', text)
    if mark is None or folder is None:
        return None
    return InstanceState(
        name=name,
        instance_id=mark[1],
        head=None,
        temp_dir=Path(folder[1]),
        dashboard_url="",
        host="127.0.0.1",
        port=0,
        deployed=None,
        last_good=None,
        last_failure=None,
        created_at=time.time(),
    )


def not_running(name: str, why: str | None = None) -> NotRunning:
    """The error of every command that needs an instance which is not there."""
    flag = "" if name == "default" else f" --name {name}"
    return NotRunning(f"no instance {name} is running", why=why, hint=f"detectctl up{flag}")


def reach(state_home: Path, name: str) -> tuple[str, Path | None]:
    """Where a client reaches the instance, and the file of the keys that it asks for.

    Raises:
        NotRunning: there is none, or its head is gone; whoever listens at its port now must not be sent its key.
    """
    state = InstanceFolder(state_home, name).read()
    if state is None:
        raise not_running(name)
    if not state.alive:
        raise not_running(name, why="its Ray head died, or never started")
    return state.endpoint, state.api_key_file


def served_artifacts(state_home: Path) -> dict[str, str]:
    """`ModelVersion.artifact` of what instances serve now → the instances' names."""
    found: dict[str, set[str]] = {}
    for name in names(state_home):
        state = InstanceFolder(state_home, name).read()
        artifact = (state.deployed or {}).get("artifact") if state is not None else None
        if artifact is not None:
            found.setdefault(artifact, set()).add(name)
    return {artifact: ", ".join(sorted(instances)) for artifact, instances in found.items()}


def served_models(state_home: Path) -> dict[str, str]:
    """Sha256 of every checkpoint that an instance serves or may go back to → the instances' names."""
    found: dict[str, set[str]] = {}
    for name in names(state_home):
        state = InstanceFolder(state_home, name).read()
        if state is not None and state.deployed == {}:
            raise NotReady(
                f"what instance {name} serves is not known",
                why=UNKNOWN,
                hint=f"detectctl up --name {name} first",
            )
        for deployment in (state.deployed, state.last_good) if state is not None else ():
            if deployment:
                digest = deployment["config"]["model"]["digest"].removeprefix("sha256:")
                found.setdefault(digest, set()).add(name)
    return {digest: ", ".join(sorted(instances)) for digest, instances in found.items()}


def names(state_home: Path) -> list[str]:
    """The instances that have a state file, by name."""
    return sorted(path.parent.name for path in state_home.glob("*/instance.json"))
