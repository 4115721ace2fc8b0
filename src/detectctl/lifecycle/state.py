"""The state file: what was started and what is deployed, so that a later command can find it and stop it."""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detectctl.errors import NotReady, NotRunning
from detectctl.files import reason, remedy, write_atomically
from detectctl.hosts import places
from detectctl.hosts.cluster.place import ClusterPlace
from detectctl.hosts.dashboard import ServeApiError
from detectctl.hosts.local import ray_head
from detectctl.lifecycle.deployment import Deployment
from detectctl.lifecycle.elsewhere import require_here, this_machine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from detectctl.hosts.host import Host
    from detectctl.settings import PlacedSettings, UpSettings

SCHEMA = 3
"""Of the state file; another number when what was deployed is written in another way."""

UNKNOWN = "its state was written by another version of detectctl"
"""Why it is not known what an instance has deployed."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An update that failed, while what ran before went on serving.

    Attributes:
        model: the requested reference.
        digest: of its checkpoint, `sha256:…`; None if it was not obtained.
        at: seconds since the epoch.
    """

    model: str
    digest: str | None
    what: str
    why: str | None
    at: float


@dataclass(frozen=True, slots=True)
class InstanceState:
    """What is remembered of an instance.

    Attributes:
        place: what its host needs to find it again.
        created_at: seconds since the epoch.
        machine: the name of the one that `up` was called on; empty if that was not recorded.
        deployed: what was last handed to Serve; None before the first time, or if it is unknown.
        last_good: the last deployment that answered its warm-up; restored if a newer one fails.
        last_failure: why the last update failed, if it did.
        unknown: whether something is deployed that this version of detectctl cannot read.
    """

    name: str
    place: places.Place
    created_at: float
    machine: str = ""
    deployed: Deployment | None = None
    last_good: Deployment | None = None
    last_failure: Failure | None = None
    unknown: bool = False

    @classmethod
    def new(cls, settings: UpSettings, environ: Mapping[str, str]) -> InstanceState:
        """Of an instance that is to be started where the settings say; raises as `ray_head.plan`."""
        place = cluster_place(settings) or ray_head.plan(settings.host, settings.port, environ)
        return cls(settings.name, place, time.time(), this_machine())

    @property
    def api_key_file(self) -> Path | None:
        """The file of the keys that the deployed service accepts; None if it needs none."""
        file = self.deployed.config.api_key_file if self.deployed else None
        return Path(file) if file else None

    def open_host(self) -> Host:
        """Where it runs, or is to be started; a context manager."""
        return places.open_host(self.place)

    def to_json(self) -> dict[str, Any]:
        """All but the place."""
        data = asdict(self)
        del data["place"]
        return {"schema": SCHEMA, **data}

    @classmethod
    def from_json(cls, place: places.Place, data: dict[str, Any]) -> InstanceState:
        """The inverse of `to_json`; KeyError, TypeError or AttributeError on another shape.

        If another version of detectctl wrote it, what is deployed is not known: `up` then rolls to what this version
        deploys.
        """
        # Earlier versions did not say on which machine.
        state = cls(data["name"], place, data["created_at"], data.get("machine", ""), unknown=True)
        if data["schema"] != SCHEMA or data.get("unknown", False):
            return state
        with contextlib.suppress(KeyError, TypeError, AttributeError):  # another version, although it says the same
            return replace(
                state,
                deployed=None if data["deployed"] is None else Deployment.from_json(data["deployed"]),
                last_good=None if data["last_good"] is None else Deployment.from_json(data["last_good"]),
                last_failure=None if data["last_failure"] is None else Failure(**data["last_failure"]),
                unknown=False,
            )
        return state


def cluster_place(settings: PlacedSettings) -> ClusterPlace | None:
    """Where on a cluster the settings look for the instance; None if they name none."""
    if settings.address is None:
        return None
    token_file = settings.ray_token_file
    return ClusterPlace.of(settings.name, settings.address, None if token_file is None else str(token_file.absolute()))


class InstanceFolder:
    """One instance's folder under the state home; what it says is checked, never trusted.

    Args:
        place: where to look for the instance, whatever the folder says; None for where it says.
    """

    def __init__(self, state_home: Path, name: str, place: ClusterPlace | None = None) -> None:
        self.name = name
        self._place = place
        self.path = state_home / name
        self.state_file = self.path / "instance.json"
        # Read if the other is damaged: an instance must not be lost to a slip of an editor or a bad disk.
        self.state_copy = self.path / "instance.copy.json"
        self.alive_file = self.path / "alive"  # locked and touched by what runs; see `elsewhere`
        self.api_key_file = self.path / "api-key"  # made by `up --generate-api-key`; it stays, because its callers do
        self.failed_logs = self.path / "failed-logs"  # of the last start that failed

    @classmethod
    def named(cls, settings: PlacedSettings, state_home: Path) -> InstanceFolder:
        """That of the instance that the settings are about."""
        return cls(state_home, settings.name, cluster_place(settings))

    def create(self) -> None:
        """Make the folder, 0700; NotReady if that is not possible."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise NotReady(
                f"the folder {self.path} cannot be created",
                why=reason(error),
                hint=remedy(error, self.path.parent, "XDG_STATE_HOME"),
            ) from error

    def exists(self) -> bool:
        """Whether an instance of this name ever was; NotReady if that cannot be seen."""
        if self._place is not None:
            return True
        try:
            self.path.stat()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise _unreadable(f"the state of instance {self.name}", self.path, error) from error
        return True

    def read(self) -> InstanceState | None:
        """The state; None if there is no instance. A host that keeps it for everybody to read is believed first.

        Raises:
            NotReady: both the file and its copy are damaged; they are set aside, and the next call gives None. Or this
                user may not read them. Or a cluster does not answer of which nothing else is known.
            UsageError: the application of this name on the cluster is somebody else's.
        """
        noted = self.noted()
        place = self._place or (noted.place if noted is not None else None)
        if not isinstance(place, ClusterPlace):
            return noted
        if noted is not None and noted.place != place:
            noted = None  # another instance of this name
        with places.open_host(place) as host:
            try:
                told = host.recall()
            except ServeApiError as error:
                if noted is not None:
                    return noted
                raise NotReady(
                    f"the cluster at {place.address} does not answer",
                    why=str(error),
                    hint="check the address of its dashboard, such as http://head:8265, and its token",
                ) from error
        if told is not None:
            try:
                state = InstanceState.from_json(place, told)
            except (KeyError, TypeError, AttributeError) as error:
                raise NotReady(
                    f"what is deployed as {place.application} on {place.address} cannot be read",
                    why="another version of detectctl deployed it, or another program",
                    hint=f"use the version that deployed it; or choose another `--name` than {self.name}",
                ) from error
            if noted is not None and noted.last_good == state.last_good and state.last_failure is None:
                return replace(state, last_failure=noted.last_failure)  # of an update that did not come as far as there
            return state
        return noted if noted is not None and noted.deployed is None else None  # `up` may be about to deploy it

    def noted(self) -> InstanceState | None:
        """What the state file says."""
        for file in (self.state_file, self.state_copy):
            try:
                data = json.loads(file.read_text(errors="replace"))
                return InstanceState.from_json(places.from_json(data), data)
            except FileNotFoundError:
                if file == self.state_file:
                    return None
            except OSError as error:
                raise _unreadable(f"the state of instance {self.name}", self.path, error) from error
            except (ValueError, KeyError, TypeError, AttributeError):
                continue
        aside = self.path / f"instance.corrupt-{int(time.time())}.json"
        with contextlib.suppress(FileNotFoundError):
            self.state_file.replace(aside)
        raise NotReady(
            f"the state of instance {self.name} cannot be read",
            why=f"its file and the copy of it are damaged; the file was moved to {aside}",
            hint="run the command again; processes that the instance left behind must be found by hand",
        )

    def write(self, state: InstanceState) -> None:
        """Atomically: a reader sees the old state or the new one. NotReady if the folder cannot be written."""
        text = json.dumps({**places.to_json(state.place), **state.to_json()}, indent=1)
        try:
            for file in (self.state_copy, self.state_file):
                write_atomically(file, text, mode=0o600, durable=True)
        except OSError as error:
            raise NotReady(
                f"the state of instance {self.name} cannot be written",
                why=f"{reason(error)}: {self.path}",
                hint=remedy(error, self.path, "XDG_STATE_HOME"),
            ) from error

    def forget(self) -> None:
        """Remove the state; logs of a failed start stay, and so does what is known of an instance elsewhere."""
        noted = self.noted()
        if self._place is not None and noted is not None and noted.place != self._place:
            return
        for file in (self.state_file, self.state_copy, self.alive_file):
            file.unlink(missing_ok=True)


def not_running(name: str, why: str = "it was not started, or was taken down") -> NotRunning:
    """The error of every command that needs an instance which does not exist."""
    flag = "" if name == "default" else f" --name {name}"
    return NotRunning(f"instance {name} is not running", why=why, hint=f"start it: `detectctl up{flag}`")


def reach(state_home: Path, name: str) -> tuple[tuple[str, ...], Path | None]:
    """The endpoints where a client reaches the instance, first the one that stays, and the file of the keys it accepts.

    Raises:
        NotRunning: there is none, or its head is gone: what listens on its port now must not be sent its key.
        NotReady: it runs on another machine.
    """
    folder = InstanceFolder(state_home, name)
    state = folder.read()
    if state is None:
        raise not_running(name)
    require_here(folder, state)
    with state.open_host() as host:
        if not host.alive:
            raise not_running(name, why="its Ray head died, or never started")
        return host.endpoints, state.api_key_file


def all_states(state_home: Path) -> Iterator[InstanceState]:
    """The state of every instance, by name."""
    for name in names(state_home):
        state = InstanceFolder(state_home, name).read()
        if state is not None:
            yield state


def served_artifacts(settings: PlacedSettings, state_home: Path) -> dict[str, str]:
    """`ModelVersion.artifact` of what instances serve now → their names.

    They are those of this machine, and the one on the cluster that the settings name.
    """
    return _served(settings, state_home, lambda deployed: deployed.artifact)


def served_digests(settings: PlacedSettings, state_home: Path) -> dict[str, str]:
    """`ModelInfo.digest` of what instances serve now → their names, as `served_artifacts`."""
    return _served(settings, state_home, lambda deployed: deployed.config.model.digest)


def _served(settings: PlacedSettings, state_home: Path, by: Callable[[Deployment], str | None]) -> dict[str, str]:
    states = list(all_states(state_home))
    if settings.address is not None and (there := InstanceFolder.named(settings, state_home).read()):
        states.append(there)
    found: dict[str, dict[str, None]] = {}
    for state in states:
        if state.deployed and (key := by(state.deployed)):
            found.setdefault(key, {})[state.name] = None
    return {key: ", ".join(instances) for key, instances in found.items()}


def served_models(state_home: Path) -> set[str]:
    """SHA-256 of every checkpoint that an instance serves or may go back to; NotReady if that is not known."""
    found = set()
    for state in all_states(state_home):
        if state.unknown:
            raise NotReady(
                f"what instance {state.name} serves is not known",
                why=UNKNOWN,
                hint=f"run `detectctl up --name {state.name}` first",
            )
        deployments = filter(None, (state.deployed, state.last_good))
        found |= {one.config.model.digest.removeprefix("sha256:") for one in deployments}
    return found


def names(state_home: Path) -> list[str]:
    """The instances that have a state file, sorted; NotReady if that cannot be seen."""
    try:
        # Not by `glob`, which from Python 3.13 on finds nothing where it may not look.
        return sorted(folder.name for folder in state_home.iterdir() if (folder / "instance.json").exists())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _unreadable("the state of the instances", Path(error.filename or state_home), error) from error


def _unreadable(what: str, folder: Path, error: OSError) -> NotReady:
    return NotReady(
        f"{what} cannot be read",
        why=f"{reason(error)}: {folder}",
        hint=remedy(error, folder, "XDG_STATE_HOME"),
    )
