"""Many sources at once: what became of each, in their order, and of all of them together."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from detectctl.errors import DetectctlError, NotRunning, SourceUnreadable, Unauthorized

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable
    from pathlib import Path

    from detectctl.sources import Source
    from detectctl.wire import DetectionResult

Item = TypeVar("Item")
Result = TypeVar("Result")
Place = TypeVar("Place")

RESULTS_AHEAD = 32
"""Results kept for each thread while an earlier source is still being waited for; images only if given as bytes."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one source.

    Attributes:
        result: None if it failed, and for an image that the service downloaded and annotated.
        error: None unless it failed.
        output: the annotated image's file.
    """

    source: Source
    result: DetectionResult | None = None
    error: DetectctlError | None = None
    output: Path | None = None


class Outcomes(Iterator[Outcome]):
    """Outcomes in the order of their sources, each as soon as it and those before it are known.

    One source's failure is its outcome, and the rest goes on. Iterating raises `NotRunning` if nothing answers at the
    endpoint, and `Unauthorized` if the key is wrong, because every other source would fail too.
    """

    def __init__(self, outcomes: Generator[Outcome]) -> None:
        self._outcomes = outcomes
        self._codes: set[int] = set()

    def __next__(self) -> Outcome:
        outcome = next(self._outcomes)
        if isinstance(outcome.error, (NotRunning, Unauthorized)):
            self._outcomes.close()
            raise outcome.error
        self._codes.add(outcome.error.exit_code if outcome.error else 0)
        return outcome

    @property
    def exit_code(self) -> int:
        """Of those handed out: 0 if none failed, else 6; where all failed for one reason, that reason's own, 4 or 7."""
        return SourceUnreadable.exit_code if len(self._codes) > 1 else max(self._codes, default=0)


def work_on_all(
    work: Callable[[Source, Place], Outcome], jobs: Iterable[tuple[Source, Place]], *, workers: int
) -> Outcomes:
    """The outcome of `work` for each source and the place of what is made of it.

    Results wait in memory for an earlier source that is slow. Images do not, unless they were given as bytes: a thread
    reads a source when it sends it, and forgets it with the answer.
    """

    def outcome(job: tuple[Source, Place]) -> Outcome:
        source, place = job
        try:
            return work(source, place)
        except DetectctlError as error:
            return Outcome(source, error=error)

    return Outcomes(in_order(outcome, jobs, workers=workers, window=workers * RESULTS_AHEAD))


def in_order(work: Callable[[Item], Result], items: Iterable[Item], *, workers: int, window: int) -> Generator[Result]:
    """`work(item)` of each item, in the order of `items`, each as soon as it and all before it are done.

    `items` is consumed in the caller's thread, at most `window` ahead of the result handed out last. What `work` raises
    is raised in its turn. Closing the iterator keeps what has not begun from beginning, and does not wait for what has:
    the threads are daemons, so that Ctrl-C ends a process at once; those of an `Executor` are not, whose `map` has a
    window (`buffersize`) from Python 3.14 on.
    """
    jobs: queue.SimpleQueue[tuple[Item, Future[Result]] | None] = queue.SimpleQueue()
    pending: deque[Future[Result]] = deque()
    threads = 0

    try:
        for item in items:
            future: Future[Result] = Future()
            pending.append(future)
            jobs.put((item, future))
            if threads < workers:
                threads += 1
                threading.Thread(target=_serve, args=(jobs, work), daemon=True, name=f"in-order-{threads}").start()
            while pending and (len(pending) >= window or pending[0].done()):
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()
        for _ in range(threads):
            jobs.put(None)


def _serve(jobs: queue.SimpleQueue[tuple[Item, Future[Result]] | None], work: Callable[[Item], Result]) -> None:
    while (job := jobs.get()) is not None:
        item, future = job
        if not future.set_running_or_notify_cancel():
            continue
        try:
            future.set_result(work(item))
        except BaseException as error:  # noqa: BLE001 - raised again where the result is asked for
            future.set_exception(error)
