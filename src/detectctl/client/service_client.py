"""The service as seen from outside: one endpoint, asked about many images."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self
from urllib.parse import urlencode

from detectctl.client import CONCURRENCY, RETRIES, TIMEOUT_S, outputs
from detectctl.client.endpoint import Endpoint, unexpected_answer
from detectctl.client.image_hosts import ImageHosts
from detectctl.client.ordered_map import in_order
from detectctl.errors import DetectctlError, NotRunning, Unauthorized, UnsupportedImage
from detectctl.waiting import Deadline
from detectctl.wire import QUALITY, DetectionResult

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path
    from types import TracebackType

    from detectctl.sources import Source

RESULTS_AHEAD = 32
"""Results (not images) kept for each thread while an earlier source is still being waited for."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked about each image; None leaves it to the service.

    Attributes:
        confidence: detections below are left out, 0 to 1.
        iou: of two boxes of a class that overlap more, the weaker is left out, 0 to 1.
        classes: names of the classes to keep; all if empty.
        fetch: who downloads a URL.
    """

    confidence: float | None = None
    iou: float | None = None
    classes: tuple[str, ...] = ()
    fetch: Literal["server", "client"] = "server"

    def parameters(self) -> list[tuple[str, str]]:
        """As the query of `/detect` and `/annotate`."""
        parameters = [("class", name) for name in self.classes]
        if self.confidence is not None:
            parameters.append(("conf", str(self.confidence)))
        if self.iou is not None:
            parameters.append(("iou", str(self.iou)))
        return parameters


@dataclass(frozen=True, slots=True)
class Style:
    """How an annotated image looks; `line_width` in pixels, grows with the image if None."""

    labels: bool = True
    line_width: int | None = None
    quality: int = QUALITY

    def parameters(self) -> list[tuple[str, str]]:
        """As the query of `/annotate`: only what differs from the default."""
        parameters = [] if self.labels else [("labels", "false")]
        if self.line_width is not None:
            parameters.append(("line_width", str(self.line_width)))
        if self.quality != QUALITY:
            parameters.append(("quality", str(self.quality)))
        return parameters


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one source.

    Attributes:
        source: what was asked about.
        result: None if it failed, and for an image that the service downloaded and annotated.
        error: None unless it failed.
        elapsed_s: seconds from reading the source to the end, retries included.
        output: the annotated image's file.
    """

    source: Source
    result: DetectionResult | None
    error: DetectctlError | None
    elapsed_s: float
    output: Path | None = None


class Client:
    """One endpoint; safe to use from several threads. Close it, or use it in `with`.

    Args:
        endpoint: `http://host:port`, with a path before the routes if a proxy added one.
        api_key: sent to the endpoint's origin, and nowhere else.
        timeout_s: for each source, from reading it to its answer, with all retries.
        retries: attempts after the first on 500, 502 and 503, resets and timeouts.
        concurrency: requests in flight, and so images in memory, of `detect_all` and `annotate_all`.
        wait_for_restart: see `Endpoint`.

    Raises:
        UsageError: the endpoint is no http(s) URL.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        api_key: str | None = None,
        timeout_s: float = TIMEOUT_S,
        retries: int = RETRIES,
        concurrency: int = CONCURRENCY,
        wait_for_restart: bool = False,
    ) -> None:
        self._endpoint = Endpoint(
            endpoint, api_key=api_key, retries=retries, connections=concurrency, wait_for_restart=wait_for_restart
        )
        self._hosts = ImageHosts(retries=retries, connections=concurrency)
        self._timeout_s = timeout_s
        self._concurrency = concurrency

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; requests that wait for their next attempt give up."""
        self._endpoint.close()
        self._hosts.close()

    def info(self) -> dict[str, Any]:
        """The answer of `/info`.

        Raises:
            NotRunning: nothing answers.
            NotReady: something else answers, or not in time.
            RequestError: the service refused.
        """
        answer = self._endpoint.ask("GET", "/info", self._deadline())
        info = answer.json()
        if not isinstance(info, dict):
            raise unexpected_answer(answer, self._endpoint.url)
        return info

    def labels(self) -> dict[int, str]:
        """The name of each class id of the model that is served; raises what `info` raises."""
        answer = self._endpoint.ask("GET", "/info", self._deadline())
        try:
            return {int(class_id): str(name) for class_id, name in answer.json()["classes"].items()}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise unexpected_answer(answer, self._endpoint.url) from error

    def deployment(self) -> str:
        """The fingerprint of the deployment that is ready, by one question to `/readyz`; raises what `info` raises."""
        answer = self._endpoint.ask("GET", "/readyz", self._deadline(), retry=False)
        try:
            return str(answer.json()["deployment"])
        except (KeyError, TypeError) as error:
            raise unexpected_answer(answer, self._endpoint.url) from error

    def ready(self) -> bool:
        """Whether a model answers."""
        try:
            return bool(self.deployment())
        except DetectctlError:
            return False

    def detect(self, source: Source, wanted: Wanted | None = None) -> DetectionResult:
        """The detections in one image.

        Raises:
            SourceUnreadable: the file cannot be read.
            NotRunning: nothing answers.
            NotReady: something else answers, or not in time.
            RequestError: the service refused, or the image's own server failed.
        """
        wanted = wanted or Wanted()
        deadline = self._deadline()
        if source.url is not None and wanted.fetch == "server":
            query = urlencode([("image_url", source.url), *wanted.parameters()])
            return self._detect("GET", query, deadline=deadline)
        body = self._bytes(source, deadline)
        return self._detect("POST", urlencode(wanted.parameters()), deadline=deadline, body=body)

    def annotate(
        self, source: Source, image_format: str, wanted: Wanted | None = None, style: Style | None = None
    ) -> tuple[bytes, DetectionResult | None]:
        """The encoded image with its detections drawn on it, and the detections.

        Boxes must belong to the pixels under them. So the bytes that are sent are the bytes that are drawn on; and
        where the service downloads, only it has those bytes, so it draws as well (then the detections are not known).

        Args:
            source: the image.
            image_format: `jpeg`, `png` or `webp`.
            wanted: as for `detect`.
            style: how it is drawn.

        Raises:
            UsageError: the format cannot hold an image of this size.
            DetectctlError: as for `detect`.
        """
        wanted, style = wanted or Wanted(), style or Style()
        deadline = self._deadline()
        if source.url is not None and wanted.fetch == "server":
            query = urlencode([("image_url", source.url), *wanted.parameters(), *style.parameters()])
            answer = self._endpoint.ask(
                "GET", f"/annotate?{query}", deadline, headers={"Accept": f"image/{image_format}"}
            )
            if answer.content_type != f"image/{image_format}":
                raise unexpected_answer(answer, self._endpoint.url)
            return answer.body, None
        from detectctl import annotate

        data = self._bytes(source, deadline)
        result = self._detect("POST", urlencode(wanted.parameters()), deadline=deadline, body=data)
        image = annotate.open_upright(data)
        if image.size != (result.width, result.height):
            raise UnsupportedImage(
                f"{source.name} cannot be annotated",
                why=f"it has {image.width}x{image.height} pixels here, {result.width}x{result.height} in the service",
            )
        picture = annotate.draw(
            image,
            result.detections,
            labels=style.labels,
            line_width=style.line_width,
            caption=annotate.caption_of(result.model),
        )
        return annotate.encode(picture, image_format, style.quality), result

    def detect_all(self, sources: Iterable[Source], wanted: Wanted | None = None) -> Iterator[Outcome]:
        """The outcome of each source, in the order of `sources`, each as soon as it and those before it are known.

        One source's failure is its outcome, and the rest goes on. Results wait in memory for an earlier source that is
        slow, images do not: a thread reads a source when it sends it, and forgets it with the answer.

        Raises:
            NotRunning: nothing answers at the endpoint, so every other source would fail too.
            Unauthorized: the same of the key.
        """

        def work(source: Source) -> Outcome:
            started = time.monotonic()
            try:
                result = self.detect(source, wanted)
            except DetectctlError as error:
                return Outcome(source, None, error, time.monotonic() - started)
            return Outcome(source, result, None, time.monotonic() - started)

        window = self._concurrency * RESULTS_AHEAD
        return _until_hopeless(in_order(work, sources, workers=self._concurrency, window=window))

    def annotate_all(
        self, plan: Iterable[tuple[Source, Path]], wanted: Wanted | None = None, style: Style | None = None
    ) -> Iterator[Outcome]:
        """Like `detect_all`, and each annotated image is written to its file (`outputs.plan_outputs`) on the way."""

        def work(job: tuple[Source, Path]) -> Outcome:
            source, path = job
            started = time.monotonic()
            try:
                data, result = self.annotate(source, outputs.image_format(path), wanted, style)
                outputs.write(path, data)
            except DetectctlError as error:
                return Outcome(source, None, error, time.monotonic() - started)
            return Outcome(source, result, None, time.monotonic() - started, path)

        window = self._concurrency * RESULTS_AHEAD
        return _until_hopeless(in_order(work, plan, workers=self._concurrency, window=window))

    def _deadline(self) -> Deadline:
        return Deadline.after(self._timeout_s)

    def _bytes(self, source: Source, deadline: Deadline) -> bytes:
        return source.read() if source.url is None else self._hosts.download(source.url, deadline)

    def _detect(self, method: str, query: str, *, deadline: Deadline, body: bytes | None = None) -> DetectionResult:
        headers = {"Content-Type": "application/octet-stream"} if body is not None else {}
        path = f"/detect?{query}" if query else "/detect"
        answer = self._endpoint.ask(method, path, deadline, body=body, headers=headers)
        try:
            return DetectionResult.from_json(answer.json())
        except (KeyError, TypeError, ValueError) as error:
            raise unexpected_answer(answer, self._endpoint.url) from error


def _until_hopeless(outcomes: Iterator[Outcome]) -> Iterator[Outcome]:
    for outcome in outcomes:
        if isinstance(outcome.error, (NotRunning, Unauthorized)):
            raise outcome.error
        yield outcome
