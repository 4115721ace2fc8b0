"""The one tree of errors that detectctl raises on purpose.

An error says what failed and with which value, why, and the next command to try. It owns the exit code of the command
that it ends; a `RequestError` also owns the HTTP status and the code of the service's answer.

```
DetectctlError                 1
├── UsageError                 2   an option, a setting, a reference, a file name is wrong
├── NotRunning                 3
├── NotReady                   4   not ready, unhealthy
│   ├── DeadlineExceeded           a wait passed its deadline; names the last state seen
│   └── PortTaken                  somebody else listens where the service should
├── ModelError                 5   the model could not be loaded
│   ├── ModelNotFound              W&B knows no such artifact, version or alias; or no such file
│   ├── ModelAccessDenied          the key is missing, wrong, or may not read this
│   ├── RegistryUnreachable        network, server or timeout: trying again later may help
│   ├── ModelCorrupt               bytes differ from what their digest promises
│   ├── CheckpointRefused          a checkpoint that is not ours to load: wants to run code, or no detection model
│   └── ConversionFailed           a sound checkpoint that could not be converted
├── SourcesFailed              6   some sources failed, the others are done
├── SourceUnreadable           6   one source: no such file, an empty folder, no permission
└── RequestError               6   the service's answer to one request (7 where it refused)
    ├── BadUrl               400 bad_url
    ├── Unauthorized         401 unauthorized         exit 7
    ├── UrlNotAllowed        403 url_not_allowed      exit 7
    ├── RequestTimeout       408 request_timeout
    ├── ImageTooLarge        413 image_too_large      exit 7
    ├── UnsupportedImage     415 unsupported_image
    ├── HostNotKnown         421 host_not_known       exit 7
    ├── BadParameter         422 bad_parameter
    ├── InternalError        500 internal_error
    ├── FetchFailed          502 fetch_failed
    ├── Overloaded           503 overloaded
    └── FetchTimeout         504 fetch_timeout
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
    """Somebody else listens where the service should."""


class ModelError(DetectctlError):
    """The model could not be loaded."""

    exit_code = 5


class ModelNotFound(ModelError):
    """No such artifact, version, alias or file."""


class ModelAccessDenied(ModelError):
    """The W&B key is missing, wrong, or may not read this artifact."""


class RegistryUnreachable(ModelError):
    """The network, a server or a deadline stood between us and the model; trying again later may help."""


class ModelCorrupt(ModelError):
    """Bytes differ from what their digest promises."""


class CheckpointRefused(ModelError):
    """The checkpoint wants to run code, is damaged, or holds no detection model."""


class ConversionFailed(ModelError):
    """A sound checkpoint could not be converted for the engine."""


class SourcesFailed(DetectctlError):
    """Some sources failed; the others are done."""

    exit_code = 6


class SourceUnreadable(DetectctlError):
    """A source names no image, or a file that cannot be read."""

    exit_code = 6


class RequestError(DetectctlError):
    """One request failed; raised in a replica, and again from its answer in the client."""

    exit_code = 6
    status: ClassVar[int] = 500


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


class RequestTimeout(RequestError):
    """The request's own body did not arrive in time."""

    status = 408


class ImageTooLarge(RequestError):
    """Bytes or decoded pixels are over the limit."""

    exit_code = 7
    status = 413


class UnsupportedImage(RequestError):
    """Not an image that can be decoded, or truncated."""

    status = 415


class HostNotKnown(RequestError):
    """A request without a key that came under a name which is not this machine's own."""

    exit_code = 7
    status = 421


class BadParameter(RequestError):
    """A query parameter (conf, iou, class) is unknown or out of range."""

    status = 422


class InternalError(RequestError):
    """The replica failed in a way nobody foresaw; its log has the request id and the traceback."""


class FetchFailed(RequestError):
    """The image's own server failed."""

    status = 502


class Overloaded(RequestError):
    """The queue is full; `Retry-After` says when to come back."""

    status = 503


class FetchTimeout(RequestError):
    """The image's own server was too slow."""

    status = 504


REQUEST_ERRORS: dict[str, type[RequestError]] = {error.code: error for error in RequestError.__subclasses__()}
"""The error class of each `code` that the service answers with."""
