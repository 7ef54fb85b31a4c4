"""Being told to stop: the run ends early and leaves a whole report of what was judged."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator

__all__ = ["stopping"]

_ECHO_S = 1.0
_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


@contextlib.contextmanager
def stopping() -> Iterator[threading.Event]:
    """An event that Ctrl-C, SIGTERM and SIGHUP set inside the block.

    A second Ctrl-C interrupts at once, unless it is the first one's echo: ``timeout -s INT`` sends
    its signal to the process and then to its group.  Outside of the main thread, where signals
    cannot be handled, nothing sets the event.
    """
    stop = threading.Event()
    first = 0.0

    def told(number: int, frame: object) -> None:
        nonlocal first
        now = time.monotonic()
        if not stop.is_set():
            first = now
        elif number == signal.SIGINT and now - first > _ECHO_S:
            raise KeyboardInterrupt
        stop.set()

    before = {}
    if threading.current_thread() is threading.main_thread():
        for name in _SIGNALS:
            number = getattr(signal, name, None)
            # What nohup ignores stays ignored.
            if number is not None and signal.getsignal(number) != signal.SIG_IGN:
                before[number] = signal.signal(number, told)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
