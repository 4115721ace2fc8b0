"""A Ray dashboard's HTTP interface: one way to ask it, and one error for all that it may answer instead."""

from __future__ import annotations

import json
import re
from typing import Any

from detectctl.http import Answer, NoAnswer, Server
from detectctl.waiting import Deadline

_PATIENCE_S = 60.0  # the first PUT starts Serve's controller


class ServeApiError(Exception):
    """The dashboard did not answer in time, or reported an error: in Ray's own words."""


class NothingChanged(ServeApiError):
    """It was refused before anything changed."""


class TokenRefused(ServeApiError):
    """The dashboard wants a token, or another one."""


class NotThere(ServeApiError):
    """It has nothing at this path, or takes nothing there."""


_KINDS = {401: TokenRefused, 403: TokenRefused, 404: NotThere, 405: NotThere}


class Dashboard:
    """A client of one dashboard; close it. Its methods raise ServeApiError.

    Args:
        url: `http://host:port`, or https.
        token: None sends none.
    """

    def __init__(self, url: str, token: str | None) -> None:
        try:
            self._server = Server(url, headers={} if token is None else {"Authorization": f"Bearer {token}"})
        except NoAnswer as error:
            raise ServeApiError(str(error)) from error
        self.close = self._server.close

    def ask(
        self, method: str, path: str, deadline: Deadline | None = None, body: Any = None, *, may_lack: bool = False
    ) -> Answer:
        """The answer, if it is a success, or a 404 and `may_lack`. `body`: bytes, or what is sent as JSON."""
        # One second at least: the last look of a wait should say what it saw, not that there was no time to look.
        left_s = _PATIENCE_S if deadline is None else min(_PATIENCE_S, max(1.0, deadline.left_s))
        media = "application/octet-stream" if isinstance(body, bytes) else "application/json"
        sent = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        try:
            answer = self._server.ask(
                method, path, Deadline.after(left_s), body=sent, headers={} if sent is None else {"Content-Type": media}
            )
        except NoAnswer as error:
            raise ServeApiError(str(error)) from error
        if answer.status == 200 or (answer.status == 404 and may_lack):
            return answer
        said = f"HTTP {answer.status}: {_cause(answer.body.decode(errors='replace'))}"
        raise _KINDS.get(answer.status, ServeApiError)(said)

    def json(self, method: str, path: str, deadline: Deadline | None = None, body: Any = None) -> dict[str, Any]:
        """The object in the answer; empty if it has none."""
        data = self.ask(method, path, deadline, body).json()
        return data if isinstance(data, dict) else {}


def _cause(text: str) -> str:
    """Ray's own words on one line; of a traceback, the error that it ends with."""
    error = re.search(r'(?s).*^  File "[^\n]*\n(?:  [^\n]*\n)*(.+)', text, re.MULTILINE)
    return " ".join((error[1] if error else text).split())[-500:]
