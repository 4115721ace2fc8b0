"""The one tree of errors that detectctl raises on purpose.

An error says what failed and with which value, why, and the next command to try. It owns the exit code of the command
that it ends; a `RequestError` also owns the HTTP status of the service's answer. Its code is the class's name in snake
case.

```
DetectctlError                 1
├── UsageError                 2   an option, a setting, a reference or a file name is wrong
├── NotRunning                 3
├── NotReady                   4   not ready, or not healthy
│   ├── DeadlineExceeded           a wait passed its deadline; names the last state seen
│   └── PortTaken                  another process listens where the service should
├── ModelError                 5   the model could not be loaded
│   ├── ModelNotFound              W&B has no such artifact, version or alias; or no such file
│   ├── ModelAccessDenied          the W&B key is missing, wrong, or may not read this
│   ├── RegistryUnreachable        network, server or timeout: trying again later may help
│   ├── ModelCorrupt               bytes differ from what their digest promises
│   ├── CheckpointRefused          wants to run code, is damaged, or is not a detection model
│   └── ConversionFailed           a sound checkpoint that could not be converted
├── SourcesFailed              6   some sources failed, the others are done
├── SourceUnreadable           6   one source: no such file, an empty folder, no permission
└── RequestError               6   the service's answer to one request
    ├── BadRequest           400
    ├── BadUrl               400
    ├── Unauthorized         401   exit 7, as every refusal
    ├── UrlNotAllowed        403   exit 7
    ├── NotFound             404
    ├── MethodNotAllowed     405
    ├── NotAcceptable        406
    ├── RequestTimeout       408
    ├── ImageTooLarge        413   exit 7
    ├── UnsupportedImage     415
    ├── HostNotKnown         421   exit 7
    ├── BadParameter         422
    ├── ClientClosed         499   in logs and counters only: the caller has gone
    ├── InternalError        500
    ├── FetchFailed          502   the image's own server
    ├── BadGateway           502   exit 4, as whenever no replica could answer
    ├── Overloaded           503
    ├── Unavailable          503   exit 4
    ├── FetchTimeout         504   the image's own server
    └── GatewayTimeout       504   exit 4
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
        request_id: of the request that a service answered with this error, as in the service's log.
    """

    exit_code: ClassVar[int] = 1
    code: str = "error"
    request_id: str | None = None

    def __init__(self, what: str, *, why: str | None = None, hint: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.hint = hint

    @property
    def what_and_why(self) -> str:
        """One line, where three would be too many."""
        return f"{self.what}: {self.why}" if self.why else self.what

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.code = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()


class UsageError(DetectctlError):
    """An option, a setting, a model reference or a file name is wrong."""

    exit_code = 2


class NotRunning(DetectctlError):
    """There is no such instance, or nothing answers at its endpoint."""

    exit_code = 3


class NotReady(DetectctlError):
    """The instance exists, but is not ready or not healthy."""

    exit_code = 4


class DeadlineExceeded(NotReady):
    """A wait passed its deadline; the message names the last state seen."""


class PortTaken(NotReady):
    """Another process listens where the service should."""


class ModelError(DetectctlError):
    """The model could not be loaded."""

    exit_code = 5


class ModelNotFound(ModelError):
    """No such artifact, version, alias or file."""


class ModelAccessDenied(ModelError):
    """The W&B key is missing, wrong, or may not read this artifact."""


class RegistryUnreachable(ModelError):
    """W&B could not be reached, failed or took too long; trying again later may help."""


class ModelCorrupt(ModelError):
    """Bytes differ from what their digest promises."""


class CheckpointRefused(ModelError):
    """The checkpoint wants to run code, is damaged, or is not a detection model."""


class ConversionFailed(ModelError):
    """A sound checkpoint could not be converted for the engine."""


class SourcesFailed(DetectctlError):
    """Some sources failed; the others are done."""

    exit_code = 6


class SourceUnreadable(DetectctlError):
    """A source has no image in it, or is a file that cannot be read."""

    exit_code = 6


class RequestError(DetectctlError):
    """One request failed; raised in a replica, and again from its answer in the client."""

    exit_code = 6
    status: ClassVar[int] = 500


class BadRequest(RequestError):
    """The request is not valid HTTP for this service."""

    status = 400


class BadUrl(RequestError):
    """The image URL is not http(s), has no host, or is malformed."""

    status = 400


class Unauthorized(RequestError):
    """The API key is missing or wrong."""

    exit_code = 7
    status = 401


class UrlNotAllowed(RequestError):
    """The address or host of an image URL is not permitted, at any redirect hop."""

    exit_code = 7
    status = 403


class NotFound(RequestError):
    """The service has no such route."""

    status = 404


class MethodNotAllowed(RequestError):
    """The route does not take this method; `Allow` lists those that it takes."""

    status = 405


class NotAcceptable(RequestError):
    """`Accept` names no image format that `/annotate` writes."""

    status = 406


class RequestTimeout(RequestError):
    """The request's own body did not arrive in time."""

    status = 408


class ImageTooLarge(RequestError):
    """Bytes or decoded pixels are over the limit."""

    exit_code = 7
    status = 413


class UnsupportedImage(RequestError):
    """Not an image that can be decoded, or a truncated one."""

    status = 415


class HostNotKnown(RequestError):
    """A request without a key whose `Host` is not a name of this machine."""

    exit_code = 7
    status = 421


class BadParameter(RequestError):
    """A query parameter (conf, iou, class) is unknown or out of range."""

    status = 422


class ClientClosed(RequestError):
    """The caller went away before its answer; in logs and counters only."""

    status = 499


class InternalError(RequestError):
    """The replica failed unexpectedly; its log has the request id and the traceback."""


class FetchFailed(RequestError):
    """The image's own server failed."""

    status = 502


class BadGateway(RequestError):
    """The replica went away before it had answered."""

    exit_code = 4
    status = 502


class Overloaded(RequestError):
    """The queue is full; `Retry-After` says when to come back."""

    status = 503


class Unavailable(RequestError):
    """No replica can take the request now, as when the service starts; `Retry-After` says when to come back."""

    exit_code = 4
    status = 503


class FetchTimeout(RequestError):
    """The image's own server was too slow."""

    status = 504


class GatewayTimeout(RequestError):
    """The replica did not answer in time."""

    exit_code = 4
    status = 504


REQUEST_ERRORS: dict[str, type[RequestError]] = {error.code: error for error in RequestError.__subclasses__()}
"""The error class of each `code` that the service answers with."""
