"""Ctrl-C that waits for the end of a step, so that what is saved then is whole."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def ctrl_c_between_steps() -> Iterator[Callable[[], bool]]:
    """Tells whether Ctrl-C was pressed, which then interrupts nothing; pressed a second time, it does at once.

    Outside the main thread, and where Ctrl-C means something else than KeyboardInterrupt, it tells False and changes
    nothing. Side effects: the process's handler of SIGINT, until the end. KeyboardInterrupt there, when it was pressed.
    """
    pressed = threading.Event()

    def note(*_: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        pressed.set()

    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield pressed.is_set
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if pressed.is_set():
        raise KeyboardInterrupt
