"""Images that the client downloads itself, instead of leaving that to the service."""

from __future__ import annotations

from typing import TYPE_CHECKING

from detectctl.client.retries import RetryPolicy, TryAgain
from detectctl.errors import BadUrl, FetchFailed, FetchTimeout, ImageTooLarge
from detectctl.http import BadAddress, BrokenOff, Downloads, NoAnswer, Refused, TooLarge, TooSlow
from detectctl.sources import MAX_FILE_BYTES

if TYPE_CHECKING:
    from detectctl.waiting import Deadline


class ImageHosts:
    """Downloads of images from anywhere, tried again while that may help; the API key is never sent."""

    def __init__(self, *, retries: int, connections: int) -> None:
        self._downloads = Downloads(connections=connections)
        self._retry_policy = RetryPolicy(retries)

    def close(self) -> None:
        """Close the connections and end all waiting."""
        self._retry_policy.close()
        self._downloads.close()

    def download(self, url: str, deadline: Deadline) -> bytes:
        """The bytes at `url`.

        Raises:
            BadUrl: malformed.
            FetchFailed: its server refused, failed or sent nothing.
            FetchTimeout: it was too slow.
            ImageTooLarge: more than any service accepts.
        """

        def attempt() -> bytes:
            try:
                data = b"".join(self._downloads.stream(url, deadline, max_bytes=MAX_FILE_BYTES))
            except NoAnswer as error:
                raise _problem(url, error, deadline) from error
            if not data:
                raise FetchFailed(f"{url} cannot be downloaded", why="its server sent nothing")
            return data

        return self._retry_policy.run(attempt, deadline)


def _problem(url: str, error: NoAnswer, deadline: Deadline) -> Exception:
    match error:
        case BadAddress():
            return BadUrl(f"{url} cannot be opened", why=str(error), hint="check the URL, and HTTP_PROXY if it is set")
        case TooLarge():
            return ImageTooLarge(f"{url} is too large", why=str(error), hint="use a smaller image")
        case TooSlow():
            slow = FetchTimeout(
                f"{url} was not downloaded in time", why=str(error), hint="allow more time: `--timeout 60`"
            )
            return slow if deadline.passed else TryAgain(slow)
        case Refused(status=status):
            failed = FetchFailed(f"{url} cannot be downloaded", why=f"its server answered {status}")
            again = status in {429, 500, 502, 503, 504}
            return TryAgain(failed, error.retry_after_s or 0.0) if again else failed
        case _:
            failed = FetchFailed(f"{url} cannot be downloaded", why=str(error))
            return TryAgain(failed) if isinstance(error, BrokenOff) else failed
