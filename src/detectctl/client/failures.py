"""What it means to a user that the service, or an image's own server, did not answer as hoped for.

The functions return what to raise: an error of ours, or `TryAgain` with one where another attempt may succeed.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from detectctl.addresses import NO_FRAGMENT
from detectctl.errors import (
    BadUrl,
    DeadlineExceeded,
    FetchFailed,
    FetchTimeout,
    ImageTooLarge,
    NotReady,
    NotRunning,
    Unauthorized,
    UsageError,
)
from detectctl.headers import come_back
from detectctl.http import BadAddress, BrokenOff, NoAnswer, Refused, TooLarge, TooSlow, Unreachable, Untrusted
from detectctl.wire import error_from_json

if TYPE_CHECKING:
    from detectctl.errors import DetectctlError
    from detectctl.http import Answer
    from detectctl.waiting import Deadline

_HINTS = {
    "unauthorized": "give the service's key: `--api-key-file FILE`",
    "url_not_allowed": "download it yourself: `--fetch client`; or allow its host: `detectctl up --allow-url HOST`",
    "not_found": "give the service's own address, without a route: `--url http://HOST:PORT`",
    "overloaded": "try again later, lower `--concurrency`, or add replicas: `detectctl up --replicas N`",
    "fetch_failed": "check the URL; or download it yourself: `--fetch client`",
    "fetch_timeout": "download it yourself: `--fetch client`",
}
"""In place of the service's own hint, which speaks of HTTP, where a client can do better."""

MAY_PASS = frozenset({429, 500, 502, 503, 504})
"""Of a server that may answer another time."""

_BY_STATUS = {401: Unauthorized, 403: Unauthorized, 413: ImageTooLarge}
"""What the status of an answer means that is not the service's own, as a proxy's."""


class TryAgain(Exception):
    """This attempt failed in a way that another may not.

    Args:
        problem: what to raise if there is no other attempt.
        pause_s: what the server asked for.
        counts: against the number of retries; a service that is away or full for a while is waited for instead.
    """

    def __init__(self, problem: DetectctlError, pause_s: float = 0.0, *, counts: bool = True) -> None:
        super().__init__(problem.what)
        self.problem, self.pause_s, self.counts = problem, pause_s, counts


def refused(answer: Answer, endpoint: str) -> Exception:
    """For an answer other than 200: the error that the service sent, or a guess at who else answered."""
    problem = _sent_error(answer) or _guessed_error(answer, endpoint)
    problem.request_id = answer.headers.get("x-request-id")
    problem.hint = _HINTS.get(problem.code, problem.hint)
    pause = answer.retry_after_s
    if isinstance(problem, (FetchFailed, FetchTimeout)):  # only the image's own server knows whether to come back
        return problem if pause is None else TryAgain(problem, pause)
    if answer.status in MAY_PASS:
        return TryAgain(problem, pause or 0.0, counts=pause is None)
    return problem


def unanswered(error: NoAnswer, endpoint: str, deadline: Deadline, *, is_known: bool) -> Exception:
    """For a request that got no whole answer; `is_known` tells whether a service has been seen there."""
    why = str(error)
    match error:
        case BadAddress():
            return not_an_endpoint(endpoint, why)
        case Untrusted():
            hint = "check `--url`, and the certificate of that host"
            return NotReady(f"no secure connection to {endpoint}", why=why, hint=hint)
        case TooLarge():
            return NotReady(f"{endpoint} sent too much", why=why, hint="check that `--url` is a detectctl service")
        case Unreachable():
            gone = NotRunning(f"nothing answers at {endpoint}", why=why, hint="see what is running: `detectctl status`")
            # Where no service was ever seen this is not a restart, and the user should hear of it at once.
            return TryAgain(gone, counts=False) if is_known else gone
    hint = "see how it is: `detectctl status`"
    if deadline.passed:
        hint += "; or allow more time: `--timeout 60`"
        return DeadlineExceeded(f"no answer from {endpoint} in time", why=why, hint=hint)
    return TryAgain(NotReady(f"no answer from {endpoint}", why=why, hint=hint))


def not_downloaded(error: NoAnswer, url: str, deadline: Deadline) -> Exception:
    """For an image that the client downloads itself."""
    why = str(error)
    match error:
        case BadAddress():
            return BadUrl(f"{url} cannot be opened", why=why, hint="check the URL, and HTTP_PROXY if it is set")
        case TooLarge():
            return ImageTooLarge(f"{url} is too large", why=why, hint="use a smaller image")
        case TooSlow():
            slow = FetchTimeout(f"{url} was not downloaded in time", why=why, hint="allow more time: `--timeout 60`")
            return slow if deadline.passed else TryAgain(slow)
        case Refused(answer=answer):
            more = NO_FRAGMENT if answer.status == 404 and "#" in url else come_back(answer.retry_after_s)
            failed = _failed(url, f"its server answered {answer.status}{more}")
            if answer.status == 401:
                failed.hint = "give the user name and password that it asks for: `http://USER:PASSWORD@…`"
            return TryAgain(failed, answer.retry_after_s or 0.0) if answer.status in MAY_PASS else failed
    failed = _failed(url, why)
    return TryAgain(failed) if isinstance(error, BrokenOff) else failed


def _failed(url: str, why: str) -> FetchFailed:
    return FetchFailed(f"{url} cannot be downloaded", why=why, hint="check the URL, for example in a browser")


def unexpected_answer(answer: Answer, endpoint: str) -> NotReady:
    """For an answer of 200 that is not what the service answers."""
    why = f"it sent {len(answer.body)} bytes of {answer.content_type or 'no type'}"
    return NotReady(f"{endpoint} does not answer like a detectctl service", why=why, hint="check `--url`")


def not_an_endpoint(url: str, why: str) -> UsageError:
    """For an address that no service can have."""
    hint = "for example `--url http://127.0.0.1:8000`"
    shown = "the endpoint" if set(url) & set("@?#") else repr(url)  # what these part off may be a secret
    return UsageError(f"{shown} is not the URL of a service", why=why, hint=hint)


def _sent_error(answer: Answer) -> DetectctlError | None:
    try:
        return error_from_json(answer.json()["error"])
    except (KeyError, TypeError):
        return None


def _guessed_error(answer: Answer, endpoint: str) -> DetectctlError:
    what = f"{endpoint} answered {answer.status}"
    if 300 <= answer.status < 400:
        why = f"it redirects to {answer.headers.get('location', 'nowhere')}, and redirects are not followed"
        return NotReady(what, why=why, hint="if that is the service, name it: `--url URL`")
    text = answer.body[:2000].decode(errors="replace")
    if answer.content_type == "text/html":  # for people: without what is for browsers
        text = re.sub(r"<[^>]*>", " ", text)
    text = " ".join(text.split())[:100]
    why = f"it said {text!r}" if text else "it said nothing more"
    if answer.status >= 500:
        return NotReady(what, why=why, hint="check `--url`, and the service: `detectctl status`")
    return _BY_STATUS.get(answer.status, NotReady)(what, why=why, hint="check that `--url` is a detectctl service")
