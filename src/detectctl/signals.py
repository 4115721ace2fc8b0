"""Signals that end a command: they unwind it, but never in the middle of undoing what it began."""

from __future__ import annotations

import contextlib
import signal
import threading
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterator

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """SIGTERM or SIGHUP: unwinds like Ctrl-C, so that what was begun is undone."""


def unwind_when_signalled() -> None:
    """From now on a signal that would end the process raises KeyboardInterrupt or `Interrupted` instead."""
    for each in _ENDING:
        if signal.getsignal(each) is not signal.SIG_IGN:  # nohup, and what a shell puts into the background
            signal.signal(each, _unwind)


def _unwind(signum: int, _: object) -> NoReturn:
    # From here on, what was begun is undone; a second signal must not leave that half done.
    for each in _ENDING:
        signal.signal(each, signal.SIG_IGN)
    if signum == signal.SIGINT:
        raise KeyboardInterrupt
    raise Interrupted(signum)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Signals that would end the command take effect when the body is done; only the main thread gets any.

    Masking them would not be enough: the system would deliver the signal to another thread, and Python would run its
    handler in this one.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    usual = {each: handler for each in _ENDING if (handler := signal.getsignal(each)) not in {None, signal.SIG_IGN}}
    for each in usual:
        signal.signal(each, lambda signum, _: came.append(signum))
    try:
        yield
    finally:
        for each, handler in usual.items():
            signal.signal(each, handler)
        if came:
            signal.raise_signal(came[0])
