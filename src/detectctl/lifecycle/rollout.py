"""A deployment handed to Serve, until it answers; one that fails is taken back."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, replace

import httpx

from detectctl.errors import DeadlineExceeded, DetectctlError, ModelError, NotReady
from detectctl.hosts.local import ray_head
from detectctl.hosts.serve_rest import ServeApi, ServeApiError, ServeStatus
from detectctl.lifecycle.deployment import Deployment
from detectctl.lifecycle.state import Failure, InstanceFolder, InstanceState
from detectctl.progress import Progress, Report
from detectctl.signals import uninterrupted

_POLL_S = 0.1
# The old replicas never stopped: Serve only has to take note of that.
_PUT_BACK_S = 20.0


@dataclass(frozen=True, slots=True)
class Rollout:
    """Changes what one instance serves; used under the instance's lock.

    Attributes:
        api: of its head.
        folder: where its state is written.
        deadline: monotonic seconds.
        report: told what goes on.
    """

    api: ServeApi
    folder: InstanceFolder
    deadline: float
    report: Report

    def start(self, state: InstanceState, deployment: Deployment, running: int = 0) -> InstanceState:
        """Deploy, and return when the service answers with it.

        Args:
            state: of the instance.
            deployment: what it is to serve.
            running: replicas that it has.

        Raises:
            ModelError: the replicas could not load it.
            NotReady: Serve did not take it, the deadline passed, or the state could not be written.
        """
        self.report(Progress("deploy", "handing the application to Serve"))
        state = replace(state, deployed=deployment.to_json())
        self.folder.write(state)
        try:
            self.api.put(deployment.serve_config(state.host, state.port, running))
        except ServeApiError as error:
            raise NotReady("Serve did not take the application", why=str(error)) from error
        return self._settled(state, deployment)

    def change(self, state: InstanceState, deployment: Deployment) -> tuple[str, InstanceState]:
        """Replace what is served; `updated`, or `unchanged` if this is served already.

        Raises:
            DetectctlError: as `start` does; what was served before goes on serving.
        """
        running = self._status()
        # What failed is tried again: the cause may be mended. Anything else is on its way, if not there.
        if running.fingerprint == deployment.fingerprint and running.application in {"RUNNING", "DEPLOYING"}:
            state = replace(state, deployed=deployment.to_json())
            if asleep(state, running):  # a question would wake it
                return "unchanged", self._noted(state)
            silent = replace(self, report=lambda _: None)
            return "unchanged", silent._settled(state, deployment)
        try:
            return "updated", self.start(state, deployment, running.target_replicas)
        except DetectctlError as error:
            with uninterrupted():
                asked = deployment.config
                back = self.put_back(note_failure(state, asked.model.reference, error, digest=asked.model.digest))
            raise _as_failed_update(error, state, back=back) from error
        except BaseException:  # Ctrl-C is a wish to leave things as they were
            with uninterrupted():
                self.put_back(state)
            raise

    def _status(self) -> ServeStatus:
        try:
            return self.api.status()
        except ServeApiError as error:
            raise NotReady(
                f"the Ray head of instance {self.folder.name} does not answer",
                why=str(error),
                hint=f"detectctl down --force --name {self.folder.name}, then up again",
            ) from error

    def _settled(self, state: InstanceState, deployment: Deployment) -> InstanceState:
        """The state of an instance that answers with `deployment`, and never again goes back behind it."""
        self._wait_running(state, deployment, self.deadline)
        self.report(Progress("warm up", f"waiting for {state.endpoint}/readyz"))
        self._wait_answer(state, deployment.fingerprint)
        self.report(Progress("warm up", "answered", done=True))
        return self._noted(state)

    def _noted(self, state: InstanceState) -> InstanceState:
        settled = replace(state, last_good=state.deployed, last_failure=None)
        if settled != self.folder.read():
            self.folder.write(settled)
        return settled

    def put_back(self, state: InstanceState) -> bool:
        """Declare the last good deployment again, so that Serve does not retry a bad one when it restarts.

        Raises nothing: whoever calls this has an error to tell already. Returns whether it serves.
        """
        good = None if state.last_good is None else Deployment.from_json(state.last_good)
        if good is not None:
            self.report(Progress("deploy", f"putting {good.config.model.name} back", warning=True))
        with contextlib.suppress(ServeApiError, DetectctlError):  # the first error is the one to tell
            with uninterrupted():
                # First, for a command that is killed in the middle of this: Serve can be asked what it has, the file
                # cannot.
                with contextlib.suppress(NotReady):
                    self.folder.write(replace(state, deployed=state.last_good or state.deployed))
                if good is None:
                    return False
                self.api.put(good.serve_config(state.host, state.port, self.api.status().target_replicas))
            self._wait_running(state, good, max(self.deadline, time.monotonic() + _PUT_BACK_S))
            return True
        return False

    def _wait_running(self, state: InstanceState, deployment: Deployment, deadline: float) -> None:
        """Return when Serve says RUNNING of exactly this deployment."""
        said = ""
        while True:
            try:
                status = self.api.status()
            except ServeApiError as error:
                ray_head.of(state).require_running("deploying")
                status = ServeStatus(application="no answer", message=str(error))
            ours = status.fingerprint == deployment.fingerprint
            if ours and status.application == "RUNNING":
                self.report(Progress("deploy", _describe(status), done=True))
                return
            if ours and status.application == "DEPLOY_FAILED":
                raise ModelError(
                    "the replicas could not start",
                    why=_reason(status.message),
                    hint="detectctl logs shows what they said",
                )
            if time.monotonic() > deadline:
                raise DeadlineExceeded(
                    "the service was not ready in time",
                    why=f"last seen: {_describe(status)}; {_reason(status.message)}",
                    hint="give it longer with --timeout",
                )
            if _describe(status) != said:
                said = _describe(status)
                self.report(Progress("deploy", said))
            time.sleep(_POLL_S)

    def _wait_answer(self, state: InstanceState, fingerprint: str) -> None:
        """Return when a replica of this deployment says that it is ready."""
        last = "no answer"
        with httpx.Client(trust_env=False, timeout=5) as client:
            while True:
                try:
                    response = client.get(f"{state.endpoint}/readyz")
                    last = f"HTTP {response.status_code}"
                    if response.status_code == 200 and response.json().get("deployment") == fingerprint:
                        return
                except (httpx.HTTPError, ValueError) as error:
                    ray_head.of(state).require_running("warming up")
                    last = f"{type(error).__name__}: {error}"
                if time.monotonic() > self.deadline:
                    raise DeadlineExceeded(f"{state.endpoint} did not answer in time", why=f"last seen: {last}")
                time.sleep(_POLL_S)


def asleep(state: InstanceState, served: ServeStatus) -> bool:
    """Whether it serves its last good deployment with no replica, and wakes when somebody asks."""
    return (
        state.last_good is not None
        and served.fingerprint == Deployment.from_json(state.last_good).fingerprint
        and served.application == "RUNNING"
        and served.target_replicas == 0
    )


def note_failure(
    state: InstanceState, model: str, error: DetectctlError, *, digest: str | None = None
) -> InstanceState:
    """The state of an instance that goes on serving although an update to `model` failed."""
    return replace(state, last_failure=Failure(model, digest, error.what, error.why, time.time()))


def _as_failed_update(error: DetectctlError, state: InstanceState, *, back: bool) -> DetectctlError:
    if state.last_good is None:
        return error
    kind = type(error) if isinstance(error, (ModelError, NotReady)) else ModelError
    return kind(
        f"the update failed: {error.what}",
        why=error.why,
        hint="what ran before goes on serving; detectctl logs shows more"
        if back
        else "what ran before may not serve either: detectctl status, detectctl logs",
    )


def _describe(status: ServeStatus) -> str:
    states = ", ".join(sorted(replica.state for replica in status.replicas)) or "no replica yet"
    return f"{status.application or 'NOT_STARTED'} ({states})"


def _reason(message: str) -> str:
    """The line of Serve's message that names the cause: the last of a traceback."""
    lines = [line.strip() for line in message.strip().splitlines() if line.strip()]
    return lines[-1] if lines else "Serve gives no reason"
