"""`up --follow`: an instance kept at what its reference means, and away from versions that proved bad."""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from detectctl.errors import DetectctlError, NotReady, NotRunning
from detectctl.files import describe
from detectctl.lifecycle.lock import locked
from detectctl.lifecycle.rollout import Rollout, note_failure
from detectctl.lifecycle.state import InstanceFolder, InstanceState
from detectctl.lifecycle.status import status
from detectctl.lifecycle.up import UpResult, apply, begin, deployment_of, resolve
from detectctl.progress import Progress, Report, Step
from detectctl.registry.store import Store
from detectctl.serving.request_stats import RequestStats
from detectctl.waiting import Deadline

if TYPE_CHECKING:
    from collections.abc import Mapping

    from filelock import BaseFileLock

    from detectctl.lifecycle.deployment import Deployment
    from detectctl.paths import Paths
    from detectctl.settings import UpSettings

_LOOK_S = 2.0
_PATIENCE_S = 5.0
"""With a W&B that fails while the instance runs: there will be another look, and `down` waits for this one."""
TRIAL_S = 300.0
"""How long a new version is watched."""
_LEAST_ERRORS = 5
_MORE_ERRORS = 0.05  # of the requests, beyond what the version before had
_DEGRADED_LOOKS = 5
# What a model can be blamed for; the rest is about images, URLs and keys.
_BLAMED = "internal_error"


@dataclass(frozen=True, slots=True)
class _Trial:
    """A version that is new: its digest, what it replaced, how long it is watched, and the counters when it began."""

    tried: str
    good: Deployment
    deadline: Deadline
    before: RequestStats


@dataclass(slots=True)
class Follower:
    """Watches one instance after its first `up`, and decides which version it serves; reports what is new."""

    settings: UpSettings
    paths: Paths
    environ: Mapping[str, str]
    report: Report
    _rejected: set[str] = field(default_factory=set)
    _good: Deployment | None = None
    _died: bool = False
    _trial: _Trial | None = None
    _degraded: int = 0
    _last_told: str = ""
    _held: dict[str, BaseFileLock] = field(default_factory=dict)

    def run(self) -> None:
        """Return when somebody has taken the instance down; otherwise only an exception such as Ctrl-C ends it."""
        next_update = Deadline.after(self.settings.interval)
        while True:
            try:
                state = self._folder.read()
                if state is None and not self._died:
                    self._tell("stop", f"instance {self.settings.name} was taken down")
                    return
                if state is not None and not _is_alive(state):
                    if not self._died:
                        next_update = Deadline.after(0)
                    self._died = True
                elif state is not None and self._trial is not None:
                    # The instance may be taken down, or die, in the middle of this; the next look tells which.
                    with contextlib.suppress(DetectctlError, OSError):
                        self._watch(state, self._trial)
                if next_update.passed:
                    next_update = Deadline.after(self.settings.interval)
                    self._update(state)
            except (DetectctlError, OSError) as error:  # a full disk, say; it may have room at the next look
                self._tell("deploy", _in_one_line(error), warning=True)
            time.sleep(min(_LOOK_S, self.settings.interval))

    @property
    def _folder(self) -> InstanceFolder:
        return InstanceFolder.named(self.settings, self.paths.state)

    def _update(self, state: InstanceState | None) -> None:
        """Bring the instance to what the reference means now, unless that was rejected."""
        before = RequestStats() if state is None else _stats(state)
        if state is not None and state.last_good is not None:
            self._good = state.last_good
            self._hold()
        try:
            # If somebody took the instance down while this waited for the lock, it must stay down.
            result = self._apply(may_start=self._died and state is None)
        except NotRunning:
            self._died = False
            return
        except DetectctlError as error:
            self._tell("deploy", _in_one_line(error), warning=True)
            failed = self._folder.read()
            if failed is not None and failed.last_failure is not None and failed.last_failure.digest is not None:
                self._rejected.add(failed.last_failure.digest)
            return
        if result is not None:
            self._note(result, before)
        self._died = False

    def _apply(self, *, may_start: bool) -> UpResult | None:
        """What `up` does, except that a rejected model is never deployed; None if the instance stays as it is."""
        settings, paths, environ = self.settings, self.paths, self.environ
        with begin(settings, paths, environ, self._report_news, may_start=may_start) as job:
            model = resolve(job, patience_s=_PATIENCE_S if job.running else math.inf)
            digest, good = model.served.digest, self._good
            if digest in self._rejected:
                if job.running:
                    return None
                if good is not None:
                    return apply(job, lambda: good, digest)
            return apply(job, lambda: deployment_of(job, model), digest)

    def _note(self, result: UpResult, before: RequestStats) -> None:
        if result.action == "started":
            self._trial = None  # its counters were those of an instance that is gone
        # The same model marked differently, as when W&B is away for a moment, stays on the trial that it was on.
        model, good = result.model, self._good
        if result.action == "updated" and good is not None and model.digest != good.config.model.digest:
            self._trial, self._degraded = _Trial(model.digest, good, Deadline.after(TRIAL_S), before), 0
        if result.action != "unchanged" or self._died:
            self._tell("deploy", f"now serving {_joined(model.name, model.version, model.digest[:19])}")

    def _watch(self, state: InstanceState, trial: _Trial) -> None:
        fault = self._fault(state, trial)
        if fault is not None:
            self._go_back(trial, fault)
        if fault is not None or trial.deadline.passed:
            self._trial = None

    def _fault(self, state: InstanceState, trial: _Trial) -> str | None:
        """What speaks against the new version, if anything does."""
        now = _stats(state)
        requests = now.requests - trial.before.requests
        errors = now.errors.get(_BLAMED, 0) - trial.before.errors.get(_BLAMED, 0)
        usual = trial.before.errors.get(_BLAMED, 0) / max(1, trial.before.requests)
        if errors >= _LEAST_ERRORS and errors / max(1, requests) > usual + _MORE_ERRORS:
            return f"{errors} of {requests} requests failed"
        current = status(self._folder)
        self._degraded = self._degraded + 1 if current.state == "degraded" else 0
        return f"its replicas do not stay up: {current.message}" if self._degraded >= _DEGRADED_LOOKS else None

    def _hold(self) -> None:
        """Keep what may be restored from `models --prune`: the state file names a version on trial as the good one."""
        needed = {one.config.model.digest for one in (self._good, self._trial and self._trial.good) if one}
        store = Store(self.paths.cache)
        for digest in needed - self._held.keys():
            self._held[digest] = store.hold(digest.removeprefix("sha256:"))
        for digest in self._held.keys() - needed:
            self._held.pop(digest).release()

    def _go_back(self, trial: _Trial, fault: str) -> None:
        folder = self._folder
        with locked(folder, "up", self.settings.timeout, self._report_news):
            state = folder.read()
            if state is None or state.deployed is None:
                return
            bad = state.deployed.config
            if bad.model.digest != trial.tried:  # somebody has rolled to another by hand
                return
            self._rejected.add(bad.model.digest)
            failure = NotReady(
                f"{_joined(bad.model.name, bad.model.version)} was rolled back", why=fault, hint="read `detectctl logs`"
            )
            state = note_failure(state, bad.model.reference, failure, digest=bad.model.digest)
            with state.open_host() as host:
                rollout = Rollout(host, folder, Deadline.after(self.settings.timeout), self._report_news)
                restored = rollout.restore_last_good(replace(state, last_good=trial.good))
        name = _joined(trial.good.config.model.name, trial.good.config.model.version)
        did = "went back" if restored else "could not go back"
        self._tell("deploy", f"{did} to {name}: {fault}", warning=not restored)

    def _report_news(self, progress: Progress) -> None:
        """Looking at W&B once a minute is not news; what comes of it is."""
        if progress.warning:
            self._tell(progress.step, progress.message, warning=True)
        elif progress.step not in {"resolve", "convert", "quantise"}:
            self.report(progress)

    def _tell(self, step: Step, message: str, *, warning: bool = False) -> None:
        if message != self._last_told:
            self._last_told = message
            self.report(Progress(step, message, done=not warning, warning=warning))


def _is_alive(state: InstanceState) -> bool:
    with state.open_host() as host:
        return host.alive


def _stats(state: InstanceState) -> RequestStats:
    with state.open_host() as host:
        return host.stats()


def _in_one_line(error: DetectctlError | OSError) -> str:
    if isinstance(error, OSError):
        return f"this look failed: {describe(error)}"
    return error.what_and_why


def _joined(*words: str | None) -> str:
    return " ".join(filter(None, words))
