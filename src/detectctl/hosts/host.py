"""What `lifecycle` needs of the place where a service runs: a Ray head of our own, or somebody else's cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path
    from types import TracebackType

    from detectctl.hosts.places import Place
    from detectctl.hosts.serve_rest import ServeStatus
    from detectctl.progress import Report
    from detectctl.serving.request_stats import RequestStats
    from detectctl.waiting import Deadline


class NewLines(NamedTuple):
    """Lines that were added to a log: its file's name, when it was last written (seconds since the epoch), and they."""

    file_name: str
    modified: float
    lines: list[bytes]


class Host(Protocol):
    """The place of one service, made of what the state file records of it; a context manager.

    Attributes:
        remote: whether replicas see nothing of this machine's disk, and run on whether this machine does or not.
    """

    remote: bool

    @property
    def endpoint(self) -> str:
        """Where a client on this machine reaches the service."""

    @property
    def endpoints(self) -> tuple[str, ...]:
        """`endpoint`, which stays, and others that answer now."""

    def require(self, route_prefix: str) -> None:
        """Check, before anything is started or changed, that the service can be there.

        Raises:
            UsageError: the name or the path belongs to somebody else, or access is denied.
            NotReady: the place does not answer, or lacks something.
        """

    def recall(self) -> dict[str, Any] | None:
        """The instance's state as the last `deploy` handed it over, for hosts that keep it for everybody to read.

        None if there is no instance; ServeApiError if it cannot be asked.
        """

    @property
    def alive(self) -> bool:
        """Whether Ray runs there; says nothing about the service."""

    @property
    def gone(self) -> str:
        """What became of Ray, where it is not `alive`."""

    def start(self, environ: Mapping[str, str], alive_file: Path, report: Report) -> Place:
        """Start Ray there, and return what the state file should record from now on; NotReady if it does not start.

        The caller has recorded what is known before, and calls `stop` if this fails. Ray's processes inherit of the
        caller's `environ` what they need. While it lives, it holds `alive_file` locked and touches it, for other
        machines to see.
        """

    def inherited(self, variable: str) -> str | None:
        """The value of an environment variable that replicas there have; None if it is not set, or cannot be read."""

    def require_running(self, doing: str) -> None:
        """Raise NotReady, with the last words of Ray, if it ended while `doing`."""

    def wait_until_up(self, deadline: Deadline) -> str:
        """Return when Serve's REST interface answers; says what answers, for people.

        Raises:
            NotReady: Ray ended; gives its last words.
            DeadlineExceeded: it did not answer in time.
        """

    def status(self, deadline: Deadline | None = None) -> ServeStatus:
        """The service as Serve sees it; ServeApiError if Serve did not answer, or reported an error."""

    def deploy(
        self, application: Mapping[str, Any], record: Mapping[str, Any], deadline: Deadline | None = None
    ) -> None:
        """Hand Serve the application, with the files on this machine that it names, in place of what is deployed.

        It is as `Deployment.application` gives it, and knows nothing of the host; `record` is the instance's state, as
        JSON, for hosts that `recall` it. Returns when Serve has accepted it, and `status` shows what becomes of it.
        ServeApiError, in Serve's own words, if it was not accepted, or not by the deadline; without one, the host has
        patience of its own.
        """

    def drain(self, deadline: Deadline) -> bool:
        """Withdraw the application; returns whether every accepted request was answered in time.

        A host that does not answer has nothing left to finish, and cannot say so: that is False.
        """

    def stats(self) -> RequestStats:
        """The counters of all replicas since the service was started there."""

    def note_update(self, outcome: str) -> None:
        """Count how a change of what is served ended, for the service's metrics; never raises."""

    def new_log_lines(self, reached: dict[Any, Any], *, unfinished: bool = False) -> Iterator[NewLines]:
        """What was added since the last look to the logs of the replicas, of Serve and of Ray.

        `reached` is the host's memory of that look, empty at first; with `unfinished` there is also a line whose end is
        not written yet.
        """

    def stop(self) -> None:
        """End what `up` started there, and nothing else. Not an error if that has ended already.

        NotReady if it may still be there, because the place does not answer.
        """

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> bool | None: ...
