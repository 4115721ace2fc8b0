"""Work done by several threads at once, handed out in the order it came in.

From Python 3.14 on, `Executor.map` knows a window too (`buffersize`); its threads still keep a process from ending.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from concurrent.futures import Future
from typing import TYPE_CHECKING, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

Item = TypeVar("Item")
Result = TypeVar("Result")
_Job: TypeAlias = "tuple[Item, Future[Result]] | None"


def in_order(work: Callable[[Item], Result], items: Iterable[Item], *, workers: int, window: int) -> Generator[Result]:
    """`work(item)` of each item, in the order of `items`, each as soon as it and all before it are done.

    `items` is consumed in the caller's thread, at most `window` ahead of the result handed out last. What `work` raises
    is raised in its turn. Closing the iterator keeps what has not begun from beginning, and does not wait for what has:
    the threads are daemons (those of a `ThreadPoolExecutor` are not), so that Ctrl-C ends a process at once.
    """
    jobs: queue.SimpleQueue[_Job[Item, Result]] = queue.SimpleQueue()
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


def _serve(jobs: queue.SimpleQueue[_Job[Item, Result]], work: Callable[[Item], Result]) -> None:
    while (job := jobs.get()) is not None:
        item, future = job
        if not future.set_running_or_notify_cancel():
            continue
        try:
            future.set_result(work(item))
        except BaseException as error:  # noqa: BLE001 - raised again where the result is asked for
            future.set_exception(error)
