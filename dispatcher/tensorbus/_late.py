"""Errors that are found after the call: an index out of range on a device that nobody waits for.

Each check of a call's indices adds to two words in the device's memory, in its queue and by
launches alone: the number of the first call that had a bad index, and that index.  They are looked
at when something is read back anyway, or the device is waited for, and then raised, once.  What
each number stands for is kept here.
"""

from __future__ import annotations

import atexit
import os
import struct
import sys
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from tensorbus_backends.contract import Device as Backend

if TYPE_CHECKING:
    from ._tensor import Tensor

__all__ = ["EARLIER", "Check", "Late"]

EARLIER = "of an earlier call on"
"""What a message says that is not about the call which raises it."""

_MOST = 1 << 12


class Check(NamedTuple):
    """What a call asks of its index: elements in [-size, size).

    Attributes:
        op: Name of the function.
        operand: Name of the index.
        axis: What it counts along.
        size: Of that axis.
    """

    op: str
    operand: str
    axis: int
    size: int

    def error(self, index: int, where: str = "") -> IndexError:
        """What to raise for an index that is out of range."""
        said = f"{self.op}: index {index} is out of range for axis {self.axis}"
        if not self.size:
            return IndexError(f"{said}, which is empty{where}")
        bounds = f"indices run from {-self.size} to {self.size - 1}"
        return IndexError(f"{said} with size {self.size}; {bounds}{where}")


class Late:
    """The first bad index of a device, as far as it is known.

    Args:
        backend: Of the device.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._lock = threading.RLock()
        self._words: Tensor | None = None
        self._numbers: dict[Check, int] = {}
        _all.add(self)

    def add(self, check: Check, run: Callable[[Tensor | None, int], Tensor]) -> None:
        """Have a call checked.

        Args:
            check: What is asked.
            run: From the words so far (None: there are none) and the check's number, at least 1,
                to the words after it; launches and waits for nothing.

        Raises:
            IndexError: An earlier call's, where too many different ones were made since the last
                look.
        """
        with self._lock:
            if len(self._numbers) >= _MOST and check not in self._numbers:
                self.settle()
                self._numbers.clear()
            number = self._numbers.setdefault(check, len(self._numbers) + 1)
            self._words = run(self._words, number)
            _Report.ready()

    def settle(self) -> None:
        """Raise the first bad index since the last look; waits for the device if it has to look.

        Raises:
            IndexError: There is one; it is forgotten with that.
        """
        if self._words is None:
            return
        with self._lock:
            words, self._words = self._words, None
            if words is None:
                return
            raw = bytearray(16)
            at = words._offset * 8
            self._backend.copy_out(words._buffer, at, memoryview(raw))
            number, index = struct.unpack("=2q", raw)
            if number:
                check = list(self._numbers)[number - 1]
                where = f" ({check.operand} {EARLIER} {self._backend.info.name})"
                raise check.error(index, where)

    def after_fork(self) -> None:
        """What the parent's device found is the parent's."""
        self._lock, self._words = threading.RLock(), None


_all: weakref.WeakSet[Late] = weakref.WeakSet()


class _Report:
    """Says at exit what nobody has looked at."""

    made = False

    @classmethod
    def ready(cls) -> None:
        """Have it said; registered late, so that devices are still open then."""
        if not cls.made:
            cls.made = True
            atexit.register(_report)


def _report() -> None:
    for late in list(_all):
        try:
            late.settle()
        except IndexError as error:
            print(f"tensorbus: never raised: IndexError: {error}", file=sys.stderr)
        except Exception:
            continue  # a lost device has said so to whoever asked it


def _after_fork() -> None:
    for late in list(_all):
        late.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
