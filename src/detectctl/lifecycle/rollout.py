"""A deployment handed to Serve, until it answers; one that fails is taken back."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from detectctl.client.service_client import Client
from detectctl.errors import DetectctlError, ModelError, NotReady
from detectctl.hosts.dashboard import NothingChanged, ServeApiError
from detectctl.hosts.serve_rest import ServeStatus
from detectctl.lifecycle.state import Failure, InstanceFolder, InstanceState
from detectctl.progress import Progress, Report, silent
from detectctl.signals import uninterrupted
from detectctl.waiting import Deadline, NotYet, until

if TYPE_CHECKING:
    from detectctl.hosts.host import Host
    from detectctl.lifecycle.deployment import Deployment

_ANSWER_S = 5.0
# The old replicas never stopped, so Serve only has to notice that.
_RESTORE_S = 20.0


class Superseded(Exception):
    """Somebody on another machine, whom no lock of ours holds up, deployed something else."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """Changes what one instance serves; used under the instance's lock. `deadline`: for what is new to answer."""

    host: Host
    folder: InstanceFolder
    deadline: Deadline
    report: Report

    def start(self, state: InstanceState, deployment: Deployment, running: int = 0) -> InstanceState:
        """Deploy, and return the new state when the service answers with it. `running`: replicas that it has.

        Raises:
            ModelError: the replicas could not load it.
            NotReady: Serve did not accept it, the deadline passed, or the state could not be written.
        """
        self.report(Progress("deploy", "handing the application to Serve"))
        state = replace(state, deployed=deployment, unknown=False)
        self.folder.write(state)
        try:
            # If this fails, too, that is noted by whoever takes it back.
            told = replace(state, last_failure=None).to_json()
            self.host.deploy(deployment.application(running), told, self.deadline)
        except NothingChanged as error:
            raise NotReady(
                "the cluster cannot take the application",
                why=str(error),
                hint="`detectctl doctor` with this `--address` tells more",
            ) from error
        except ServeApiError as error:
            raise NotReady(
                "Serve did not accept the application", why=str(error), hint="`detectctl logs` may show more"
            ) from error
        return self._settle(state, deployment)

    def change(self, state: InstanceState, deployment: Deployment) -> tuple[str, InstanceState]:
        """Replace what is served; `updated`, or `unchanged` if this is served already.

        Raises as `start`; what was served before goes on serving.
        """
        try:
            running = self.host.status()
        except ServeApiError as error:
            raise NotReady(
                f"the Ray head of instance {self.folder.name} does not answer",
                why=str(error),
                hint=f"run `detectctl down --force --name {self.folder.name}`, then `detectctl up` again",
            ) from error
        # What failed is tried again: its cause may have been fixed. Anything else is on its way, if not there already.
        # So is what an earlier failure was noted about, where that note is kept with the application.
        noted = self.host.remote and state.last_failure is not None
        same = running.fingerprint == deployment.fingerprint and running.application in {"RUNNING", "DEPLOYING"}
        if same and not noted:
            state = replace(state, deployed=deployment, unknown=False)
            if scaled_to_zero(state, running):  # a request would wake it
                return "unchanged", self._mark_good(state)
            return "unchanged", replace(self, report=silent)._settle(state, deployment)
        try:
            updated = self.start(state, deployment, running.target_replicas)
        except DetectctlError as error:
            if isinstance(error.__cause__, Superseded):  # what runs is theirs
                raise
            with uninterrupted():
                model = deployment.config.model
                failed = note_failure(state, model.reference, error, digest=model.digest)
                restored = isinstance(error.__cause__, NothingChanged)
                if restored:
                    self.folder.write(failed)
                else:
                    restored = self.restore_last_good(failed)
            raise _as_failed_update(error, state, restored=restored) from error
        except BaseException:  # Ctrl-C: leave things as they were
            with uninterrupted():
                self.restore_last_good(state)
            raise
        self.host.note_update("done")
        return "updated", updated

    def _settle(self, state: InstanceState, deployment: Deployment) -> InstanceState:
        """Wait until the instance answers with `deployment`, which then is its last good one."""
        self._wait_running(deployment, self.deadline)
        self.report(Progress("warm up", f"waiting for {self.host.endpoint}/readyz"))
        self._wait_answer(deployment.fingerprint)
        self.report(Progress("warm up", "answered", done=True))
        return self._mark_good(state)

    def _mark_good(self, state: InstanceState) -> InstanceState:
        good = replace(state, last_good=state.deployed, last_failure=None)
        if good != self.folder.read():
            self.folder.write(good)
        return good

    def restore_last_good(self, state: InstanceState) -> bool:
        """Declare the last good deployment again, so that Serve does not retry a bad one when it restarts.

        Never raises a DetectctlError: the caller is already handling one. Returns whether it serves.
        """
        good = state.last_good
        if good is not None:
            self.report(Progress("deploy", f"going back to {good.config.model.name}", warning=True))
        restored = self._restore(state, good)
        if good is not None:
            self.host.note_update("went_back" if restored else "failed")
        return restored

    def _restore(self, state: InstanceState, good: Deployment | None) -> bool:
        with contextlib.suppress(ServeApiError, DetectctlError):
            with uninterrupted():
                # First, for a command that is killed in the middle of this: Serve can be asked what it has, the file
                # cannot.
                state = replace(state, deployed=good or state.deployed)
                with contextlib.suppress(NotReady):
                    self.folder.write(state)
                if good is None:
                    return False
                self.host.deploy(good.application(self.host.status().target_replicas), state.to_json())
            self._wait_running(good, max(self.deadline, Deadline.after(_RESTORE_S)))
            return True
        return False

    def _wait_running(self, deployment: Deployment, deadline: Deadline) -> None:
        """Return when Serve reports RUNNING of exactly this deployment."""
        reported, arrived = "", False

        def running() -> ServeStatus | NotYet:
            nonlocal reported, arrived
            try:
                status = self.host.status(deadline)
            except ServeApiError as error:
                self.host.require_running("deploying")
                status = ServeStatus(application="no answer", message=str(error))
            if arrived and status.fingerprint not in {"", deployment.fingerprint}:
                raise NotReady(
                    f"another command has changed instance {self.folder.name} meanwhile",
                    why="what it deployed has replaced this",
                    hint="see what runs now: `detectctl status`",
                ) from Superseded()
            if status.fingerprint == deployment.fingerprint:
                arrived = True
                if status.application == "RUNNING":
                    return status
                if status.application == "DEPLOY_FAILED":
                    raise ModelError("the replicas could not start", why=status.reason, hint="run `detectctl logs`")
            if str(status) != reported:
                reported = str(status)
                self.report(Progress("deploy", reported))
            return NotYet(f"{status}; {status.reason}")

        ready = until(running, deadline, "the service was not ready in time").ready
        self.report(Progress("deploy", f"{ready} replica{'' if ready == 1 else 's'} ready", done=True))

    def _wait_answer(self, fingerprint: str) -> None:
        """Return when a replica of this deployment says that it is ready."""
        with Client(self.host.endpoint, timeout_s=_ANSWER_S) as client:

            def ready() -> str | NotYet:
                try:
                    answered = client.deployment()
                except DetectctlError as error:
                    self.host.require_running("warming up")
                    return NotYet(error.what_and_why)
                return answered if answered == fingerprint else NotYet(f"an answer of deployment {answered}")

            until(ready, self.deadline, f"{self.host.endpoint} did not answer in time")


def scaled_to_zero(state: InstanceState, served: ServeStatus) -> bool:
    """Whether it serves its last good deployment with no replica, and wakes at the next request."""
    return (
        state.last_good is not None
        and served.fingerprint == state.last_good.fingerprint
        and served.application == "RUNNING"
        and served.target_replicas == 0
    )


def note_failure(state: InstanceState, model: str, error: DetectctlError, *, digest: str | None) -> InstanceState:
    """The state of an instance that goes on serving although an update to `model` failed."""
    return replace(state, last_failure=Failure(model, digest, error.what, error.why, time.time()))


def _as_failed_update(error: DetectctlError, state: InstanceState, *, restored: bool) -> DetectctlError:
    if state.last_good is None:
        return error
    kind = type(error) if isinstance(error, (ModelError, NotReady)) else ModelError
    hint = "what ran before may not serve either: check `detectctl status` and `detectctl logs`"
    if restored:
        hint = "what ran before goes on serving; `detectctl logs` shows more"
    return kind(f"the update failed: {error.what}", why=error.why, hint=hint)
