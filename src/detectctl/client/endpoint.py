"""The service's own address: requests that are tried again while that helps, and answers as our own errors."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from detectctl.client.retries import RetryPolicy, TryAgain
from detectctl.errors import (
    DeadlineExceeded,
    DetectctlError,
    FetchFailed,
    FetchTimeout,
    ImageTooLarge,
    NotReady,
    NotRunning,
    Unauthorized,
    UsageError,
)
from detectctl.http import Answer, BadAddress, NoAnswer, Server, TooLarge, Unreachable, Untrusted
from detectctl.wire import ErrorInfo

if TYPE_CHECKING:
    from collections.abc import Mapping

    from detectctl.waiting import Deadline

_HINTS = {
    "unauthorized": "give the service's key: `--api-key-file FILE`",
    "url_not_allowed": "download it yourself: `--fetch client`; or allow its host: `detectctl up --allow-url HOST`",
    "overloaded": "try again later, lower `--concurrency`, or add replicas: `detectctl up --replicas N`",
    "fetch_failed": "download it yourself: `--fetch client`",
    "fetch_timeout": "download it yourself: `--fetch client`",
}
"""In place of the service's own hint, which speaks of HTTP, where a client can do better."""

_BY_STATUS = {401: Unauthorized, 403: Unauthorized, 413: ImageTooLarge}
"""What the status of an answer means that is not the service's own, as a proxy's."""


class Endpoint:
    """One detectctl service; safe to use from several threads.

    Args:
        url: `http://host:port`, with a path if a proxy put one before the routes.
        api_key: sent with each request, and nowhere else.
        retries: attempts after the first.
        connections: kept open at most.
        wait_for_restart: whether to wait from the start for a service that refuses connections, as one that is
            known to be there.

    Raises:
        UsageError: `url` is not that of a service.
    """

    def __init__(
        self, url: str, *, api_key: str | None, retries: int, connections: int, wait_for_restart: bool = False
    ) -> None:
        _require_endpoint(url)
        self.url = url.rstrip("/")
        key = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        try:
            self._server = Server(self.url, headers=key, connections=connections)
        except BadAddress as error:
            raise _not_an_endpoint(str(error)) from error
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
        Unless `retries` is 0, a service that is known to be there but refuses connections, and one that says when to
        come back, are asked again until the deadline: an update or a crash is over by then.

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
        if isinstance(error, BadAddress):
            return _not_an_endpoint(why)
        if isinstance(error, Untrusted):
            return NotReady(
                f"no secure connection to {self.url}", why=why, hint="check `--url`, and the certificate of that host"
            )
        if isinstance(error, TooLarge):
            return NotReady(f"{self.url} sent too much", why=why, hint="check that `--url` is a detectctl service")
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
    """What an answer other than 200 means: the error that the service sent, or a guess at who else answered."""
    error = _sent_error(answer) or _guessed_error(answer, endpoint)
    error.request_id = answer.headers.get("x-request-id")
    error.hint = _HINTS.get(error.code, error.hint)
    return error


def _sent_error(answer: Answer) -> DetectctlError | None:
    try:
        return ErrorInfo.from_json(answer.json()["error"]).to_error()
    except (KeyError, TypeError):
        return None


def _guessed_error(answer: Answer, endpoint: str) -> DetectctlError:
    what = f"{endpoint} answered {answer.status}"
    if 300 <= answer.status < 400:
        return NotReady(
            what,
            why=f"it redirects to {answer.headers.get('location', 'nowhere')}, and redirects are not followed",
            hint="if that is the service, name it: `--url URL`",
        )
    text = " ".join(answer.body[:400].decode(errors="replace").split())[:200]
    why = f"it said {text!r}" if text else "it said nothing more"
    if answer.status >= 500:
        return NotReady(what, why=why, hint="check the service: `detectctl status`")
    return _BY_STATUS.get(answer.status, NotReady)(what, why=why, hint="check that `--url` is a detectctl service")


def unexpected_answer(answer: Answer, endpoint: str) -> NotReady:
    """For an answer of 200 that is not what the service answers."""
    return NotReady(
        f"{endpoint} does not answer like a detectctl service",
        why=f"it sent {len(answer.body)} bytes of {answer.content_type or 'no type'}",
        hint="check `--url`",
    )


def _require_endpoint(url: str) -> None:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable or parts.query or parts.fragment or parts.username is not None:
        raise _not_an_endpoint("it must be http:// or https://, a host, and no user, query or fragment")


def _not_an_endpoint(why: str) -> UsageError:
    return UsageError(
        "the endpoint is not the URL of a service", why=why, hint="for example `--url http://127.0.0.1:8000`"
    )
