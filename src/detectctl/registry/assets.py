"""The files of Ultralytics' release, or of a mirror of it: where each is, and the sha256 that it must have.

GitHub's listing of a release has a digest of each file. In a mirror it is in a file `NAME.pt.sha256` beside the
checkpoint, as `sha256sum` writes it.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from detectctl.addresses import masked
from detectctl.errors import ModelNotFound, RegistryUnreachable
from detectctl.http import Downloads, NoAnswer, Refused, TooLarge, TooSlow
from detectctl.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from detectctl.progress import Report
    from detectctl.waiting import Deadline

ASSETS_URL = "https://github.com/ultralytics/assets/releases/download/v8.4.0"
API_URL = "https://api.github.com"

STALL_S = 15.0
"""After so long without a byte the assets count as unreachable, however much time is left."""

_RELEASE = re.compile(r"https://github\.com/([^/]+/[^/]+)/releases/download/([^/]+)")
_MAX_LISTING_BYTES = 2**24
_MAX_CHECKPOINT_BYTES = 2**32


@dataclass(frozen=True, slots=True)
class Asset:
    """A file to be downloaded; `size` in bytes, None where nobody says it."""

    url: str
    sha256: str
    size: int | None


@dataclass(frozen=True, slots=True)
class Assets:
    """A release or a mirror; `instead` is what a user can do without it, for errors."""

    url: str
    deadline: Deadline
    instead: str

    def find(self, file: str) -> Asset:
        """The file with the digest that is published; raises RegistryUnreachable or ModelNotFound."""
        if release := _RELEASE.fullmatch(self.url):
            return self._in_release(file, *release.groups())
        url = f"{self.url}/{file}.sha256"
        hint = f"run `sha256sum {file} > {file}.sha256` in the mirror; or {self.instead}"
        digest = digest_in(self._read(file, url, hint))
        if digest is None:
            raise _without_digest(file, masked(url), "its text has not one sha256 in it", hint)
        return Asset(f"{self.url}/{file}", digest, None)

    def _in_release(self, file: str, repository: str, tag: str) -> Asset:
        """As GitHub lists it: docs.github.com/rest/releases/releases#get-a-release-by-tag-name."""
        url = f"{API_URL}/repos/{repository}/releases/tags/{tag}"
        listing = self._read(file, url, self.instead)
        try:
            asset = next((asset for asset in json.loads(listing)["assets"] if asset["name"] == file), None)
            if asset is None:
                why = f"{url} does not list it"
                raise ModelNotFound(f"release {tag} of {repository} has no {file}", why=why, hint=self.instead)
            kind, _, digest = str(asset.get("digest")).partition(":")
            if kind != "sha256" or digest_in(digest) != digest:
                why = "GitHub has none of files that are older than June 2025"
                raise _without_digest(file, url, why, self.instead)
            return Asset(str(asset["browser_download_url"]), digest, int(asset["size"]))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            what = f"{file} could not be looked up at {url}"
            why = "the answer is not a release as GitHub lists it"
            raise RegistryUnreachable(what, why=why, hint=self.instead) from error

    def _read(self, file: str, url: str, if_missing: str) -> str:
        with (
            self._asking(f"the sha256 of {file}", url, if_missing),
            _stream(url, self.deadline, _MAX_LISTING_BYTES) as chunks,
        ):
            return b"".join(chunks).decode(errors="replace")

    def download(self, asset: Asset, target: Path, report: Report) -> None:
        """Write the file, unverified, to `target`; raises RegistryUnreachable or ModelNotFound."""
        size, done = asset.size, 0
        # Too many bytes are the wrong bytes, as their digest will show.
        with self._asking(target.name, asset.url, self.instead), contextlib.suppress(TooLarge):
            try:
                with (
                    target.open("wb") as file,
                    _stream(asset.url, self.deadline, size or _MAX_CHECKPOINT_BYTES) as chunks,
                ):
                    for chunk in chunks:
                        done += file.write(chunk)
                        share = done / size if size else None
                        report(Progress("resolve", f"downloading {target.stem}", fraction=share))
            except TooSlow as error:
                late = "in the time allowed" if self.deadline.passed else f"and then nothing for {STALL_S:g} s"
                received = f"{done} of {size} bytes" if size else f"{done} bytes"
                raise TooSlow(f"received {received} {late}") from error

    @contextlib.contextmanager
    def _asking(self, what: str, url: str, if_missing: str) -> Iterator[None]:
        """Say what a failed download means to the user; `if_missing` is the hint if the server has no such file."""
        try:
            yield
        except NoAnswer as error:
            if isinstance(error, Refused) and error.answer.status in {404, 410}:
                raise ModelNotFound(f"{what} not found at {masked(url)}", why=str(error), hint=if_missing) from error
            what = f"{what} could not be downloaded from {masked(url)}"
            raise RegistryUnreachable(what, why=f"{error}{_limit_of(error)}", hint=self.instead) from error


@contextlib.contextmanager
def _stream(url: str, deadline: Deadline, max_bytes: int) -> Iterator[Iterator[bytes]]:
    with (
        contextlib.closing(Downloads()) as downloads,
        contextlib.closing(downloads.stream(url, deadline, max_bytes=max_bytes, stall_s=STALL_S)) as chunks,
    ):
        yield chunks


def digest_in(text: str) -> str | None:
    """The one sha256 in what `sha256sum` and its like print; None if there is none, or more."""
    found = set(re.findall(r"\b[0-9a-f]{64}\b", text.lower()))
    return found.pop() if len(found) == 1 else None


def _without_digest(file: str, url: str, why: str, hint: str) -> ModelNotFound:
    return ModelNotFound(f"{url} gives no sha256 to verify {file} by", why=why, hint=hint)


def _limit_of(error: NoAnswer) -> str:
    """What GitHub says of how often it may be asked, if that is why it refused."""
    headers = error.answer.headers if isinstance(error, Refused) else {}
    if headers.get("x-ratelimit-remaining") != "0":
        return ""
    again = ""
    with contextlib.suppress(ValueError, OverflowError, OSError):
        again = f" until {time.strftime('%H:%M', time.localtime(int(headers.get('x-ratelimit-reset', ''))))}"
    return f": GitHub answers no more questions from this address{again}"
