"""Threads whose launches take turns: what one call leaves between its launches, the other meets.

Two calls that share memory by mistake rarely meet by chance, since a thread keeps the interpreter
for milliseconds.  Here each thread waits before every launch until the others have come to one
too, or have ended; so the launches of equal calls alternate.  A thread that waits for a lock which
another one holds would wait for ever; after a moment everybody goes on without turns.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import tensorbus as tb
from tensorbus_backends.contract import Device

from .guard import Guarded

__all__ = ["Turns", "beside"]

T = TypeVar("T")
D = TypeVar("D")

_PATIENCE_S = 0.5


class Turns:
    """A meeting point of threads; see the module.

    Attributes:
        meetings: How often all threads that were left met.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._members: set[int] = set()
        self._waiting, self._round, self._over = 0, 0, False
        self.meetings = 0

    def join(self) -> None:
        """The calling thread takes part from now on."""
        with self._condition:
            self._members.add(threading.get_ident())

    def leave(self) -> None:
        """The calling thread takes part no longer."""
        with self._condition:
            self._members.discard(threading.get_ident())
            if self._waiting and self._waiting >= len(self._members):
                self._open()

    def _open(self) -> None:
        self._waiting, self._round = 0, self._round + 1
        self.meetings += 1
        self._condition.notify_all()

    def meet(self) -> None:
        """Wait for the other threads; nothing in a thread that takes no part."""
        with self._condition:
            if self._over or threading.get_ident() not in self._members:
                return
            self._waiting += 1
            if self._waiting >= len(self._members):
                self._open()
                return
            mine = self._round
            if not self._condition.wait_for(lambda: self._round != mine, _PATIENCE_S):
                self._over = True
                self._open()


class _InTurn(Guarded):
    """A device on which threads launch in turns."""

    def __init__(self, real: Device) -> None:
        super().__init__(real)
        self.turns = Turns()

    def launching(self, kernel: Any) -> None:
        self.turns.meet()
        super().launching(kernel)


def beside(
    real: Device, call: Callable[[tb.Device, D], T], data: Sequence[D]
) -> tuple[list[T], list[T]]:
    """What a call gives for each of some data, in a thread for each, and one after the other.

    Args:
        real: The device.
        call: From a device like it, and data.
        data: One for each thread.

    Raises:
        Exception: What the call raises alone.
    """
    backend = _InTurn(real)
    device = tb.Device(backend)
    wanted = [call(device, d) for d in data]
    found: list[Any] = [None] * len(data)
    start = threading.Barrier(len(data))

    def work(k: int) -> None:
        backend.turns.join()
        try:
            start.wait(10)
            found[k] = call(device, data[k])
        except Exception as error:
            found[k] = error
        finally:
            backend.turns.leave()

    threads = [threading.Thread(target=work, args=(k,)) for k in range(len(data))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return found, wanted
