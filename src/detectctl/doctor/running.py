"""The instance that runs: its state, one picture, and letters for the names of its classes."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from detectctl import lettering
from detectctl.client.service_client import Client
from detectctl.doctor.finding import Finding, Subject, failure, ok, warning
from detectctl.errors import NotRunning
from detectctl.keys import read_keys
from detectctl.lifecycle.state import InstanceFolder, reach
from detectctl.lifecycle.status import status

if TYPE_CHECKING:
    from collections.abc import Iterator

_ANSWER_S = 4.0
_LISTED = 5


def service(subject: Subject) -> Iterator[Finding]:
    """Whether it answers a picture, with the model that was asked for."""
    name, address = subject.settings.name, subject.settings.address
    try:
        seen = status(InstanceFolder.named(subject.settings, subject.paths.state))
    except NotRunning:
        yield ok(f"instance {name} is not running")
        return
    if seen.state == "elsewhere":
        yield warning(f"instance {name} does not run here: {seen.message}", "run `detectctl doctor` there, too")
        return
    if not seen.healthy:
        logs = f"detectctl logs --name {name}" + (f" --address {address}" if address else "")
        yield failure(
            f"instance {name} is {seen.state}: {seen.message}", f"read `{logs}`, then run `detectctl up` again"
        )
    if seen.model is not None and seen.model.reason is not None:
        kind = "a fallback" if seen.model.fallback else "a stale model"
        yield warning(f"instance {name} serves {kind}: {seen.model.reason}", "run `detectctl up` again")
    if seen.state == "dead":
        return
    if address is not None:  # its keys may be on another machine; this needs none
        with Client(seen.endpoint, timeout_s=_ANSWER_S, retries=0) as client:
            client.deployment()
        yield ok(f"instance {name} is ready at {seen.endpoint}")
        return
    with _client(subject) as client:
        result = client.detect(_picture())
    yield ok(f"instance {name} answers a picture with {result.model.name}")


def fonts(subject: Subject) -> Iterator[Finding]:
    """Whether annotated pictures can have the names of the classes."""
    try:
        with _client(subject) as client:
            labels = client.labels().values()
    except NotRunning:
        return
    unwritten = [label for label in labels if not lettering.can_write(label)]
    if unwritten:
        listed = ", ".join(unwritten[:_LISTED]) + (", …" if len(unwritten) > _LISTED else "")
        yield warning(
            f"no font has all letters of {len(unwritten)} class names: {listed}",
            "install one on this machine: `apt install fonts-noto-cjk fonts-dejavu-core`",
        )
    else:
        yield ok("there are letters for the names of all classes")


def _client(subject: Subject) -> Client:
    (endpoint, *_), key_file = reach(subject.paths.state, subject.settings.name)
    return Client(endpoint, api_key=read_keys(key_file)[0] if key_file else None, timeout_s=_ANSWER_S, retries=0)


def _picture() -> bytes:
    from PIL import Image

    encoded = io.BytesIO()
    Image.new("RGB", (64, 64)).save(encoded, "PNG")
    return encoded.getvalue()
