"""The cpu device: host memory, kernels compiled from C, launches that are calls."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from tensorbus_backends import dtypes as dt
from tensorbus_backends.cache import DiskCache
from tensorbus_backends.contract import (
    BackendError,
    Buffer,
    Capabilities,
    Compiled,
    Device,
    DeviceInfo,
    Event,
    Feature,
    KernelSpec,
    LaunchError,
    MemoryFigures,
)
from tensorbus_backends.pool import CachingPool, SizeClass

from .blas import load_blas, native_table
from .dialect import C
from .kernels import Builder
from .processor import memory_total, processor
from .runtime import Launch, Runtime
from .toolchain import Toolchain

__all__ = ["CpuBuffer", "CpuDevice", "CpuKernel", "ForeignBuffer"]


class CpuBuffer(Buffer):
    """A block of the pool; `address` is where it lies."""

    __slots__ = ("_home", "_pool", "address")
    address: int
    _home: SizeClass[int]
    _pool: CachingPool[int]

    def __del__(self) -> None:
        # As `CachingPool.give`, without the call.
        home = self._home
        self._pool.used -= home.size
        home.free.append(self.address)


class ForeignBuffer(Buffer):
    """Memory of another library; `owner` is kept alive as long as the buffer."""

    __slots__ = ("address", "owner")
    address: int
    owner: object


class CpuKernel:
    """A compiled kernel.

    Attributes:
        spec: What it was compiled from.
        address: Of ``void name(void *const *buffers, const int64_t *meta, int64_t, int64_t)``.
    """

    __slots__ = ("_runtime", "address", "count", "last", "spec", "words")

    def __init__(self, spec: KernelSpec, address: int, runtime: Runtime) -> None:
        self.spec: KernelSpec = spec
        self.address = address
        self.count = spec.buffers
        self.words = spec.words
        self.last: tuple[int, bytes, Launch] | None = None
        self._runtime = runtime

    def prepare(self, groups: int, meta: bytes) -> Launch:
        """A launch with everything but the buffers fixed; see `Device.launch`.

        Args:
            groups: Number of groups, at least 1.
            meta: ``8 * spec.words`` bytes of native-endian int64; copied.

        Returns:
            ``launch(*buffers)``: takes exactly ``spec.buffers`` buffers of this device by position
            and returns when the kernel has run.  It checks nothing else, may be called any number
            of times and from several threads.

        Raises:
            LaunchError: `groups` or `meta` does not fit the kernel.
        """
        self.check(groups, meta, self.count)
        return self._runtime.prepare(self.address, self.count, groups, meta)

    def check(self, groups: int, meta: bytes, buffers: int) -> None:
        """Raise LaunchError unless the arguments of a launch fit the kernel."""
        if buffers != self.count:
            raise LaunchError(
                f"kernel {self.spec.name!r} takes {self.count} buffers, {buffers} were given"
            )
        if len(meta) != 8 * self.words:
            raise LaunchError(
                f"kernel {self.spec.name!r} takes {8 * self.words} bytes of metadata, "
                f"{len(meta)} were given"
            )
        if groups < 1:
            raise LaunchError(
                f"kernel {self.spec.name!r} was launched with {groups} groups; it needs at least 1"
            )


class _Finished:
    """An event of a device whose launches return when they are done."""

    def wait(self) -> None:
        return

    def done(self) -> bool:
        return True


class CpuDevice(Device):
    """This machine's processor.

    Args:
        info: What `probe` said about it.
        toolchain: Compiles kernels.
        runtime: Runs them.
        cache: Keeps them.
    """

    features = frozenset({Feature.ADDRESS, Feature.PARTS, Feature.SYNCHRONOUS})

    def __init__(
        self, info: DeviceInfo, toolchain: Toolchain, runtime: Runtime, cache: DiskCache
    ) -> None:
        self.dialect = C
        self.capabilities = Capabilities(
            dtypes=frozenset(d.name for d in dt.ALL),
            fma=processor().fma,
            local_memory=1 << 20,
            max_group=1,
        )
        self._runtime = runtime
        self._builder = Builder(toolchain, runtime, cache)
        self._kernels: dict[KernelSpec, CpuKernel] = {}
        self._lock = threading.RLock()
        total = memory_total()
        self._pool: CachingPool[int] = CachingPool(
            info.name, self._obtain, self._release, total=total, keep=total // 2
        )
        blas = load_blas(runtime)
        if blas is not None:
            self.natives = native_table(runtime, blas).table
        library = str(blas) if blas is not None else "none (pip install scipy-openblas64)"
        self.info = replace(info, details={**info.details, "blas": library})
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._after_fork)

    # -- memory ---------------------------------------------------------------------------

    def _obtain(self, nbytes: int) -> int:
        address = int(self._runtime.lib.tb_allocate(nbytes))
        if not address:
            raise MemoryError
        return address

    def _release(self, address: int, nbytes: int) -> None:
        self._runtime.lib.tb_release(address, nbytes)

    def allocate(self, nbytes: int) -> Buffer:
        # Every op allocates its result: the calls of `CachingPool.take` and of an __init__, written
        # out, take a quarter less time.
        pool = self._pool
        home = pool.known.get(nbytes) or pool.size_class(nbytes)
        try:
            address = home.free.pop()
            pool.used = used = pool.used + home.size
            if used > pool.peak:
                pool.peak = used
        except IndexError:
            address = pool.take(home)
        buffer = CpuBuffer.__new__(CpuBuffer)
        buffer.address = address
        buffer._home = home
        buffer._pool = pool
        buffer.device = self
        buffer.nbytes = nbytes
        return buffer

    def memory(self) -> MemoryFigures:
        return self._pool.figures()

    def empty_cache(self) -> None:
        self._pool.empty()

    def address(self, buffer: Buffer) -> int:
        return self._own(buffer).address

    def part(self, buffer: Buffer, offset: int, nbytes: int) -> Buffer:
        return self.import_pointer(self._span(buffer, offset, nbytes, "a part"), nbytes, buffer)

    def import_pointer(self, address: int, nbytes: int, owner: object) -> Buffer:
        buffer = ForeignBuffer.__new__(ForeignBuffer)
        buffer.address = address
        buffer.owner = owner
        buffer.device = self
        buffer.nbytes = nbytes
        return buffer

    def _own(self, buffer: Buffer) -> CpuBuffer:
        if buffer.device is not self:
            raise self._foreign(buffer)
        return cast(CpuBuffer, buffer)  # or a ForeignBuffer, which has an address as well

    def _foreign(self, buffer: Buffer) -> BackendError:
        return LaunchError(
            f"{self.info.name} was given a buffer of {buffer.device.info.name}; "
            f"copy it to {self.info.name} first"
        )

    def _span(self, buffer: Buffer, offset: int, nbytes: int, what: str) -> int:
        """Address of a range inside a buffer."""
        own = self._own(buffer)
        if offset < 0 or nbytes < 0 or offset + nbytes > own.nbytes:
            raise BackendError(
                f"{what} of {nbytes} bytes at offset {offset} does not fit a buffer of "
                f"{own.nbytes} bytes"
            )
        return own.address + offset

    def copy_in(self, target: Buffer, offset: int, source: memoryview) -> None:
        address = self._span(target, offset, source.nbytes, "a copy")
        if source.nbytes:
            host = self._runtime.ffi.from_buffer(source)
            self._copy(address, int(self._runtime.ffi.cast("uintptr_t", host)), source.nbytes)

    def copy_out(self, source: Buffer, offset: int, target: memoryview) -> None:
        address = self._span(source, offset, target.nbytes, "a copy")
        if target.nbytes:
            host = self._runtime.ffi.from_buffer(target, require_writable=True)
            self._copy(int(self._runtime.ffi.cast("uintptr_t", host)), address, target.nbytes)

    def copy(
        self, target: Buffer, target_offset: int, source: Buffer, source_offset: int, nbytes: int
    ) -> None:
        to = self._span(target, target_offset, nbytes, "a copy")
        self._copy(to, self._span(source, source_offset, nbytes, "a copy"), nbytes)

    def _copy(self, target: int, source: int, nbytes: int) -> None:
        if nbytes:
            self._runtime.lib.tb_copy(target, source, nbytes)

    # -- kernels --------------------------------------------------------------------------

    def compile(self, kernels: Sequence[KernelSpec]) -> list[Compiled]:
        known = self._kernels
        if any(spec not in known for spec in kernels):
            with self._lock:
                missing = [spec for spec in dict.fromkeys(kernels) if spec not in known]
                for spec, address in zip(missing, self._builder.addresses(missing), strict=True):
                    known[spec] = CpuKernel(spec, address, self._runtime)
        return [known[spec] for spec in kernels]

    def launch(self, kernel: Compiled, groups: int, buffers: Sequence[Buffer], meta: bytes) -> None:
        made = self._compiled(kernel)
        last = made.last
        if last is None or last[0] != groups or last[1] != meta:
            last = made.last = (groups, meta, made.prepare(groups, meta))
        if len(buffers) != made.count:
            made.check(groups, meta, len(buffers))
        for buffer in buffers:
            if buffer.device is not self:
                raise self._foreign(buffer)
        last[2](*buffers)

    def prepare(self, kernel: Compiled, groups: int, meta: bytes) -> Launch:
        return self._compiled(kernel).prepare(groups, meta)

    def _compiled(self, kernel: Compiled) -> CpuKernel:
        if not isinstance(kernel, CpuKernel):
            raise LaunchError(f"{self.info.name} was given a kernel that it did not compile")
        return kernel

    def synchronize(self) -> None:
        return

    def record(self) -> Event:
        return _Finished()

    def _after_fork(self) -> None:
        self._lock = threading.RLock()
        self._pool.after_fork()
