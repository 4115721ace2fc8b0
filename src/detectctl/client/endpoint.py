"""The service's own address: requests that are tried again while that helps, and answers told in our own errors."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from detectctl.client.retries import RetryPolicy, TryAgain
from detectctl.errors import (
    REQUEST_ERRORS,
    DeadlineExceeded,
    DetectctlError,
    FetchFailed,
    FetchTimeout,
    NotReady,
    NotRunning,
    RequestError,
    UsageError,
)
from detectctl.http import Answer, NoAnswer, Server, TooLarge, Unreachable, Untrusted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from detectctl.waiting import Deadline

_HINTS = {
    "unauthorized": "give the service's key: --api-key-file FILE",
    "url_not_allowed": "download it yourself: --fetch client; or allow it: `detectctl up --allow-url HOST`",
    "image_too_large": "send a smaller image, or raise the limit: `detectctl up --max-image-bytes`",
    "overloaded": "try again later, lower --concurrency, or give the service more: `detectctl up --replicas`",
    "fetch_failed": "download it yourself: --fetch client",
    "fetch_timeout": "download it yourself: --fetch client",
    "internal_error": "read the service's log: `detectctl logs`",
}


class Endpoint:
    """One detectctl service; safe to use from several threads.

    Args:
        url: `http://host:port`, with a path if a proxy put one before the routes.
        api_key: sent with each request, and to nobody else.
        retries: attempts after the first.
        connections: kept open at most.
        wait_for_restart: whether to wait from the start for a service that refuses connections, as one that is
            known to be there.

    Raises:
        UsageError: `url` is not such a URL.
    """

    def __init__(
        self, url: str, *, api_key: str | None, retries: int, connections: int, wait_for_restart: bool = False
    ) -> None:
        _require_endpoint(url)
        self.url = url.rstrip("/")
        key = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._server = Server(self.url, headers=key, connections=connections)
        self._retry_policy = RetryPolicy(retries)
        self._is_known = wait_for_restart

    def close(self) -> None:
        """Close the connections and end all waiting."""
        self._retry_policy.close()
        self._server.close()

    def ask(
        self,
        method: str,
        path: str,
        deadline: Deadline,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        retry: bool = True,
    ) -> Answer:
        """The service's answer of status 200.

        500, 502, 503 and 504, resets and timeouts are tried again, unless the answer is about the image's own server.
        With retries at all, a service that is known to be there and refuses connections, and one that says when to come
        back, are asked again until the deadline: an update or a crash is over by then.

        Raises:
            NotRunning: nothing answers, and nothing is known to.
            NotReady: something else answers, or no answer came in time.
            RequestError: what the service answered instead.
        """

        def attempt() -> Answer:
            try:
                answer = self._server.ask(method, path, deadline, body=body, headers=headers)
            except NoAnswer as error:
                raise self._unanswered(error, deadline) from error
            self._is_known = True
            if answer.status == 200:
                return answer
            problem = error_of(answer, self.url)
            if answer.status in {500, 502, 503, 504} and not isinstance(problem, (FetchFailed, FetchTimeout)):
                pause = answer.retry_after_s
                raise TryAgain(problem, pause or 0.0, counts=pause is None)
            raise problem

        return self._retry_policy.run(attempt, deadline, retry=retry)

    def _unanswered(self, error: NoAnswer, deadline: Deadline) -> Exception:
        """What to raise for a request that got no whole answer."""
        why = str(error)
        if isinstance(error, Untrusted):
            return NotReady(f"no secure connection to {self.url}", why=why, hint="check --url and its certificate")
        if isinstance(error, TooLarge):
            return NotReady(f"{self.url} sent too much", why=why, hint="check that --url is a detectctl service")
        if isinstance(error, Unreachable):
            gone = NotRunning(f"nothing answers at {self.url}", why=why, hint="see what is running: `detectctl status`")
            # Where no service was ever seen this is not a restart, and the user should hear of it at once.
            return TryAgain(gone, counts=False) if self._is_known else gone
        hint = "see how it is: `detectctl status`"
        if deadline.passed:
            return DeadlineExceeded(
                f"no answer from {self.url} in time", why=why, hint=f"{hint}; or allow more time: `--timeout 60`"
            )
        return TryAgain(NotReady(f"no answer from {self.url}", why=why, hint=hint))


def error_of(answer: Answer, endpoint: str) -> DetectctlError:
    """What an answer other than 200 means: the service's own words, or a guess at who else answered."""
    request_id = answer.headers.get("x-request-id")
    suffix = f" (request {request_id})" if request_id else ""
    data = answer.json()
    error = data.get("error") if isinstance(data, dict) else None
    if isinstance(error, dict) and isinstance(error.get("code"), str):
        code = error["code"]
        kind = REQUEST_ERRORS.get(code, RequestError)
        message = str(error.get("message") or code)
        return kind(message, why=f"the service answered {answer.status} {code}{suffix}", hint=_HINTS.get(code))
    if 300 <= answer.status < 400:
        return NotReady(
            f"{endpoint} answered {answer.status}",
            why=f"it redirects to {answer.headers.get('location', 'nowhere')}{suffix}, and redirects are not followed",
            hint="if that is the service, name it: --url",
        )
    text = " ".join(answer.body[:400].decode(errors="replace").split())[:200]
    by_status = {kind.status: kind for kind in REQUEST_ERRORS.values() if kind.status < 500}
    kind_by_status = by_status.get(answer.status)
    why = f"it said {text!r}{suffix}" if text else f"it said nothing more{suffix}"
    if kind_by_status is not None:
        return kind_by_status(f"{endpoint} answered {answer.status}", why=why, hint=_HINTS.get(kind_by_status.code))
    hint = "see how it is: `detectctl status`" if answer.status >= 500 else "check that --url is a detectctl service"
    return NotReady(f"{endpoint} answered {answer.status}", why=why, hint=hint)


def unexpected_answer(answer: Answer, endpoint: str) -> NotReady:
    """For an answer of 200 that is not what the service answers."""
    return NotReady(
        f"{endpoint} does not answer like a detectctl service",
        why=f"it sent {len(answer.body)} bytes of {answer.content_type or 'no type'}",
        hint="check --url",
    )


def _require_endpoint(url: str) -> None:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable or parts.query or parts.fragment or parts.username is not None:
        raise UsageError(
            "the endpoint is not the URL of a service",
            why="it must be http:// or https://, a host, and no user, query or fragment",
            hint="for example `--url http://127.0.0.1:8000`",
        )
