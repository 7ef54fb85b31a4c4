"""A device with fences: every buffer lies between bands that nobody may touch.

`Guarded` stands between the library and a device.  On devices that the host can reach, a buffer
ends where an inaccessible page begins, so that a read or write past its end crashes at once, and
begins after a band of known bytes.  On other devices both sides are bands (only the far side where
the device cannot address a part of a buffer).  Fresh memory is filled with a pattern, so that an
output element that nobody wrote does not look right by accident.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from tensorbus_backends.contract import (
    Buffer,
    Compiled,
    Device,
    Event,
    Feature,
    KernelSpec,
    MemoryFigures,
)

__all__ = ["BAND", "Guarded"]

BAND = 4096
_PAGE = mmap.PAGESIZE
_PROT_NONE, _PROT_RW, _PRIVATE = 0, 3, 2
_ANONYMOUS = 0x1000 if sys.platform == "darwin" else 0x20


class _Libc:
    def __init__(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self.mmap, self.mprotect, self.munmap = libc.mmap, libc.mprotect, libc.munmap
        self.memcmp = libc.memcmp
        self.mmap.restype = ctypes.c_void_p
        self.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
        self.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        self.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        self.memcmp.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]

    def filled(self, address: int, nbytes: int, byte: int) -> bool:
        """Whether all of some bytes, at least one, have one value."""
        first = ctypes.c_ubyte.from_address(address).value
        # Each byte is compared with the one behind it.
        return first == byte and not self.memcmp(address, address + 1, nbytes - 1)


class _Blocks:
    """Blocks of writable pages before an inaccessible one, all bytes of them poison.

    A block that is given back is filled with its poison and kept, as mapping pages takes ten times
    as long as the rest of an allocation.  The one that was given back first is taken first, and
    looked at: what is no poison was stored through a buffer that was gone.
    """

    LARGEST = 4 * _PAGE
    KEPT = 16
    """Blocks of a size: a device that is judged keeps less than a MiB, since hundreds may live."""

    def __init__(self, libc: _Libc) -> None:
        self._libc = libc
        self._free: dict[tuple[int, int], deque[int]] = {}

    def take(self, body: int, poison: int) -> tuple[int, bool]:
        """A block with `body` bytes, and whether nobody has stored to it since it was free.

        Raises:
            MemoryError: There is no memory.
        """
        try:
            base = self._free[body, poison].popleft()
        except (KeyError, IndexError):
            base = self._map(body)
            ctypes.memset(base, poison, body)
            return base, True
        return base, self._whole(base, body, poison)

    def give(self, base: int, body: int, poison: int, stored: int) -> None:
        """Keep a block whose bytes are poison but for the last ones, from address `stored` on."""
        free = self._free.setdefault((body, poison), deque())
        if body > self.LARGEST or len(free) >= self.KEPT:
            self._libc.munmap(base, body + _PAGE)
            return
        ctypes.memset(stored, poison, base + body - stored)
        free.append(base)

    def intact(self) -> bool:
        """Whether nobody has stored to a block that is free; if so, it is poison again."""
        intact = True
        for (body, poison), free in list(self._free.items()):
            for _ in range(len(free)):
                try:
                    base = free.popleft()  # so that no other thread takes it meanwhile
                except IndexError:
                    break
                intact = self._whole(base, body, poison) and intact
                free.append(base)
        return intact

    def __del__(self) -> None:
        # At the end of a process modules go first, and all memory with it.
        for (body, _), free in getattr(self, "_free", {}).items():
            for base in free:
                self._libc.munmap(base, body + _PAGE)

    def _whole(self, base: int, body: int, poison: int) -> bool:
        if self._libc.filled(base, body, poison):
            return True
        ctypes.memset(base, poison, body)
        return False

    def _map(self, body: int) -> int:
        base: int | None = self._libc.mmap(
            None, body + _PAGE, _PROT_RW, _PRIVATE | _ANONYMOUS, -1, 0
        )
        if base is None or base == ctypes.c_void_p(-1).value:
            raise MemoryError("no memory for a guarded buffer")
        if self._libc.mprotect(base + body, _PAGE, _PROT_NONE):
            raise OSError(ctypes.get_errno(), "mprotect")
        return base


class _Pages:
    """Memory for one buffer, with a band before it and an inaccessible page behind it."""

    def __init__(self, guard: Guarded, nbytes: int) -> None:
        assert guard.blocks is not None
        assert guard.libc is not None
        self._body, self._poison = -(-(nbytes + BAND) // _PAGE) * _PAGE, guard.poison
        self._guard, self._blocks, self._libc = guard, guard.blocks, guard.libc
        self._base, kept = self._blocks.take(self._body, self._poison)
        if not kept:
            guard.violations.append(_LATE)
        # No bytes lie within the band: whoever stores one there is seen without a crash.
        self.address = self._base + self._body - (nbytes or BAND // 2)
        self._size = self.address - self._base + (0 if nbytes else BAND // 2)
        guard.live.add(self)

    def intact(self) -> bool:
        """Whether the band before the buffer is untouched, and what stands for no bytes."""
        return self._libc.filled(self._base, self._size, self._poison)

    def __del__(self) -> None:
        # At the end of a process modules go first, and all memory with it.
        if getattr(self, "_size", None) and ctypes is not None:
            intact = self.intact()
            if not intact:
                self._guard.violations.append("a kernel wrote before the beginning of a buffer")
            stored = self._base + (self._size if intact else 0)
            self._blocks.give(self._base, self._body, self._poison, stored)


_LATE = "a kernel wrote to a buffer that was gone"


class _Bands:
    """A device allocation with bands around the part that is handed out.

    The buffer that is handed out keeps the allocation alive, not this object.
    """

    def __init__(self, guard: Guarded, content: memoryview) -> None:
        self._real, self._nbytes, self._poison = guard.real, content.nbytes, guard.poison
        nbytes, band = content.nbytes, bytes([guard.poison]) * BAND
        whole = self._real.allocate(nbytes + 2 * BAND)
        between = self._real.has(Feature.PARTS)
        pieces: list[bytes | memoryview] = (
            [band, content, band] if between else [content, band, band]
        )
        self._real.copy_in(whole, 0, memoryview(b"".join(pieces)))
        self.start = BAND if between else 0
        part = self._real.part(whole, BAND, nbytes) if between else whole
        self._whole = weakref.ref(whole)
        self.buffer = weakref.ref(part)
        self.fresh: Buffer | None = part

    def intact(self) -> bool:
        """Whether both bands are untouched (True once the buffer is gone)."""
        whole = self._whole()
        if whole is None:
            return True
        raw = bytearray(self._nbytes + 2 * BAND)
        self._real.copy_out(whole, 0, memoryview(raw))
        before, after = raw[: self.start], raw[self.start + self._nbytes :]
        return before.count(self._poison) == len(before) and after.count(self._poison) == len(after)


class _Watched:
    """A compiled kernel of a guarded device."""

    def __init__(self, real: Compiled) -> None:
        self.spec, self.real = real.spec, real


class Guarded(Device):
    """A device seen through fences.

    Attributes:
        real: The device.
        poison: Byte that fills fresh memory.
        violations: What was found so far, one sentence each.
        launches: Number of kernels launched.
    """

    def __init__(self, real: Device, poison: int = 0xFF) -> None:
        self.real, self.poison = real, poison
        self.info, self.capabilities = real.info, real.capabilities
        self.dialect = real.dialect
        self.features = real.features - {Feature.PARTS, Feature.PEERS}
        self.violations: list[str] = []
        self.live: weakref.WeakSet[_Pages] = weakref.WeakSet()
        self.bands: dict[int, _Bands] = {}
        self.launches = 0
        self.libc = self.blocks = None
        if real.has(Feature.ADDRESS) and sys.platform != "win32":
            self.libc = _Libc()
            self.blocks = _Blocks(self.libc)

    @property
    def natives(self) -> Any:  # type: ignore[override]
        return self.real.natives

    def allocate(self, nbytes: int) -> Buffer:
        if self.libc is not None:
            pages = _Pages(self, nbytes)
            return self.real.import_pointer(pages.address, nbytes, pages)
        if not nbytes:
            return self.real.allocate(0)
        return self._between(memoryview(bytes([self.poison]) * nbytes))

    def holding(self, content: memoryview) -> Buffer:
        """A buffer with these bytes in it; one copy where the fences are bands."""
        if self.libc is not None or not content.nbytes:
            buffer = self.allocate(content.nbytes)
            if content.nbytes:
                self.copy_in(buffer, 0, content)
            return buffer
        return self._between(content)

    def _between(self, content: memoryview) -> Buffer:
        bands = _Bands(self, content)
        buffer, bands.fresh = bands.fresh, None
        assert buffer is not None
        key = id(bands)
        self.bands[key] = bands
        # Of a buffer that is gone there is nothing to look at.
        bands.buffer = weakref.ref(buffer, lambda _: self.bands.pop(key, None))
        return buffer

    def check(self) -> list[str]:
        """Look at all bands now; returns and forgets the violations found so far."""
        self.real.synchronize()
        for pages in list(self.live):
            if not pages.intact():
                self.violations.append("a kernel wrote before the beginning of a buffer")
        if self.blocks is not None and not self.blocks.intact():
            self.violations.append(_LATE)
        for key, bands in list(self.bands.items()):
            if not bands.intact():
                self.violations.append("a kernel wrote outside a buffer")
            if bands.buffer() is None:
                self.bands.pop(key, None)
        found, self.violations = self.violations, []
        return found

    def look(self) -> None:
        """Look at the bands while buffers are there, and remember what is found.

        Bands go with their buffer, so what wrote outside a result that is dropped goes unseen.
        """
        if self.bands:
            self.violations = self.check()

    def copy_in(self, target: Buffer, offset: int, source: memoryview) -> None:
        self.real.copy_in(target, offset, source)

    def copy_out(self, source: Buffer, offset: int, target: memoryview) -> None:
        self.real.copy_out(source, offset, target)

    def copy(
        self, target: Buffer, target_offset: int, source: Buffer, source_offset: int, nbytes: int
    ) -> None:
        self.real.copy(target, target_offset, source, source_offset, nbytes)

    def compile(self, kernels: Sequence[KernelSpec]) -> list[Any]:
        return [_Watched(c) for c in self.real.compile(kernels)]

    def launching(self, kernel: Any) -> None:
        """Called before each launch, prepared or not."""
        self.launches += 1

    def launch(self, kernel: Any, groups: int, buffers: Sequence[Buffer], meta: bytes) -> None:
        self.launching(kernel)
        self.real.launch(kernel.real, groups, buffers, meta)

    def prepare(self, kernel: Any, groups: int, meta: bytes) -> Callable[..., None]:
        run = self.real.prepare(kernel.real, groups, meta)

        def call(*buffers: Buffer) -> None:
            self.launching(kernel)
            run(*buffers)

        return call

    def synchronize(self) -> None:
        self.real.synchronize()

    def record(self) -> Event:
        return self.real.record()

    def memory(self) -> MemoryFigures:
        return self.real.memory()

    def empty_cache(self) -> None:
        self.real.empty_cache()

    def address(self, buffer: Buffer) -> int:
        return self.real.address(buffer)

    def import_pointer(self, address: int, nbytes: int, owner: object) -> Buffer:
        return self.real.import_pointer(address, nbytes, owner)
