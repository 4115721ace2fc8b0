"""A service on this machine, under a Ray head of our own."""

from __future__ import annotations

import contextlib
import functools
import signal
from typing import TYPE_CHECKING, Any

import psutil

from detectctl import processes
from detectctl.colours import without_colours
from detectctl.errors import DeadlineExceeded, NotReady
from detectctl.files import reason, remove
from detectctl.hosts.dashboard import Dashboard, ServeApiError
from detectctl.hosts.local import haproxy, ray_head
from detectctl.hosts.log_files import new_lines
from detectctl.hosts.serve_rest import ServeApi, ServeStatus
from detectctl.serving.request_stats import UPDATES, RequestStats, read_stats
from detectctl.serving.tally import SUFFIX, Tally
from detectctl.waiting import NotYet, until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from detectctl.hosts.host import NewLines
    from detectctl.progress import Report
    from detectctl.waiting import Deadline

_INGRESS_GRACE_S = 1.0


class LocalHost(contextlib.ExitStack):  # of its connections
    """See `hosts.host.Host`; its head may live or not."""

    remote = False

    def __init__(self, record: ray_head.HeadRecord) -> None:
        super().__init__()
        self._record = record

    @property
    def endpoint(self) -> str:
        host, port = self._record.host, self._record.port
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - read, not bound
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    @property
    def endpoints(self) -> tuple[str, ...]:
        return (self.endpoint,)

    def require(self, route_prefix: str) -> None:
        """Nobody else is here; the plan of its record has looked at the machine."""

    def recall(self) -> dict[str, Any] | None:
        raise ServeApiError("the state file is all there is")

    @property
    def alive(self) -> bool:
        return self._record.head is not None and self._record.head.find() is not None

    @property
    def gone(self) -> str:
        return "it never started" if self._record.head is None else "its head process is gone"

    def start(self, environ: Mapping[str, str], alive_file: Path, report: Report) -> ray_head.HeadRecord:
        self._record = ray_head.spawn(self._record, environ, alive_file, report)
        return self._record

    def inherited(self, variable: str) -> str | None:
        process = None if self._record.head is None else self._record.head.find()
        with contextlib.suppress(psutil.Error, OSError):
            return None if process is None else processes.variable_of(process, variable)
        return None

    def require_running(self, doing: str) -> None:
        if self._record.head is not None:
            processes.reap(self._record.head.pid)
        if not self.alive:
            raise NotReady(
                f"the Ray head ended while {doing}",
                why=self._last_words(),
                hint="read `detectctl logs`, run `detectctl doctor`, then the command again",
            )

    def _last_words(self) -> str:
        try:
            lines = without_colours(self._record.head_log.read_text(errors="replace")).strip().splitlines()
        except OSError as error:
            return f"its log cannot be read: {reason(error)}"
        return lines[-1] if lines else "it said nothing"

    def wait_until_up(self, deadline: Deadline) -> str:
        def answer() -> str | NotYet:
            try:
                self.status(deadline)
            except ServeApiError as error:
                self.require_running("starting")
                return NotYet(str(error))
            return f"head process {self._record.head.pid if self._record.head else 'unknown'}"

        return until(answer, deadline, "the Ray head did not answer in time")

    @functools.cached_property
    def _serve(self) -> ServeApi:
        try:
            token = self._record.token_file.read_text()
        except OSError as error:
            raise ServeApiError(f"its token cannot be read: {reason(error)}") from error
        dashboard = contextlib.closing(Dashboard(self._record.dashboard_url, token))
        return ServeApi(self.enter_context(dashboard))

    def status(self, deadline: Deadline | None = None) -> ServeStatus:
        return self._serve.status(deadline)

    def deploy(
        self, application: Mapping[str, Any], record: Mapping[str, Any], deadline: Deadline | None = None
    ) -> None:
        del record  # the state file has it
        # Replicas run on this machine: the paths that the application names are right for them as they are.
        args = {**application["args"], "stats_dir": str(self._record.requests_dir)}
        self._put([{**application, "args": args}], deadline)

    def drain(self, deadline: Deadline) -> bool:
        def gone() -> bool | NotYet:
            status = self.status(deadline)  # replicas stop only after their last answer
            return NotYet(str(status)) if status.application or status.replicas else True

        try:
            self._put([], deadline)
            return until(gone, deadline, "replicas were still at work")
        except (ServeApiError, DeadlineExceeded):
            return False

    def _put(self, applications: list[dict[str, Any]], deadline: Deadline | None = None) -> None:
        # Serve opens this address for its replicas and its fallback proxy too. Behind HAProxy nobody else should reach
        # them: Serve is told loopback, and the wrapper gives HAProxy the real one.
        host = haproxy.LOOPBACK if self._record.haproxy else self._record.host
        config = {
            "proxy_location": "HeadOnly",
            "http_options": {"host": host, "port": self._record.port},
            "logging_config": {"encoding": "JSON", "enable_access_log": False},
            "applications": applications,
        }
        self._serve.put(config, deadline)

    def stats(self) -> RequestStats:
        return read_stats(self._record.requests_dir)

    def note_update(self, outcome: str) -> None:
        with contextlib.closing(Tally(self._record.requests_dir / f"updates{SUFFIX}")) as tally:
            tally.add(((UPDATES, outcome), 1.0))

    def new_log_lines(self, reached: dict[Any, Any], *, unfinished: bool = False) -> Iterator[NewLines]:
        serve = self._record.temp_dir.glob("ray/session_2*/logs/serve/*.log*")  # the link to it ends with the head
        files = sorted([*serve, *self._record.requests_dir.glob("*.log*"), self._record.head_log])
        return new_lines(files, reached, unfinished=unfinished)

    def stop(self) -> None:
        family = (self._record.instance_id, self._record.head, self._record.temp_dir)
        # They hold nothing of value: Serve has been drained before, if that was asked for.
        found = processes.family(*family)
        ingress = [process for process in found if haproxy.is_haproxy(process)]
        # All at once: the head would end its own one after the other, and wait a second for each.
        processes.kill([process for process in found if process not in ingress])
        # Last, and softly: late callers get a 503 and then find the port closed, not a broken connection.
        processes.end(ingress, signal.SIGUSR1, grace_s=_INGRESS_GRACE_S)
        processes.kill_family(*family)  # what was just being started
        if self._record.head is not None:
            processes.reap(self._record.head.pid)
        remove(self._record.temp_dir)
