"""The service as seen from outside: one endpoint, asked about images."""

from __future__ import annotations

import random
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar
from urllib.parse import urlencode

from detectctl.addresses import masked
from detectctl.client.drawings import DrawnHere, DrawnThere
from detectctl.client.failures import TryAgain, not_an_endpoint, not_downloaded, refused, unanswered, unexpected_answer
from detectctl.client.outcomes import Outcome, Outcomes, work_on_all
from detectctl.defaults import CONCURRENCY, RETRIES, TIMEOUT_S
from detectctl.errors import BadUrl, DetectctlError, FetchFailed, UnsupportedImage
from detectctl.http import BadAddress, Downloads, NoAnswer, Server
from detectctl.not_images import TEXT, kind_of
from detectctl.sources import MAX_FILE_BYTES, Source
from detectctl.waiting import Deadline
from detectctl.wire import DetectionResult, DetectOptions, DrawOptions, ServiceInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from detectctl.http import Answer

    Image = Source | Path | str | bytes
    """A file's path, an http(s) URL, encoded bytes, or a `Source` that names one of these."""

T = TypeVar("T")

FIRST_PAUSE_S = 0.2
"""Before the second attempt; doubles with each further one."""

_LONGEST_PAUSE_S = 3.2


class Client:
    """One endpoint; safe to use from several threads. Close it, or use it in `with`.

    Args:
        endpoint: `http://host:port`, with a path before the routes if a proxy added one.
        api_key: sent to the endpoint's origin, and nowhere else.
        timeout_s: for each image, from reading it to its answer, with all retries.
        retries: attempts after the first on 500, 502 and 503, resets and timeouts. Unless it is 0, a service that is
            known to be there but refuses connections, and one that says when to come back, are asked again until the
            timeout: an update or a crash is over by then.
        concurrency: requests in flight, and so images in memory, when many are asked about at once.
        fetch: who downloads an image that is given by URL: the server or this client.
        wait_for_restart: whether a service that refuses connections is known to be there from the start.
        others: endpoints of the same service, as of a cluster's other nodes, each asked when the one before it gives no
            answer; the key is sent there, too.

    Raises:
        UsageError: an endpoint is not an http(s) URL.
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
        others: Sequence[str] = (),
    ) -> None:
        self._urls = [url.rstrip("/") for url in (endpoint, *others)]
        self._turn = 0
        key = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._servers = []
        for url in (endpoint, *others):
            try:
                self._servers.append(Server(url, headers=key, connections=concurrency))
            except BadAddress as error:
                raise not_an_endpoint(url, str(error)) from error
        self._downloads = Downloads(connections=concurrency)
        self._closed = threading.Event()
        self._retries = retries
        self._timeout_s = timeout_s
        self._fetch = fetch
        self._is_known = wait_for_restart or bool(others)
        self.concurrency = concurrency

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; requests that wait for their next attempt give up."""
        self._closed.set()
        for server in self._servers:
            server.close()
        self._downloads.close()

    def info(self) -> ServiceInfo:
        """What the service says of itself: model, classes, engine, limits, defaults.

        Raises:
            NotRunning: nothing answers.
            NotReady: something else answers, or not in time.
            RequestError: the service refused.
        """
        return self._read(self._ask("GET", "/info", self._deadline()), ServiceInfo.from_json)

    def labels(self) -> dict[int, str]:
        """The name of each class id of the model that is served; raises what `info` raises."""
        return {int(class_id): name for class_id, name in self.info().classes.items()}

    def deployment(self) -> str:
        """The fingerprint of the deployment that is ready, by one question to `/readyz`; raises what `info` raises."""
        answer = self._ask("GET", "/readyz", self._deadline(), retry=False)
        return self._read(answer, lambda data: str(data["deployment"]))

    def ready(self) -> bool:
        """Whether a model answers."""
        try:
            return bool(self.deployment())
        except DetectctlError:
            return False

    def detect(self, image: Image, options: DetectOptions | None = None) -> DetectionResult:
        """The detections in one image; the result can read the image again, and so show itself in a notebook.

        Raises:
            SourceUnreadable: the file cannot be read.
            RequestError: the service refused, or the image's own server failed.
            DetectctlError: as for `info`.
        """
        source, query, deadline = Source.of(image), (options or DetectOptions()).parameters(), self._deadline()
        if source.url is not None and self._is_for_service(source.url):
            answer = self._ask("GET", "/detect", deadline, [("image_url", source.url), *query])
            return self._read(answer, DetectionResult.from_json)
        read_image = source.again()
        return replace(self._detect(self._bytes(source, deadline), query, deadline), read_image=read_image)

    def detect_all(self, images: Iterable[Image], options: DetectOptions | None = None) -> Outcomes:
        """The outcome of each image; `concurrency` of them are in flight at a time."""
        jobs = ((Source.of(image), None) for image in images)

        def work(source: Source, _: None) -> Outcome:
            return Outcome(source, self.detect(source, options))

        return work_on_all(work, jobs, workers=self.concurrency)

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

        Raises:
            UsageError: the format cannot hold an image of this size.
            DetectctlError: as for `detect`.
        """
        drawing = drawing or DrawOptions()
        drawn = self.drawing(Source.of(image), image_format, options, drawing)
        return drawn.encoded(image_format, drawing), drawn.result

    def drawing(
        self,
        source: Source,
        image_format: Literal["jpeg", "png", "webp"],
        options: DetectOptions | None,
        drawing: DrawOptions,
    ) -> DrawnHere | DrawnThere:
        """What `annotate` encodes; raises what it raises. What the service draws has its format and look already."""
        deadline = self._deadline()
        query = (options or DetectOptions()).parameters()
        if source.url is not None and self._is_for_service(source.url):
            media = f"image/{image_format}"
            query = [("image_url", source.url), *query, *drawing.parameters()]
            answer = self._ask("GET", "/annotate", deadline, query, headers={"Accept": media})
            if answer.content_type != media:
                raise unexpected_answer(answer, self._url)
            return DrawnThere(answer.body)
        from detectctl.upright import open_upright

        data = self._bytes(source, deadline)
        result = self._detect(data, query, deadline)
        picture = open_upright(data)
        if picture.size != (result.width, result.height):
            width, height = picture.size
            raise UnsupportedImage(
                f"{source.name} cannot be annotated",
                why=f"it has {width}x{height} pixels here, {result.width}x{result.height} in the service",
                hint="convert it to a PNG or JPEG file first",
            )
        return DrawnHere(picture, result)

    @property
    def _url(self) -> str:
        """The endpoint that is asked now."""
        return self._urls[self._turn]

    def _is_for_service(self, url: str) -> bool:
        """Whether the service downloads an image; raises BadUrl rather than tell it a password."""
        if self._fetch == "server" and masked(url) != url:
            raise BadUrl(
                f"{masked(url)} is not given to the service",
                why="it contains a password, and only its own server may have that",
                hint="download it yourself: `--fetch client`",
            )
        return self._fetch == "server"

    def _deadline(self) -> Deadline:
        return Deadline.after(self._timeout_s)

    def _bytes(self, source: Source, deadline: Deadline) -> bytes:
        data = source.read() if source.url is None else self._download(source.url, source.name, deadline)
        kind = kind_of(data)
        if kind is not None and kind != TEXT:
            hint = "see what it is: open it in a browser or an editor"
            raise UnsupportedImage(f"{source.name} is not an image", why=f"it is {kind}", hint=hint)
        return data

    def _download(self, url: str, name: str, deadline: Deadline) -> bytes:
        def attempt() -> bytes:
            try:
                data = b"".join(self._downloads.stream(url, deadline, max_bytes=MAX_FILE_BYTES))
            except NoAnswer as error:
                raise not_downloaded(error, name, deadline) from error
            if not data:
                raise FetchFailed(f"{name} cannot be downloaded", why="its server sent nothing", hint="check the URL")
            return data

        return self._attempts(attempt, deadline)

    def _detect(self, data: bytes, query: Sequence[tuple[str, str]], deadline: Deadline) -> DetectionResult:
        headers = {"Content-Type": "application/octet-stream"}
        answer = self._ask("POST", "/detect", deadline, query, body=data, headers=headers)
        return self._read(answer, DetectionResult.from_json)

    def _ask(
        self,
        method: str,
        path: str,
        deadline: Deadline,
        query: Sequence[tuple[str, str]] = (),
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        retry: bool = True,
    ) -> Answer:
        """The service's answer of status 200; raises what `info` raises."""
        target = f"{path}?{urlencode(query)}" if query else path

        def attempt() -> Answer:
            turn = self._turn
            try:
                answer = self._servers[turn].ask(method, target, deadline, body=body, headers=headers)
            except NoAnswer as error:
                if turn == self._turn:  # else another thread has moved on already
                    self._turn = (turn + 1) % len(self._servers)
                raise unanswered(error, self._url, deadline, is_known=self._is_known) from error
            self._is_known = True
            if answer.status != 200:
                raise refused(answer, self._url)
            return answer

        return self._attempts(attempt, deadline, retry=retry)

    def _attempts(self, attempt: Callable[[], T], deadline: Deadline, *, retry: bool = True) -> T:
        """What `attempt` returns first; raises its last problem when the retries, the time or the client have ended."""
        left = self._retries if retry else 0
        base = FIRST_PAUSE_S
        while True:
            try:
                return attempt()
            except TryAgain as again:
                # Random, or all threads that one refusal hit come back together.
                pause = again.pause_s + base * random.uniform(0.5, 1.5)  # noqa: S311 - no secret
                if left == 0 or pause >= deadline.left_s or self._closed.wait(pause):
                    raise again.problem from again.__cause__
                left -= again.counts
                base = min(2 * base, _LONGEST_PAUSE_S)

    def _read(self, answer: Answer, parse: Callable[[Any], T]) -> T:
        try:
            return parse(answer.json())
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise unexpected_answer(answer, self._url) from error
