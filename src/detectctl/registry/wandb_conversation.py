"""A conversation of W&B's SDK with its servers, watched from outside: its progress, its obstacles, and its end.

The SDK tries again by itself, with growing pauses and as `Retry-After` says, and is silent meanwhile. Why it does is
read in the log of its helper process, which speaks GraphQL; who downloads files tells it with `hinder`. So a person
sees the reason while the wait goes on, and its end has it too.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import threading
import time
from concurrent.futures import Future, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from detectctl.errors import ModelError, RegistryTimedOut, RegistryUnreachable
from detectctl.progress import Progress, silent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from detectctl.progress import Report
    from detectctl.waiting import Deadline

T = TypeVar("T")

LONGEST_PAUSE_S = 15.0
"""Between two tries, unless the server asks for more."""
_LOOK_S = 0.2
_ARRIVING_S = 5.0
"""A transfer whose last byte is not older than this is slow, not stuck."""
_MAY_PASS = {408, 425, 429}
"""Client errors that are worth another try."""


class Conversation:
    """What the SDK is doing now, in words that go with "still", as in `downloading a/b/c:v1 (10 of 20 bytes)`.

    Args:
        about: the reference, for errors.
        cache: the SDK's cache folder, which is this conversation's own.
        deadline: when to give up.
        timeout_s: how long that was from the beginning, for errors.
        patience_s: how long one step may be in trouble.
        report: called when the words change.
    """

    def __init__(
        self, about: str, cache: Path, deadline: Deadline, *, timeout_s: float, patience_s: float, report: Report
    ) -> None:
        self.deadline = deadline
        self._about, self._cache, self._timeout_s, self._patience_s = about, cache, timeout_s, patience_s
        self._report = report
        self._lock = threading.Lock()
        self._read = 0
        self._told: Progress | None = None
        self._broken_off: str | None = None
        self._since = 0.0
        self.begin("connecting to W&B")

    def begin(self, step: str, *, total: int | None = None, here: bool = False) -> None:
        """Another step: of so many bytes, where they are counted; `here` is one that does not depend on W&B."""
        with self._lock:
            self._step, self._total, self._here = step, total, here
            self._before = 0 if total is None else _bytes_below(self._cache)
            self._done, self._arrived_at = 0, -math.inf
            self._trouble = None if here else self._broken_off
            self._tell()

    def received(self) -> None:
        """All bytes of this step are here."""
        with self._lock:
            self._done, self._trouble = self._total or 0, None
            self._tell()

    def hinder(self, trouble: str, *, broken_off: bool = False) -> None:
        """Something is in the way of the step, which will be tried again; or of all of it, from the first step on."""
        with self._lock:
            if self._trouble is None:
                self._since = time.monotonic()
            self._trouble = trouble
            if broken_off:
                self._broken_off = trouble
            self._tell()

    def watch(self, talk: Callable[[], T]) -> T:
        """Run `talk` in a thread that may be left behind, and return or raise what it does.

        Raises:
            RegistryTimedOut: the deadline passed, and W&B or the network was in the way.
            RegistryUnreachable: it was in the way for too long, or in a way that will not change.
            ModelError: the deadline passed, and nothing was: more time is needed.
        """
        outcome: Future[T] = Future()

        def run() -> None:
            try:
                outcome.set_result(talk())
            except BaseException as error:  # noqa: BLE001 - raised again below
                outcome.set_exception(error)

        threading.Thread(target=run, daemon=True).start()
        try:
            while not wait([outcome], timeout=_LOOK_S).done:
                self._look()
                if self.deadline.passed:
                    raise self._late()
            return outcome.result()
        finally:
            with self._lock:  # who is left behind has nothing more to say
                self._report = silent

    def _look(self) -> None:
        for record in self._records():
            match record:
                case {"msg": "api: retrying HTTP error", "status": int(status)}:
                    body = str(record.get("body", ""))
                    words = f"HTTP {status}" if body.lstrip()[:1] in {"", "<"} else one_line(f"HTTP {status}: {body}")
                    if 400 <= status < 500 and status not in _MAY_PASS:
                        raise not_understood(self._about, f"the server answers {words}")
                    self.hinder(words)
                case {"msg": "api: retrying error", "error": str(error)}:
                    self.hinder(one_line(error))
        if self._total is not None:
            done = min(self._total, _bytes_below(self._cache) - self._before)
            with self._lock:
                if done > self._done:
                    self._done, self._arrived_at, self._trouble = done, time.monotonic(), None
                    self._tell()
        if self._trouble is not None and time.monotonic() - self._since > self._patience_s:
            raise RegistryUnreachable(
                f"W&B does not deliver {self._about}",
                why=self._trouble,
                hint="retry once the network and W&B are available",
            )

    def _records(self) -> Iterator[dict[str, Any]]:
        """What the helper process has logged since the last look: JSON lines."""
        for log in (self._cache / "wandb" / "logs").glob("core-debug-*.log"):
            with log.open("rb") as lines:
                lines.seek(self._read)
                for line in lines:
                    if not line.endswith(b"\n"):
                        break
                    self._read += len(line)
                    with contextlib.suppress(ValueError):
                        yield json.loads(line)

    def _late(self) -> ModelError:
        what, words = f"W&B did not deliver {self._about} in time", self._words()
        why = f"still {words} after {self._timeout_s:g} s"
        arriving = self._trouble is None and time.monotonic() - self._arrived_at < _ARRIVING_S
        if self._here or arriving:
            return ModelError(
                what, why=why, hint="allow more time with `--model-timeout` (and at least as much with `--timeout`)"
            )
        return RegistryTimedOut(
            what, why=why, hint="retry, or raise `--model-timeout` (and keep `--timeout` at least as high)"
        )

    def _words(self) -> str:
        counted = None if self._total is None else f"{self._done} of {self._total} bytes"
        details = "; ".join(filter(None, (counted, self._trouble)))
        return f"{self._step} ({details})" if details else self._step

    def _tell(self) -> None:
        fraction = self._done / self._total if self._total else None
        progress = Progress("resolve", self._words(), fraction=fraction)
        if progress != self._told:
            self._told = progress
            self._report(progress)


def not_understood(about: str, why: str) -> RegistryUnreachable:
    """The error for what will not pass by itself: another server than W&B's, or a certificate that is not trusted."""
    return RegistryUnreachable(
        f"W&B could not be asked for {about}",
        why=why,
        hint="check WANDB_BASE_URL, and the proxy and the certificates on the way there",
    )


def pauses_s() -> Iterator[float]:
    """Seconds to wait before each next try: 1, 2, 4, …, and then `LONGEST_PAUSE_S` each time."""
    pause_s = 1.0
    while True:
        yield pause_s
        pause_s = min(LONGEST_PAUSE_S, 2 * pause_s)


def _bytes_below(folder: Path) -> int:
    total = 0
    for file in (Path(parent, name) for parent, _, names in os.walk(folder / "artifacts") for name in names):
        with contextlib.suppress(FileNotFoundError):  # renamed since
            total += file.stat().st_size
    return total


def one_line(text: str) -> str:
    """`text` as one line without secrets: a signed URL has its signature after the question mark."""
    # What precedes these words, which the transport below may say too, repeats what follows them.
    text = re.sub(r'^(.* while retrying: )?(Post "[^"]*": )?', "", " ".join(text.split()))
    return without_secrets(text)[:300]


def without_secrets(text: str) -> str:
    """`text` without keys and signatures."""
    text = re.sub(r"\?[^\s'\")>]+", "?…", text)
    return re.sub(r"\b(?:local-)?[0-9a-f]{40,}\b|\bwandb_v1_\w+", "…", text)
