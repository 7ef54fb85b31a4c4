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
        self.mmap.restype = ctypes.c_void_p
        self.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
        self.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        self.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


class _Pages:
    """Memory for one buffer, with a band before it and an inaccessible page behind it."""

    def __init__(self, guard: Guarded, nbytes: int) -> None:
        libc = guard.libc
        assert libc is not None
        self._none = not nbytes
        body = -(-(nbytes + BAND) // _PAGE) * _PAGE
        self._libc, self._length, self._guard = libc, body + _PAGE, guard
        base = libc.mmap(None, self._length, _PROT_RW, _PRIVATE | _ANONYMOUS, -1, 0)
        if base in (None, ctypes.c_void_p(-1).value):
            raise MemoryError("no memory for a guarded buffer")
        self._base = base
        if libc.mprotect(base + body, _PAGE, _PROT_NONE):
            raise OSError(ctypes.get_errno(), "mprotect")
        # No bytes lie within the band: whoever stores one there is seen without a crash.
        self.address = base + body - (nbytes or BAND // 2)
        self._poison = guard.poison
        ctypes.memset(base, guard.poison, body)
        guard.live.add(self)

    def intact(self) -> bool:
        """Whether the band before the buffer is untouched, and what stands for no bytes."""
        size = self.address - self._base + (BAND // 2 if self._none else 0)
        return bool(ctypes.string_at(self._base, size) == bytes([self._poison]) * size)

    def __del__(self) -> None:
        # At the end of a process modules go first, and all memory with it.
        if getattr(self, "_base", None) and ctypes is not None:
            if not self.intact():
                self._guard.violations.append("a kernel wrote before the beginning of a buffer")
            self._libc.munmap(self._base, self._length)


class _Bands:
    """A device allocation with bands around the part that is handed out.

    The buffer that is handed out keeps the allocation alive, not this object.
    """

    def __init__(self, guard: Guarded, nbytes: int) -> None:
        self._real, self._nbytes, self._poison = guard.real, nbytes, guard.poison
        whole = self._real.allocate(nbytes + 2 * BAND)
        self._real.copy_in(whole, 0, memoryview(bytes([guard.poison]) * (nbytes + 2 * BAND)))
        if self._real.has(Feature.PARTS):
            self.start, part = BAND, self._real.part(whole, BAND, nbytes)
        else:
            self.start, part = 0, whole
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
        self.libc = None
        if real.has(Feature.ADDRESS) and sys.platform != "win32":
            self.libc = _Libc()

    @property
    def natives(self) -> Any:  # type: ignore[override]
        return self.real.natives

    def allocate(self, nbytes: int) -> Buffer:
        if self.libc is not None:
            pages = _Pages(self, nbytes)
            return self.real.import_pointer(pages.address, nbytes, pages)
        if not nbytes:
            return self.real.allocate(0)
        bands = _Bands(self, nbytes)
        buffer, bands.fresh = bands.fresh, None
        assert buffer is not None
        self.bands[id(bands)] = bands
        return buffer

    def check(self) -> list[str]:
        """Look at all bands now; returns and forgets the violations found so far."""
        self.real.synchronize()
        for pages in list(self.live):
            if not pages.intact():
                self.violations.append("a kernel wrote before the beginning of a buffer")
        for key, bands in list(self.bands.items()):
            if not bands.intact():
                self.violations.append("a kernel wrote outside a buffer")
            if bands.buffer() is None:
                del self.bands[key]
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
