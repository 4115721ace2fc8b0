"""Many sources at once: what became of each, in their order, and of all of them together."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from detectctl.client.ordered_map import in_order
from detectctl.errors import DetectctlError, NotRunning, SourcesFailed, Unauthorized

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable
    from pathlib import Path

    from detectctl.sources import Source
    from detectctl.wire import DetectionResult

RESULTS_AHEAD = 32
"""Results (not images) kept for each thread while an earlier source is still being waited for."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one source.

    Attributes:
        source: what was asked about.
        result: None if it failed, and for an image that the service downloaded and annotated.
        error: None unless it failed.
        elapsed_s: seconds from reading the source to the end, retries included.
        output: the annotated image's file.
    """

    source: Source
    result: DetectionResult | None
    error: DetectctlError | None
    elapsed_s: float
    output: Path | None = None


class Outcomes(Iterator[Outcome]):
    """Outcomes in the order of their sources, each as soon as it and those before it are known.

    One source's failure is its outcome, and the rest goes on. Iterating raises `NotRunning` if nothing answers at the
    endpoint, and `Unauthorized` if the key is wrong, because every other source would fail too.
    """

    def __init__(self, outcomes: Generator[Outcome]) -> None:
        self._outcomes = outcomes
        self._handed_out = 0
        self._failures: list[DetectctlError] = []

    def __next__(self) -> Outcome:
        outcome = next(self._outcomes)
        if isinstance(outcome.error, (NotRunning, Unauthorized)):
            self._outcomes.close()
            raise outcome.error
        self._handed_out += 1
        if outcome.error is not None:
            self._failures.append(outcome.error)
        return outcome

    @property
    def exit_code(self) -> int:
        """Of those handed out: 0 if none failed, else 6; where all failed for one reason, that reason's own, 4 or 7."""
        if not self._failures:
            return 0
        codes = {error.exit_code for error in self._failures}
        same = len(self._failures) == self._handed_out and len(codes) == 1
        return codes.pop() if same else SourcesFailed.exit_code


def work_on_all(
    work: Callable[[Source, Path | None], DetectionResult | None],
    jobs: Iterable[tuple[Source, Path | None]],
    *,
    workers: int,
) -> Outcomes:
    """The outcome of `work` for each source and its output.

    Results wait in memory for an earlier source that is slow, images do not: a thread reads a source when it sends it,
    and forgets it with the answer.
    """

    def timed(job: tuple[Source, Path | None]) -> Outcome:
        source, output = job
        started = time.monotonic()
        try:
            result = work(source, output)
        except DetectctlError as error:
            return Outcome(source, None, error, time.monotonic() - started)
        return Outcome(source, result, None, time.monotonic() - started, output)

    return Outcomes(in_order(timed, jobs, workers=workers, window=workers * RESULTS_AHEAD))
