"""A device that runs grids of thread groups, over the few calls in which drivers differ.

cuda, rocm, metal and opencl share everything but their driver's vocabulary: cached memory, parts of
buffers, batches of kernels, checked launches, what happens after a fork.  A plugin writes a
`GridDriver` and a `Toolchain` and gets a `Device`.
"""

from __future__ import annotations

import os
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, cast

from .cache import DiskCache
from .contract import (
    BackendError,
    Buffer,
    Capabilities,
    Compiled,
    CompileError,
    Device,
    DeviceInfo,
    Event,
    Feature,
    KernelSpec,
    LaunchError,
    MemoryFigures,
    OutOfMemoryError,
)
from .dialect import Dialect
from .pool import CachingPool, SizeClass, format_bytes
from .staging import LARGEST, Staging
from .units import Toolchain, UnitBuilder

__all__ = ["GridBuffer", "GridDevice", "GridDriver", "GridKernel", "Launcher", "Place"]

Place = Any
"""A position in device memory, in the driver's own terms: an address, or a handle and an offset."""

Launcher = Callable[[Sequence["GridBuffer"]], None]
"""Launches with buffers of the device; it takes the places themselves, since a call less counts."""


class GridDriver(ABC):
    """What a driver does, on one device and one in-order queue.

    Every method raises the contract's exceptions and nothing else, but for MemoryError: a copy or a
    launcher did nothing, and more free memory may help.  All may be called from several threads.
    """

    @abstractmethod
    def obtain(self, nbytes: int) -> Place:
        """Fresh memory, aligned to 256 bytes; MemoryError if there is none left."""

    @abstractmethod
    def release(self, place: Place, nbytes: int) -> None:
        """Give memory from `obtain` back, after what was launched before; raises nothing."""

    @abstractmethod
    def at(self, place: Place, offset: int) -> Place:
        """The position `offset` bytes further on."""

    @abstractmethod
    def write(self, place: Place, source: memoryview) -> None:
        """Copy host bytes in; `source` may be reused on return."""

    def staged(self, nbytes: int) -> memoryview | None:
        """Host memory that `send` copies from; None if there is none, so that `write` serves."""
        return None

    def send(self, place: Place, source: memoryview) -> object:
        """Begin to copy memory of `staged` in, in the queue, without a wait.

        Returns:
            What has to live until the copy is done; nobody changes `source` before that.
        """
        raise NotImplementedError

    @abstractmethod
    def read(self, place: Place, target: memoryview) -> None:
        """Copy out to the host, after everything launched before."""

    @abstractmethod
    def copy(self, target: Place, source: Place, nbytes: int) -> None:
        """Copy on the device, in the queue."""

    @abstractmethod
    def function(self, program: Any, spec: KernelSpec) -> Any:
        """A kernel of a loaded program; CompileError if it is not in there."""

    @abstractmethod
    def launcher(self, function: Any, spec: KernelSpec, groups: int, meta: bytes) -> Launcher:
        """A launch with everything but the places of the buffers fixed.

        `meta` is empty for a kernel in `GridDevice`'s dialect `in_memory`: it gets the buffer with
        its metadata behind the others.
        """

    @abstractmethod
    def synchronize(self) -> None:
        """Wait until everything launched has finished; raises what it met."""

    @abstractmethod
    def record(self) -> Event:
        """Mark the present end of the queue."""

    def pointer(self, place: Place) -> int:
        """The address that other libraries on this device know a place by (DLPack)."""
        raise NotImplementedError


class GridBuffer(Buffer):
    """A block of the pool, at `at`."""

    __slots__ = ("_home", "_pool", "at")
    at: Place
    _home: SizeClass[Any]
    _pool: CachingPool[Any]

    def __del__(self) -> None:
        self._pool.give(self._home, self.at)


class _Span(Buffer):
    """Memory at `at` that `owner` keeps alive: part of a buffer, or another library's."""

    __slots__ = ("at", "owner")
    at: Place
    owner: object


class GridKernel:
    """A compiled kernel.

    Attributes:
        spec: What it was compiled from.
        function: The driver's handle.
        in_memory: Its metadata is more than the device takes as arguments.
    """

    __slots__ = ("_device", "count", "function", "in_memory", "program", "size", "spec")

    def __init__(
        self,
        spec: KernelSpec,
        program: Any,
        function: Any,
        device: GridDevice,
        in_memory: bool = False,
    ) -> None:
        self.spec: KernelSpec = spec
        self.program, self.function, self.in_memory = program, function, in_memory
        self.count, self.size = spec.buffers, 8 * spec.words
        self._device = weakref.ref(device)

    def prepare(self, groups: int, meta: bytes) -> Callable[..., None]:
        """A launch with everything but the buffers fixed; see `Device.launch`.

        Args:
            groups: Number of groups, at least 1.
            meta: ``8 * spec.words`` bytes of native-endian int64; copied.

        Returns:
            ``launch(*buffers)``: takes exactly ``spec.buffers`` buffers of this device by
            position.  It checks nothing else, may be called any number of times and from several
            threads.

        Raises:
            LaunchError: `groups` or `meta` does not fit the kernel.
        """
        self.check(groups, meta, self.count)
        device = self._device()
        assert device is not None
        driver = device.driver
        words: list[Any] = []
        if self.in_memory:
            words, meta = [device.store(meta)], b""
        run = driver.launcher(self.function, self.spec, groups, meta)

        def launch(*buffers: Any) -> None:
            if device.driver is not driver:
                device.driver.synchronize()
            try:
                run(buffers)
            except MemoryError:
                device.retry(f"launching kernel {self.spec.name!r}", run, buffers)

        if not words:
            return launch
        return lambda *buffers: launch(*buffers, *words)

    def check(self, groups: int, meta: bytes, buffers: int) -> None:
        """Raise LaunchError unless the arguments of a launch fit the kernel."""
        name = self.spec.name
        if buffers != self.count:
            raise LaunchError(f"kernel {name!r} takes {self.count} buffers, {buffers} were given")
        if len(meta) != self.size:
            raise LaunchError(
                f"kernel {name!r} takes {self.size} bytes of metadata, {len(meta)} were given"
            )
        if groups < 1:
            raise LaunchError(
                f"kernel {name!r} was launched with {groups} groups; it needs at least 1"
            )


class GridDevice(Device):
    """A device over a `GridDriver`.

    Args:
        info: The line that `probe` gives for it.
        capabilities: What it declares.
        dialect: Its spelling of the kernel language.
        driver: Its driver.
        toolchain: Its compiler.
        cache: Keeps compiled programs.
        total: Bytes of memory it has; 0 if unknown.
        largest: The most bytes that one buffer may have; 0 means no limit but `total`.
        keep: Bytes of memory, used and kept for reuse, from which on kept memory goes back before
            more is obtained; 0 means no limit.
        in_memory: The dialect with metadata in memory, for kernels with more arguments than fit.
        argument_bytes: The most bytes of arguments, eight for a buffer, that a kernel may have; 0
            means no limit.
    """

    features = frozenset({Feature.PARTS})

    def __init__(
        self,
        info: DeviceInfo,
        capabilities: Capabilities,
        dialect: Dialect,
        driver: GridDriver,
        toolchain: Toolchain[Any],
        cache: DiskCache,
        *,
        total: int = 0,
        largest: int = 0,
        keep: int = 0,
        in_memory: Dialect | None = None,
        argument_bytes: int = 0,
    ) -> None:
        self.info, self.capabilities = info, capabilities
        self.dialect: Dialect = dialect
        self.driver = driver
        self._builder = UnitBuilder(toolchain, cache)
        self._compiling = threading.RLock()
        self._kernels: dict[KernelSpec, GridKernel] = {}
        self._largest = largest
        self._in_memory, self._argument_bytes = in_memory, argument_bytes
        self._staging = Staging(driver.staged, driver.send, driver.record)
        self._pool: CachingPool[Any] = CachingPool(
            info.name,
            lambda nbytes: self.driver.obtain(min(nbytes, largest or nbytes)),
            lambda place, nbytes: self.driver.release(place, nbytes),
            total=total,
            keep=keep,
        )
        _open.add(self)

    # -- memory ---------------------------------------------------------------------------

    def allocate(self, nbytes: int) -> Buffer:
        pool = self._pool
        if self._largest and nbytes > self._largest:
            raise OutOfMemoryError(
                f"{self.info.name}: out of memory: {format_bytes(nbytes)} asked for in one piece, "
                f"and the device's largest is {format_bytes(self._largest)}; work on smaller pieces"
            )
        home = pool.size_class(nbytes)
        at = pool.take(home)
        buffer = GridBuffer.__new__(GridBuffer)
        buffer.at, buffer._home, buffer._pool = at, home, pool
        buffer.device, buffer.nbytes = self, nbytes
        return buffer

    def part(self, buffer: Buffer, offset: int, nbytes: int) -> Buffer:
        at = self.driver.at(self._span(buffer, offset, nbytes, "a part"), offset)
        return self._borrow(at, nbytes, buffer)

    def import_pointer(self, address: int, nbytes: int, owner: object) -> Buffer:
        """A buffer over device memory of another library, by the device's address."""
        if not self.dlpack_type:
            return super().import_pointer(address, nbytes, owner)
        return self._borrow(self.driver.at(address, 0), nbytes, owner)

    def _borrow(self, at: Place, nbytes: int, owner: object) -> Buffer:
        span = _Span.__new__(_Span)
        span.at, span.owner, span.device, span.nbytes = at, owner, self, nbytes
        return span

    def pointer(self, buffer: Buffer) -> int:
        if not self.dlpack_type:
            return super().pointer(buffer)
        return self.driver.pointer(self._own(buffer).at)

    def memory(self) -> MemoryFigures:
        return self._pool.figures()

    def empty_cache(self) -> None:
        self._pool.empty()

    def _own(self, buffer: Buffer) -> GridBuffer:
        if getattr(buffer, "device", None) is not self:
            owner = getattr(getattr(buffer, "device", None), "info", None)
            raise BackendError(
                f"{self.info.name} was given a buffer of {getattr(owner, 'name', 'another')}; "
                f"copy it to {self.info.name} first"
            )
        return cast(GridBuffer, buffer)

    def _span(self, buffer: Buffer, offset: int, nbytes: int, what: str = "a copy") -> Place:
        own = self._own(buffer)
        if offset < 0 or nbytes < 0 or offset + nbytes > own.nbytes:
            raise BackendError(
                f"{what} of {nbytes} bytes at offset {offset} does not fit a buffer of "
                f"{own.nbytes} bytes"
            )
        return own.at

    def copy_in(self, target: Buffer, offset: int, source: memoryview) -> None:
        at = self._span(target, offset, source.nbytes)
        if source.nbytes:
            driver, place = self.driver, self.driver.at(at, offset)
            write = driver.write if source.nbytes > LARGEST else self._write
            try:
                write(place, source)
            except MemoryError:
                self.retry("copying to it", write, place, source)

    def _write(self, place: Place, source: memoryview) -> None:
        if not self._staging.put(place, source):
            self.driver.write(place, source)

    def copy_out(self, source: Buffer, offset: int, target: memoryview) -> None:
        at = self._span(source, offset, target.nbytes)
        if target.nbytes:
            driver, place = self.driver, self.driver.at(at, offset)
            try:
                driver.read(place, target)
            except MemoryError:
                self.retry("copying from it", driver.read, place, target)

    def copy(
        self, target: Buffer, target_offset: int, source: Buffer, source_offset: int, nbytes: int
    ) -> None:
        to = self._span(target, target_offset, nbytes)
        of = self._span(source, source_offset, nbytes)
        if nbytes:
            driver = self.driver
            to, of = driver.at(to, target_offset), driver.at(of, source_offset)
            try:
                driver.copy(to, of, nbytes)
            except MemoryError:
                self.retry("copying", driver.copy, to, of, nbytes)

    def retry(self, doing: str, command: Callable[..., None], *arguments: Any) -> None:
        """Do once more what lacked memory, after kept memory was released.

        Raises:
            OutOfMemoryError: It still lacks memory.
        """
        self.empty_cache()
        try:
            command(*arguments)
        except MemoryError as error:
            raise OutOfMemoryError(
                f"{self.info.name}: out of memory while {doing}; drop tensors that are no longer "
                "needed or work on smaller pieces"
            ) from error

    # -- kernels --------------------------------------------------------------------------

    def compile(self, kernels: Sequence[KernelSpec]) -> list[Compiled]:
        known = self._kernels
        if any(spec not in known for spec in kernels):
            driver: object = self.driver
            if isinstance(driver, _Forked):
                driver.refuse()  # before a program of the parent's cache is loaded
            with self._compiling:
                missing = [spec for spec in dict.fromkeys(kernels) if spec not in known]
                pairs = [(spec, self.spelling(spec)) for spec in missing]
                programs = self._builder.programs(pairs)
                for (spec, dialect), program in zip(pairs, programs, strict=True):
                    function = self.driver.function(program, spec)
                    in_memory = dialect is self._in_memory
                    known[spec] = GridKernel(spec, program, function, self, in_memory)
        return [known[spec] for spec in kernels]

    def spelling(self, spec: KernelSpec) -> Dialect:
        """The dialect for one kernel.

        Raises:
            CompileError: The kernel needs more than the device has.
        """
        local = spec.local_bytes(self.dialect)
        if local > self.capabilities.local_memory:
            raise CompileError(
                f"kernel {spec.name!r} needs {local} bytes of memory shared by a group, and "
                f"{self.info.name} has {self.capabilities.local_memory}"
            )
        limit, arguments = self._argument_bytes, 8 * (spec.words + spec.buffers)
        if self._in_memory is not None and limit and arguments > limit:
            return self._in_memory
        return self.dialect

    def store(self, meta: bytes) -> Buffer:
        """Metadata in memory."""
        buffer = self.allocate(len(meta))
        self.copy_in(buffer, 0, memoryview(meta))
        return buffer

    def launch(self, kernel: Compiled, groups: int, buffers: Sequence[Buffer], meta: bytes) -> None:
        made = self._compiled(kernel)
        if len(buffers) != made.count or len(meta) != made.size or groups < 1:
            made.check(groups, meta, len(buffers))
        own = [self._own(b) for b in buffers]
        if made.in_memory:
            # It goes back to the pool on return: what takes it next runs after this kernel.
            own, meta = [*own, self._own(self.store(meta))], b""
        run = self.driver.launcher(made.function, made.spec, groups, meta)
        try:
            run(own)
        except MemoryError:
            self.retry(f"launching kernel {made.spec.name!r}", run, own)

    def prepare(self, kernel: Compiled, groups: int, meta: bytes) -> Callable[..., None]:
        return self._compiled(kernel).prepare(groups, meta)

    def _compiled(self, kernel: Compiled) -> GridKernel:
        if not isinstance(kernel, GridKernel):
            raise LaunchError(f"{self.info.name} was given a kernel that it did not compile")
        return kernel

    def synchronize(self) -> None:
        self.driver.synchronize()

    def record(self) -> Event:
        return self.driver.record()


class _Forked:
    """What a device has for a driver in a forked child: every call says why nothing works."""

    def __init__(self, device: str, parent: int, *kept: object) -> None:
        self._device, self._parent = device, parent
        # The handles are the parent's: letting go of one here would end in the driver, and of an
        # event of a copy wait there for a lock that one of the parent's threads held.
        self._kept: list[object] = [*kept]

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return self.refuse

    def refuse(self, *_: Any) -> Any:
        """Raise BackendError."""
        raise BackendError(
            f"{self._device} was opened by process {self._parent}, and its driver does not survive "
            "a fork; start worker processes with multiprocessing's 'spawn', or open the device "
            "only in the child"
        )

    def release(self, place: Place, nbytes: int) -> None:
        """Keep its handle too."""
        self._kept.append(place)


_open: weakref.WeakSet[GridDevice] = weakref.WeakSet()


def _after_fork() -> None:
    for device in list(_open):
        device._pool.after_fork()
        device._compiling = threading.RLock()
        driver = device.driver
        if not isinstance(driver, _Forked):
            kept = _Forked(device.info.name, os.getppid(), driver, device._staging)
            refusing = cast(GridDriver, kept)
            device.driver = refusing
            device._staging = Staging(refusing.staged, refusing.send, refusing.record)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
