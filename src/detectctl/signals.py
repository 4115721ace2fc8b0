"""Taking back what was begun, which no signal may leave half done."""

from __future__ import annotations

import contextlib
import signal
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Signals that would end the command take effect when the body is done; only the main thread gets any.

    A mask would not do: the system would give the signal to another thread, and Python its handler to this one.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    usual = {each: signal.getsignal(each) for each in _SIGNALS}
    usual = {each: handler for each, handler in usual.items() if handler not in {None, signal.SIG_IGN}}
    for each in usual:
        signal.signal(each, lambda signum, _: came.append(signum))
    try:
        yield
    finally:
        for each, handler in usual.items():
            signal.signal(each, handler)
        if came:
            signal.raise_signal(came[0])
