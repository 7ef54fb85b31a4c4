"""A caching allocator: blocks given back are kept by size class and handed out again.

A device supplies how raw memory is obtained and released; a block is whatever that device uses
(an address, a driver's handle).  Sizes are rounded up to one of eight classes for each power of
two, so at most an eighth of a block is unused.
"""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from .contract import MemoryFigures, OutOfMemoryError

__all__ = ["CachingPool", "SizeClass", "class_size", "format_bytes"]

Block = TypeVar("Block")

_STEP = 64
_PER_DOUBLING = 8
_MEMO = 4096


def class_size(nbytes: int) -> int:
    """Bytes of the size class that serves a request of `nbytes`; a multiple of 64, at least 64.

    With 2^k < nbytes <= 2^(k+1) the step between classes is max(64, 2^k / 8).
    """
    if nbytes <= _STEP:
        return _STEP
    step = max(_STEP, (1 << ((nbytes - 1).bit_length() - 1)) // _PER_DOUBLING)
    return -(-nbytes // step) * step


def format_bytes(nbytes: int) -> str:
    """A size for people: ``"1.5 GiB"``."""
    value, unit = float(nbytes), "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"


class SizeClass(Generic[Block]):
    """The blocks of one size that wait for reuse."""

    __slots__ = ("free", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.free: list[Block] = []


class CachingPool(Generic[Block]):
    """Hands out blocks of a device's memory.

    `take` and `give` take no lock while a kept block serves: a list's ``pop`` and ``append`` are
    atomic, and `give` must be callable from a finalizer, which may interrupt any other method.

    Attributes:
        known: Size classes by request, of requests seen lately.
        used: Bytes handed out.
        peak: The most ever handed out.

    Args:
        device: Name for messages.
        allocate: ``allocate(nbytes)`` gives a raw block or raises MemoryError.
        release: ``release(block, nbytes)`` gives it back to the system.
        total: Bytes the device has in all; 0 means unknown.  More is never handed out.
        keep: Once this many bytes are held, handed out or kept, kept blocks are released before
            more is obtained; 0 means no such limit.
    """

    def __init__(
        self,
        device: str,
        allocate: Callable[[int], Block],
        release: Callable[[Block, int], None],
        *,
        total: int = 0,
        keep: int = 0,
    ) -> None:
        self.device = device
        self.total = total
        self.keep = keep
        self.used = 0
        self.peak = 0
        self._allocate = allocate
        self._release = release
        self._classes: dict[int, SizeClass[Block]] = {}
        self.known: dict[int, SizeClass[Block]] = {}
        self._lock = threading.RLock()

    def size_class(self, nbytes: int) -> SizeClass[Block]:
        """The class that serves requests of `nbytes`."""
        found = self.known.get(nbytes)
        if found is not None:
            return found
        if nbytes < 0:
            raise OutOfMemoryError(f"{self.device}: cannot allocate {nbytes} bytes")
        size = class_size(nbytes)
        with self._lock:
            found = self._classes.get(size)
            if found is None:
                if self.total and size > self.total:
                    raise self._refusal(nbytes)
                found = self._classes[size] = SizeClass(size)
            if len(self.known) >= _MEMO:
                self.known.clear()
            self.known[nbytes] = found
        return found

    def take(self, home: SizeClass[Block]) -> Block:
        """A block of ``home.size`` bytes, contents undefined.

        Raises:
            OutOfMemoryError: Also after everything kept was released; the pool stays usable.
        """
        try:
            block = home.free.pop()
        except IndexError:
            block = self._obtain(home)
        # No call between load and store, so no other thread gets in between under the GIL.
        self.used = used = self.used + home.size
        if used > self.peak:
            self.peak = used
        return block

    def give(self, home: SizeClass[Block], block: Block) -> None:
        """Take a block back for reuse; safe in a finalizer."""
        self.used -= home.size
        home.free.append(block)

    def empty(self) -> None:
        """Release every block that waits for reuse."""
        with self._lock:
            for home in list(self._classes.values()):
                while home.free:
                    try:
                        block = home.free.pop()
                    except IndexError:
                        break
                    self._release(block, home.size)

    def cached(self) -> int:
        """Bytes that wait for reuse."""
        return sum(home.size * len(home.free) for home in list(self._classes.values()))

    def figures(self) -> MemoryFigures:
        """Present figures, in bytes of size classes."""
        return MemoryFigures(self.used, self.cached(), self.peak, self.total)

    def after_fork(self) -> None:
        """Call in a forked child, where another thread's lock would stay held for ever."""
        self._lock = threading.RLock()

    # -- inside ---------------------------------------------------------------------------

    def _obtain(self, home: SizeClass[Block]) -> Block:
        with self._lock:
            if self.keep and self.used + self.cached() + home.size > self.keep:
                self.empty()
            # Reference cycles may hold blocks that nothing can reach any more.
            for recover in (self.empty, self._collect, None):
                if home.free:
                    return home.free.pop()
                if not self.total or self.used + home.size <= self.total:
                    with contextlib.suppress(MemoryError):
                        return self._allocate(home.size)
                if recover is not None:
                    recover()
            raise self._refusal(home.size)

    def _collect(self) -> None:
        gc.collect()
        self.empty()

    def _refusal(self, nbytes: int) -> OutOfMemoryError:
        has = f" of {format_bytes(self.total)}" if self.total else ""
        return OutOfMemoryError(
            f"{self.device}: out of memory: {format_bytes(nbytes)} asked for while "
            f"{format_bytes(self.used)}{has} are in use; drop tensors that are no longer needed "
            "or work on smaller pieces"
        )
