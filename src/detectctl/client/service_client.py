"""The service as seen from outside: one endpoint, asked about images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar
from urllib.parse import urlencode

from detectctl.client.endpoint import Endpoint, unexpected_answer
from detectctl.client.image_hosts import ImageHosts
from detectctl.client.outcomes import Outcomes, work_on_all
from detectctl.defaults import CONCURRENCY, RETRIES, TIMEOUT_S
from detectctl.errors import DetectctlError, UnsupportedImage
from detectctl.sources import Source
from detectctl.waiting import Deadline
from detectctl.wire import DetectionResult, DetectOptions, DrawOptions, ServiceInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path
    from types import TracebackType

    from detectctl.http import Answer

    Image = Source | Path | str | bytes
    """A file's path, an http(s) URL, encoded bytes, or a `Source` that names one of these."""

T = TypeVar("T")


class Client:
    """One endpoint; safe to use from several threads. Close it, or use it in `with`.

    Args:
        endpoint: `http://host:port`, with a path before the routes if a proxy added one.
        api_key: sent to the endpoint's origin, and nowhere else.
        timeout_s: for each image, from reading it to its answer, with all retries.
        retries: attempts after the first on 500, 502 and 503, resets and timeouts.
        concurrency: requests in flight, and so images in memory, when many are asked about at once.
        fetch: who downloads an image that is given by URL: the server or this client.
        wait_for_restart: whether a service that refuses connections is waited for from the start.

    Raises:
        UsageError: the endpoint is not an http(s) URL.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        api_key: str | None = None,
        timeout_s: float = TIMEOUT_S,
        retries: int = RETRIES,
        concurrency: int = CONCURRENCY,
        fetch: Literal["server", "client"] = "server",
        wait_for_restart: bool = False,
    ) -> None:
        self._endpoint = Endpoint(
            endpoint, api_key=api_key, retries=retries, connections=concurrency, wait_for_restart=wait_for_restart
        )
        self._hosts = ImageHosts(retries=retries, connections=concurrency)
        self._timeout_s = timeout_s
        self._fetch = fetch
        self.concurrency = concurrency

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

    def info(self) -> ServiceInfo:
        """What the service says of itself: model, classes, engine, limits, defaults.

        Raises:
            NotRunning: nothing answers.
            NotReady: something else answers, or not in time.
            RequestError: the service refused.
        """
        return self._read(self._endpoint.ask("GET", "/info", self._deadline()), ServiceInfo.from_json)

    def labels(self) -> dict[int, str]:
        """The name of each class id of the model that is served; raises what `info` raises."""
        return {int(class_id): name for class_id, name in self.info().classes.items()}

    def deployment(self) -> str:
        """The fingerprint of the deployment that is ready, by one question to `/readyz`; raises what `info` raises."""
        answer = self._endpoint.ask("GET", "/readyz", self._deadline(), retry=False)
        return self._read(answer, lambda data: str(data["deployment"]))

    def ready(self) -> bool:
        """Whether a model answers."""
        try:
            return bool(self.deployment())
        except DetectctlError:
            return False

    def detect(self, image: Image, options: DetectOptions | None = None) -> DetectionResult:
        """The detections in one image.

        Raises:
            SourceUnreadable: the file cannot be read.
            NotRunning: nothing answers.
            NotReady: something else answers, or not in time.
            RequestError: the service refused, or the image's own server failed.
        """
        source, options, deadline = Source.of(image), options or DetectOptions(), self._deadline()
        if source.url is not None and self._fetch == "server":
            return self._detect("GET", [("image_url", source.url), *options.parameters()], deadline)
        return self._detect("POST", options.parameters(), deadline, self._bytes(source, deadline))

    def detect_all(self, images: Iterable[Image], options: DetectOptions | None = None) -> Outcomes:
        """The outcome of each image; `concurrency` of them are in flight at a time."""

        def work(source: Source, _: Path | None) -> DetectionResult:
            return self.detect(source, options)

        return work_on_all(work, ((Source.of(image), None) for image in images), workers=self.concurrency)

    def annotate(
        self,
        image: Image,
        image_format: Literal["jpeg", "png", "webp"] = "jpeg",
        options: DetectOptions | None = None,
        drawing: DrawOptions | None = None,
    ) -> tuple[bytes, DetectionResult | None]:
        """The encoded image with its detections drawn on it, and the detections.

        Boxes must belong to the pixels under them. So the bytes that are sent are the bytes that are drawn on; and
        where the service downloads, only it has those bytes, so it draws as well (then the detections are not known).

        Args:
            image: what to draw on.
            image_format: of the result.
            options: as for `detect`.
            drawing: how to draw.

        Raises:
            UsageError: the format cannot hold an image of this size.
            DetectctlError: as for `detect`.
        """
        source, options, drawing = Source.of(image), options or DetectOptions(), drawing or DrawOptions()
        deadline = self._deadline()
        if source.url is not None and self._fetch == "server":
            query = urlencode([("image_url", source.url), *options.parameters(), *drawing.parameters()])
            media = f"image/{image_format}"
            answer = self._endpoint.ask("GET", f"/annotate?{query}", deadline, headers={"Accept": media})
            if answer.content_type != media:
                raise unexpected_answer(answer, self._endpoint.url)
            return answer.body, None
        from detectctl.annotate import annotated
        from detectctl.upright import open_upright

        data = self._bytes(source, deadline)
        result = self._detect("POST", options.parameters(), deadline, data)
        picture = open_upright(data)
        if picture.size != (result.width, result.height):
            width, height = picture.size
            raise UnsupportedImage(
                f"{source.name} cannot be annotated",
                why=f"it has {width}x{height} pixels here, {result.width}x{result.height} in the service",
            )
        return annotated(picture, result, image_format, drawing), result

    def _deadline(self) -> Deadline:
        return Deadline.after(self._timeout_s)

    def _bytes(self, source: Source, deadline: Deadline) -> bytes:
        return source.read() if source.url is None else self._hosts.download(source.url, deadline)

    def _detect(
        self, method: str, parameters: list[tuple[str, str]], deadline: Deadline, body: bytes | None = None
    ) -> DetectionResult:
        headers = {"Content-Type": "application/octet-stream"} if body is not None else {}
        path = f"/detect?{urlencode(parameters)}" if parameters else "/detect"
        answer = self._endpoint.ask(method, path, deadline, body=body, headers=headers)
        return self._read(answer, DetectionResult.from_json)

    def _read(self, answer: Answer, parse: Callable[[Any], T]) -> T:
        try:
            return parse(answer.json())
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise unexpected_answer(answer, self._endpoint.url) from error
