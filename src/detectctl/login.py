"""The user name and password in a URL, as HTTP asks for them: Basic or Digest authentication."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(slots=True)
class Login:
    """A user name and password for one origin.

    Attributes:
        origin: scheme, host and port, as the URL spells them.
        challenges: those for Digest authentication (RFC 7616) that are to be answered; Basic is used until there are.
    """

    origin: str
    user: str
    password: str = field(repr=False)
    challenges: list[str] = field(default_factory=list)

    def headers(self, url: str) -> dict[str, str]:
        """What a request for `url` is sent with, which is spelt as in the request itself."""
        if self.challenges:
            answers = (self._digest(challenge, url) for challenge in self.challenges)
            return next(({"Authorization": f"Digest {answer}"} for answer in answers if answer), {})
        return {"Authorization": "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()}

    def may_answer(self, headers: Mapping[str, str]) -> bool:
        """Whether the answer asks for Digest for the first time; the next request will have it."""
        asked = re.split(r",\s*(?=digest )", headers.get("www-authenticate", ""), flags=re.IGNORECASE)
        found = [each for each in asked if each.lower().startswith("digest ")]
        is_first = bool(found) and not self.challenges
        self.challenges = found
        return is_first

    def _digest(self, challenge: str, url: str) -> str | None:
        """The standard library's answer; None for an algorithm that it does not know."""
        from urllib import request

        keeper = request.HTTPPasswordMgrWithDefaultRealm()
        keeper.add_password(None, self.origin, self.user, self.password)
        try:
            asked = request.parse_keqv_list(list(filter(None, request.parse_http_list(challenge.partition(" ")[2]))))
            asking = request.Request(url)  # noqa: S310 - http or https, and never opened
            return request.AbstractDigestAuthHandler(keeper).get_authorization(asking, asked)
        except (KeyError, ValueError, OSError):
            return None


def split_login(url: str, known: Login | None) -> tuple[str, Login | None]:
    """The URL without user name and password, and these, or the known ones, if they are for its origin."""
    parts = urlsplit(url)
    login, _, host = parts.netloc.rpartition("@")
    origin = f"{parts.scheme}://{host}"
    if login:
        user, _, password = login.partition(":")
        return parts._replace(netloc=host).geturl(), Login(origin, unquote(user), unquote(password))
    return url, known if known and known.origin == origin else None
