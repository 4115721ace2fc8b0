"""One replica's work on one request: admit, get the bytes, detect, count, log."""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.requests import ClientDisconnect

from detectctl.errors import InternalError, Overloaded, RequestError
from detectctl.serving.request_log import LOGGER
from detectctl.serving.request_stats import RequestStats
from detectctl.wire import SCHEMA, Defaults, Detection, DetectionResult, DetectOptions, Limits, ServiceInfo

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from detectctl.engine.detector import Detector
    from detectctl.serving.fetch import Fetcher
    from detectctl.serving.service_config import ServiceConfig

    Render = Callable[[bytes, NDArray[np.uint8], DetectionResult], bytes]

_STATS_PERIOD_S = 0.5
_STUCK_S = 120
_LOGGED_ROUTE_CHARS = 100
CLIENT_CLOSED = "client_closed"
"""What the log and the counters say of a caller that went away before its answer; nobody reads an answer then."""

logger = logging.getLogger(LOGGER)


@dataclass(slots=True, eq=False)
class Trace:
    """What the log line of a request says; times in milliseconds."""

    request_id: str
    route: str
    source: str
    fetch_ms: float = 0.0
    decode_ms: float = 0.0
    infer_ms: float = 0.0
    render_ms: float = 0.0
    objects: int = 0


class Service:
    """A loaded detector with its limits and counters.

    Detection runs in threads: neither decoding nor inference nor drawing blocks the event loop.
    """

    def __init__(
        self,
        config: ServiceConfig,
        detector: Detector,
        fetcher: Fetcher,
        *,
        request_id: Callable[[], str],
        stats_file: Path | None = None,
    ) -> None:
        self.config = config
        self.detector = detector
        self._fetcher = fetcher
        self.request_id = request_id
        self._stats = RequestStats()
        self._stats_file = stats_file
        self._stats_written: asyncio.TimerHandle | None = None
        self._admitted: set[Trace] = set()
        self._working_since: dict[Trace, float] = {}
        self._threads = ThreadPoolExecutor(detector.workers, thread_name_prefix="detect")

    async def fetch(self, url: str) -> bytes:
        """The bytes of the image at `url`; raises as `Fetcher.fetch` does."""
        return await self._fetcher.fetch(url)

    async def answer(
        self,
        trace: Trace,
        image_bytes: Callable[[], Awaitable[bytes]],
        options: DetectOptions,
        render: Render | None = None,
    ) -> tuple[DetectionResult, bytes]:
        """Detect, and render if asked to; counts and logs the request however it ends.

        Args:
            trace: filled while the request goes on.
            image_bytes: awaited for the encoded image.
            options: thresholds and classes.
            render: called in a thread with the encoded image, its upright pixels (RGB uint8 `(H, W, 3)`), the
                result.

        Raises:
            RequestError: the answer is an error; `Overloaded` at once when the queue is full.
        """
        begun = time.perf_counter()
        code: str | None = InternalError.code
        try:
            self._admit(trace)
            data = await image_bytes()
            trace.fetch_ms = _ms_since(begun)
            loop = asyncio.get_running_loop()
            answer = await loop.run_in_executor(self._threads, self._work, trace, data, options, render)
            code = None
        except RequestError as error:
            code = error.code
            raise
        except (asyncio.CancelledError, ClientDisconnect):
            code = CLIENT_CLOSED
            raise
        else:
            return answer
        finally:
            self._admitted.discard(trace)
            elapsed_ms = _ms_since(begun)
            self._count(elapsed_ms, code)
            _log(trace, elapsed_ms, code)

    def refuse(self, route: str, code: str) -> None:
        """Count and log a request that was refused, by an error's code, before anything was done for it."""
        self._count(0.0, code)
        _log(Trace(self.request_id(), route[:_LOGGED_ROUTE_CHARS], "none"), 0.0, code)

    def _admit(self, trace: Trace) -> None:
        if len(self._admitted) >= self.config.max_queue:
            raise Overloaded(
                f"{len(self._admitted)} requests are waiting already",
                why=f"a replica accepts {self.config.max_queue} at once",
                hint="come back after the seconds that Retry-After says",
            )
        self._admitted.add(trace)

    def check(self) -> None:
        """Raises RuntimeError if a thread has worked on a request for longer than any honest one can take.

        Also when its caller has gone: the thread is lost all the same.
        """
        oldest = min(tuple(self._working_since.values()), default=time.perf_counter())
        if time.perf_counter() - oldest > _STUCK_S:
            raise RuntimeError(f"a request has been worked on for more than {_STUCK_S} s")

    def _work(
        self,
        trace: Trace,
        data: bytes,
        options: DetectOptions,
        render: Render | None,
    ) -> tuple[DetectionResult, bytes]:
        self._working_since[trace] = time.perf_counter()
        try:
            return self._work_on(trace, data, options, render)
        finally:
            del self._working_since[trace]

    def _work_on(
        self,
        trace: Trace,
        data: bytes,
        options: DetectOptions,
        render: Render | None,
    ) -> tuple[DetectionResult, bytes]:
        begun = time.perf_counter()
        image = self.detector.decode(data)
        trace.decode_ms = _ms_since(begun)
        begun = time.perf_counter()
        found: tuple[Detection, ...] = self.detector.detect_image(
            image,
            confidence=self.config.detector.confidence if options.confidence is None else options.confidence,
            iou=self.config.detector.iou if options.iou is None else options.iou,
            classes=options.classes,
        )
        trace.infer_ms = _ms_since(begun)
        trace.objects = len(found)
        height, width = image.shape[:2]
        result = DetectionResult(found, width, height, self.config.model)
        if render is None:
            return result, b""
        begun = time.perf_counter()
        rendered = render(data, image, result)
        trace.render_ms = _ms_since(begun)
        return result, rendered

    def _count(self, elapsed_ms: float, code: str | None) -> None:
        self._stats.count(elapsed_ms, code)
        if self._stats_file is not None and self._stats_written is None:
            self._stats_written = asyncio.get_running_loop().call_later(_STATS_PERIOD_S, self._write_stats)

    def _write_stats(self) -> None:
        self._stats_written = None
        if self._stats_file is not None:
            try:
                self._stats.write(self._stats_file)
            except OSError as error:  # a full disk costs figures in `status`, not answers
                logger.warning("the counters could not be written: %s", error)

    def info(self) -> ServiceInfo:
        """The body of `/info`."""
        config, detector = self.config, self.config.detector
        return ServiceInfo(
            schema=SCHEMA,
            version=config.version,
            deployment=config.fingerprint,
            model=config.model,
            classes={str(class_id): name for class_id, name in self.detector.labels.items()},
            engine=self.detector.engine_info(),
            limits=Limits(detector.max_image_bytes, detector.max_image_pixels, config.max_queue, config.url_input),
            defaults=Defaults(detector.imgsz, detector.confidence, detector.iou),
        )

    async def close(self) -> None:
        """Let go of connections and threads."""
        self._write_stats()
        await self._fetcher.close()
        self._threads.shutdown(wait=False)


def _ms_since(begun: float) -> float:
    return (time.perf_counter() - begun) * 1000


def _log(trace: Trace, elapsed_ms: float, code: str | None) -> None:
    level = logging.ERROR if code == InternalError.code else logging.INFO
    fields = {
        "id": trace.request_id,
        "source": trace.source,
        "status": code or "ok",
        "objects": trace.objects,
        "fetch_ms": round(trace.fetch_ms, 1),
        "decode_ms": round(trace.decode_ms, 1),
        "infer_ms": round(trace.infer_ms, 1),
        "render_ms": round(trace.render_ms, 1),
        "total_ms": round(elapsed_ms, 1),
    }
    logger.log(level, trace.route, extra={"fields": fields}, exc_info=level == logging.ERROR)
