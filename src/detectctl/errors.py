"""The one tree of errors that detectctl raises on purpose.

An error says what failed and with which value, why, and the next command to try. It owns the exit code of the command
that it ends; a `RequestError` also owns the HTTP status of the service's answer. A class that states neither has its
parent's. The first lines of the docstrings are the table in the documents.

```
DetectctlError              exit code 1
├── UsageError                        2
│   └── NotInstalled
├── NotRunning                        3
├── NotReady                          4
│   ├── DeadlineExceeded
│   └── PortTaken
├── ModelError                        5
│   ├── ModelNotFound
│   ├── ModelAccessDenied
│   ├── RegistryUnreachable
│   │   └── RegistryTimedOut
│   ├── ModelCorrupt
│   ├── CheckpointRefused
│   └── ConversionFailed
├── FallbackServed                    8
├── SourceUnreadable                  6
└── RequestError                      6   one class for each code that the service answers with
```
"""

from __future__ import annotations

import re
from typing import ClassVar


class DetectctlError(Exception):
    """Something that a user can understand went wrong.

    Args:
        what: one line: what failed, and with which value.
        why: one line: the cause.
        hint: one line: the next command to try.

    Attributes:
        exit_code: of the command that it ends.
        code: the class's name in snake case, for programs.
        finding: what `detectctl doctor` says that may be behind it, one line.
        request_id: of the request that a service answered with this error, as in the service's log.
    """

    exit_code: ClassVar[int] = 1
    code: str = "error"
    finding: str | None = None
    request_id: str | None = None

    def __init__(self, what: str, *, why: str | None = None, hint: str | None = None) -> None:
        super().__init__(what)
        self.what, self.why, self.hint = what, why, hint

    @property
    def what_and_why(self) -> str:
        """One line, where three would be too many."""
        return f"{self.what}: {self.why}" if self.why else self.what

    def __str__(self) -> str:
        """All three in one line, for tracebacks and logs; of a traceback, some programs show only the last line."""
        return f"{self.what_and_why}; try: {self.hint}" if self.hint else self.what_and_why

    def __init_subclass__(cls, *, exit_code: int | None = None) -> None:
        super().__init_subclass__()
        cls.code = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()
        if exit_code is not None:
            cls.exit_code = exit_code


class UsageError(DetectctlError, exit_code=2):
    """An option, a setting, a model reference or a file name is wrong."""


class NotInstalled(UsageError, ImportError):
    """A package that only this needs is not installed, or does not load."""


class NotRunning(DetectctlError, exit_code=3):
    """There is no such instance, or nothing answers at its endpoint."""


class NotReady(DetectctlError, exit_code=4):
    """The instance exists, but is not ready or not healthy."""


class DeadlineExceeded(NotReady):
    """A wait passed its deadline; the message names the last state seen."""


class PortTaken(NotReady):
    """Another process listens where the service should."""


class ModelError(DetectctlError, exit_code=5):
    """The model could not be loaded."""


class ModelNotFound(ModelError):
    """No such artifact, version, alias or file."""


class ModelAccessDenied(ModelError):
    """The W&B key is missing, wrong, or may not read this artifact."""


class RegistryUnreachable(ModelError):
    """W&B, or the server of base models, could not be reached, failed or took too long."""


class RegistryTimedOut(RegistryUnreachable):
    """The network or W&B failed until `--model-timeout` had passed; the one error that a fallback may stand in for."""


class ModelCorrupt(ModelError):
    """Bytes differ from what their digest promises."""


class CheckpointRefused(ModelError):
    """The checkpoint wants to run code, is damaged or of a kind that is not served; or the export is."""


class ConversionFailed(ModelError):
    """A sound checkpoint could not be converted for the engine."""


class FallbackServed(DetectctlError, exit_code=8):
    """The service runs, but with base YOLOv8n: W&B did not deliver the requested model in time."""


class SourceUnreadable(DetectctlError, exit_code=6):
    """One source has no image in it, or is a file that cannot be read."""


class RequestError(DetectctlError, exit_code=6):
    """One request failed; raised in a replica, and again from its answer in the client.

    Attributes:
        retry_after_s: when to come back, if that is known; the answer's `Retry-After`.
    """

    status: ClassVar[int] = 500
    retry_after_s: int | None = None

    def __init_subclass__(cls, *, status: int, exit_code: int | None = None) -> None:
        super().__init_subclass__(exit_code=exit_code)
        cls.status = status


class BadRequest(RequestError, status=400):
    """The request is not valid HTTP for this service."""


class BadUrl(RequestError, status=400):
    """The image URL is not http(s), has no host, or is malformed."""


class Unauthorized(RequestError, status=401, exit_code=7):
    """The API key is missing or wrong."""


class UrlNotAllowed(RequestError, status=403, exit_code=7):
    """The address or host of an image URL is not permitted, at any redirect hop."""


class NotFound(RequestError, status=404):
    """The service has no such route."""


class MethodNotAllowed(RequestError, status=405):
    """The route does not take this method; `Allow` lists those that it takes."""


class NotAcceptable(RequestError, status=406):
    """`Accept` names no image format that `/annotate` writes."""


class RequestTimeout(RequestError, status=408):
    """The request's own body did not arrive in time."""


class ImageTooLarge(RequestError, status=413, exit_code=7):
    """Bytes or decoded pixels are over the limit."""


class UnsupportedImage(RequestError, status=415):
    """Not an image that can be decoded, or a truncated one."""


class HostNotKnown(RequestError, status=421, exit_code=7):
    """A request without a key whose `Host` is not a name of this machine."""


class BadParameter(RequestError, status=422):
    """A query parameter (conf, iou, class) is unknown or out of range."""


class ClientClosed(RequestError, status=499):
    """The caller went away before its answer; in logs and counters only."""


class InternalError(RequestError, status=500):
    """The replica failed unexpectedly; its log has the request id and the traceback."""


class FetchFailed(RequestError, status=502):
    """The image's own server failed; `Retry-After` says when to come back, if that server said so."""


class BadGateway(RequestError, status=502, exit_code=4):
    """The replica went away before it had answered."""


class Overloaded(RequestError, status=503):
    """The queue is full; `Retry-After` says when to come back."""

    retry_after_s = 1


class Unavailable(RequestError, status=503, exit_code=4):
    """No replica can take the request now, as when the service starts; `Retry-After` says when to come back."""


class FetchTimeout(RequestError, status=504):
    """The image's own server was too slow."""


class GatewayTimeout(RequestError, status=504, exit_code=4):
    """The replica did not answer in time."""


REQUEST_ERRORS: dict[str, type[RequestError]] = {error.code: error for error in RequestError.__subclasses__()}
"""The error class of each `code` that the service answers with."""
