"""One replica's work: each request takes its turn, is counted, and leaves one line in the log."""

from __future__ import annotations

import asyncio
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import InitVar, asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Self

from starlette.requests import ClientDisconnect

from detectctl.errors import ClientClosed, InternalError, Overloaded, RequestError
from detectctl.processes import Process
from detectctl.serving import answer, below
from detectctl.serving.request_log import log_request, logger
from detectctl.serving.request_stats import OK, Answered, RequestRecorder
from detectctl.wire import SCHEMA, Defaults, DetectionResult, DetectOptions, Limits, ServiceInfo

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from starlette.types import Scope

    from detectctl.engine.detector import Detector
    from detectctl.serving.fetch import Fetcher
    from detectctl.serving.metrics import Metrics
    from detectctl.serving.reporter import Reporter
    from detectctl.serving.service_config import ServiceConfig
    from detectctl.serving.spans import Spans
    from detectctl.wire import Detection

    Render = Callable[[bytes, NDArray[np.uint8], DetectionResult], tuple[str, bytes]]

_STAGES = ("fetch", "decode", "infer", "render")
_STUCK_S = 120
_LOGGED_ROUTE_CHARS = 100


@dataclass(slots=True, eq=False)
class Turn:
    """One request's turn in the replica, and what its log line says.

    Attributes:
        scope: ASGI's, of the request.
        source: where the image comes from: `url`, `body` or `form`; `none` if the request did not get that far.
        begun: seconds, as `time.perf_counter` counts.
        size: bytes and pixels of the image, once it is decoded.
        stages: when each that it came through began and ended, in seconds as `begun`; and `wait`, for a thread.
    """

    service: Service
    request_id: str
    scope: Scope
    source: str
    begun: float = field(default_factory=time.perf_counter)
    found: tuple[Detection, ...] = ()
    size: tuple[int, int] | None = None
    stages: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def route(self) -> str:
        """The path that was asked for below our prefix, as far as it is logged."""
        return below.path(self.scope)[:_LOGGED_ROUTE_CHARS]

    @property
    def stages_ms(self) -> dict[str, float]:
        """Milliseconds of each stage; 0 of one that it did not come through."""
        passed = {stage: self.stages.get(stage, (0.0, 0.0)) for stage in _STAGES}
        return {stage: (ended - begun) * 1000 for stage, (begun, ended) in passed.items()}

    async def __aenter__(self) -> Self:
        self.service.admit(self)
        return self

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> None:
        code = InternalError.code
        if error is None:
            code = OK
        elif isinstance(error, RequestError):
            code = error.code
        elif isinstance(error, (asyncio.CancelledError, ClientDisconnect)):
            code = ClientClosed.code
        self.service.finish(self, code, error)

    def server_timing(self) -> dict[str, str]:
        """The header that tells browsers, and whoever else asks, how long each stage took."""
        passed = [f"{stage};dur={ms:.1f}" for stage, ms in self.stages_ms.items() if ms]
        return {"Server-Timing": ", ".join(passed)}

    async def detect(self, data: bytes, options: DetectOptions, render: Render | None = None) -> tuple[str, bytes]:
        """The detections in an encoded image: the type and file that `render` makes of them, or that of `answer`.

        `render` is called in a thread, with the encoded image, its upright pixels (RGB uint8 `(H, W, 3)`) and the
        result. Raises what `Detector` raises.
        """
        self._passed("fetch", self.begun)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.service.threads, self._work, data, options, render)

    def _work(self, data: bytes, options: DetectOptions, render: Render | None) -> tuple[str, bytes]:
        """In a thread: neither decoding nor inference nor drawing nor encoding blocks the event loop."""
        service = self.service
        service.working_since[self] = since = self._passed("wait", self.stages["fetch"][1])
        try:
            image = service.detector.decode(data)
            since = self._passed("decode", since)
            height, width = image.shape[:2]
            self.size = len(data), width * height
            found = service.detector.detect_image(image, options)
            since = self._passed("infer", since)
            self.found = found.detections
            result = DetectionResult(found.detections, width, height, service.config.model, found.truncated)
            if render is None:
                return answer.MEDIA_TYPE, answer.encoded(result)
            rendered = render(data, image, result)
            self._passed("render", since)
            return rendered
        finally:
            del service.working_since[self]

    def _passed(self, stage: str, since: float) -> float:
        """Note how long a stage took, and return its end, in seconds as `begun`."""
        now = time.perf_counter()
        self.stages[stage] = since, now
        return now


async def _unknown() -> None:
    return None


@dataclass(eq=False)
class Service:
    """A loaded detector with its limits and counters.

    Attributes:
        config: of this replica; replaced when `up` changes what can change while it runs.
        detector: loaded and warm.
        request_id: the id of the request that is being handled.
        stats_file: where the counters are kept; None keeps them in memory only.
        replicas: how many Serve wants, and how many take requests; None if it does not say.
        spans: what sends a trace of each request; None sends none.
        reporter: what collects the counters of all replicas, where these share no folder; else None.
    """

    config: ServiceConfig
    detector: Detector
    fetcher: Fetcher
    request_id: Callable[[], str]
    stats_file: InitVar[Path | None] = None
    replicas: Callable[[], Awaitable[tuple[int, int] | None]] = _unknown
    spans: Spans | None = None
    reporter: Reporter | None = None

    def __post_init__(self, stats_file: Path | None) -> None:
        self._name = stats_file.stem if stats_file is not None else self.reporter.replica if self.reporter else ""
        self.threads = ThreadPoolExecutor(self.detector.workers, thread_name_prefix="detect")
        self._recorder = RequestRecorder(stats_file, self._about())
        self._metrics: Metrics | None = None
        self._admitted = 0
        self.working_since: dict[Turn, float] = {}  # of the threads

    def turn(self, scope: Scope, source: str) -> Turn:
        """A place in the queue for one request, counted and logged however it ends; raises Overloaded if it is full."""
        return Turn(self, self.request_id(), scope, source)

    def admit(self, turn: Turn) -> None:
        """Give it its place; raises Overloaded if there is none."""
        if self._admitted >= self.config.max_queue:
            self._finish(turn, Overloaded.code, admitted=False)
            why = f"a replica accepts {self.config.max_queue} at a time"
            hint = "try again after the seconds in Retry-After"
            raise Overloaded(f"{self._admitted} requests are waiting already", why=why, hint=hint)
        self._admitted += 1
        self._recorder.admitted()

    def finish(self, turn: Turn, code: str, error: BaseException | None) -> None:
        """Take its place back, and count and log it."""
        self._admitted -= 1
        self._finish(turn, code, admitted=True, error=error)

    def refuse(self, scope: Scope, code: str) -> None:
        """Count and log a request that was refused, by an error's code, before anything was done for it."""
        self._finish(Turn(self, self.request_id(), scope, "none"), code, admitted=False)

    def reconfigure(self, config: ServiceConfig) -> None:
        """Change what can change while it runs."""
        self.config = config
        self._recorder.tally.describe(self._about())

    def check(self) -> None:
        """RuntimeError if a thread works on one request longer than any honest one takes, its caller gone or not."""
        now = time.perf_counter()
        if now - min(tuple(self.working_since.values()), default=now) > _STUCK_S:
            raise RuntimeError(f"a request has been worked on for more than {_STUCK_S} s")

    def info(self) -> ServiceInfo:
        """The body of `/info`."""
        config, detector, trained = self.config, self.config.detector, self.detector.trained_imgsz
        return ServiceInfo(
            schema=SCHEMA,
            version=config.version,
            deployment=config.fingerprint,
            model=config.model,
            classes={str(class_id): name for class_id, name in self.detector.labels.items()},
            engine=self.detector.engine_info(),
            limits=Limits(detector.max_image_bytes, detector.max_image_pixels, config.max_queue, config.url_input),
            defaults=Defaults(
                max(self.detector.imgsz),
                detector.confidence,
                detector.iou,
                None if trained is None else list(trained),
                detector.class_confidence,
                detector.max_det,
                detector.agnostic_nms,
            ),
        )

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        """The body of `/metrics`, and its type, for the request's `Accept`."""
        from detectctl.serving import metrics  # a replica that nobody asks does without what it imports

        if self._metrics is None:
            self._metrics = metrics.Metrics(self._recorder.tally)
        collected = await self.reporter.all() if self.reporter else None
        return await asyncio.to_thread(self._metrics.page, accept, await self.replicas(), collected)

    def open(self) -> None:
        """What needs the event loop."""
        if self.reporter is not None:
            self.reporter.start(self._recorder.tally)

    async def close(self) -> None:
        """Let go of connections and threads."""
        if self.reporter is not None:
            await self.reporter.close()
        await self.fetcher.close()
        self.threads.shutdown(wait=False)
        if self.spans is not None:
            await asyncio.to_thread(self.spans.close)

    def _about(self) -> dict[str, Any]:
        return {
            "process": asdict(Process.of(os.getpid())),
            "replica": self._name,
            "model": self.config.model.to_json(),
            "queue_limit": self.config.max_queue,
            "updates": self.config.updates,
        }

    def _finish(self, turn: Turn, code: str, *, admitted: bool, error: BaseException | None = None) -> None:
        elapsed_ms = (time.perf_counter() - turn.begun) * 1000
        stages_ms = turn.stages_ms
        stages = {stage: ms / 1000 for stage, ms in stages_ms.items() if ms}
        self._recorder.answered(
            Answered(turn.route, code, turn.source, admitted, elapsed_ms / 1000, stages, turn.size, turn.found)
        )
        fields = {"id": turn.request_id, "source": turn.source, "status": code, "objects": len(turn.found)}
        for stage, ms in stages_ms.items():
            fields[f"{stage}_ms"] = round(ms, 1)
        fields["total_ms"] = round(elapsed_ms, 1)
        if code == InternalError.code:
            logger.error(turn.route, extra={"fields": fields}, exc_info=error)
        else:
            log_request(turn.route, fields)
        if self.spans is not None:
            self.spans.record(turn, code, elapsed_ms / 1000)
