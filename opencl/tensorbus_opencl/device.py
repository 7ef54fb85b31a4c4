"""An open OpenCL device: one context, one in-order queue, cached buffers, launches."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import pyopencl as cl
from tensorbus_backends import dtypes as dt
from tensorbus_backends.cache import DiskCache
from tensorbus_backends.check import settled
from tensorbus_backends.contract import (
    BackendError,
    Buffer,
    Capabilities,
    Compiled,
    CompileError,
    Device,
    DeviceInfo,
    Event,
    KernelSpec,
    LaunchError,
    MemoryFigures,
    OutOfMemoryError,
)
from tensorbus_backends.dialect import Dialect
from tensorbus_backends.pool import CachingPool, SizeClass, format_bytes
from tensorbus_backends.units import UnitBuilder, workers

from .dialect import Spelling
from .errors import is_memory, translate
from .inventory import Entry
from .kernels import OpenCLToolchain

__all__ = ["OpenCLBuffer", "OpenCLDevice", "OpenCLKernel", "build_options"]

_read: Callable[..., Any] = cl._cl._enqueue_read_buffer
_write: Callable[..., Any] = cl._cl._enqueue_write_buffer
_copy: Callable[..., Any] = cl._cl._enqueue_copy_buffer
_marker: Callable[..., Any] = cl._cl._enqueue_marker
_run: Callable[..., Any] = cl.enqueue_nd_range_kernel


# Runtimes whose compilers run in parallel; others serialise (PoCL) or crash (Oclgrind).
_THREADED = ("amd", "intel", "nvidia")


class OpenCLBuffer(Buffer):
    """A block of the pool; `mem` is pyopencl's buffer."""

    __slots__ = ("_home", "_pool", "mem")
    mem: Any
    _home: SizeClass[Any]
    _pool: CachingPool[Any]

    def __del__(self) -> None:
        self._pool.give(self._home, self.mem)


class OpenCLPart(Buffer):
    """A range of another buffer, which it keeps alive; `mem` is pyopencl's sub-buffer."""

    __slots__ = ("mem", "offset", "whole")
    mem: Any
    offset: int
    whole: Buffer


class OpenCLKernel:
    """A compiled kernel.

    Attributes:
        spec: What it was compiled from.
    """

    __slots__ = ("_device", "_program", "count", "in_memory", "kernel", "local", "spec", "words")

    def __init__(
        self, spec: KernelSpec, program: Any, device: OpenCLDevice, in_memory: bool
    ) -> None:
        self.spec: KernelSpec = spec
        self.count, self.words = spec.buffers, spec.words
        self.in_memory = in_memory
        self._device, self._program = device, program
        self.kernel = cl.Kernel(program, spec.name)
        self.local = device.local_size(self.kernel)

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
        device = self._device
        if self.in_memory:
            return lambda *buffers: device.launch(self, groups, buffers, meta)
        kernel = cl.Kernel(self._program, self.spec.name)
        _set_bytes(kernel, self.count, meta)
        lock, queue, set_arg, flush = device.lock, device.queue, kernel.set_arg, device.queue.flush
        local = (self.local,)
        size = (groups * self.local,)

        def launch(*buffers: OpenCLBuffer) -> None:
            try:
                with lock:
                    for k, buffer in enumerate(buffers):
                        set_arg(k, buffer.mem)
                    _run(queue, kernel, size, local)
                    flush()
            except cl.Error as error:
                device.recover(error, f"launching kernel {self.spec.name}")
                device.launch(self, groups, buffers, meta)

        return launch

    def check(self, groups: int, meta: bytes, buffers: int) -> None:
        """Raise LaunchError unless the arguments of a launch fit the kernel."""
        name = self.spec.name
        if buffers != self.count:
            raise LaunchError(f"kernel {name!r} takes {self.count} buffers, {buffers} were given")
        if len(meta) != 8 * self.words:
            raise LaunchError(
                f"kernel {name!r} takes {8 * self.words} bytes of metadata, {len(meta)} were given"
            )
        if groups < 1:
            raise LaunchError(
                f"kernel {name!r} was launched with {groups} groups; it needs at least 1"
            )


class _Marker:
    """A point in the queue."""

    __slots__ = ("_device", "_event")

    def __init__(self, device: OpenCLDevice, event: Any) -> None:
        self._device, self._event = device, event

    def wait(self) -> None:
        try:
            self._event.wait()
        except cl.Error as error:
            raise self._device.failure(error) from error

    def done(self) -> bool:
        status = int(self._event.command_execution_status)
        if status < 0:
            self.wait()
        return status <= cl.command_execution_status.COMPLETE


class OpenCLDevice(Device):
    """One device of one platform.

    Args:
        entry: Which.
        info: The line that `probe` gives for it.
        cache: Keeps compiled programs.
        group: Work-items in a group, for tests of determinism; None lets the device choose.

    Raises:
        BackendError: `group` is more than the device has, or it cannot be used at all.
    """

    def __init__(
        self, entry: Entry, info: DeviceInfo, cache: DiskCache, group: int | None = None
    ) -> None:
        device = entry.device
        self.info = info
        most = int(min(device.max_work_group_size, device.max_work_item_sizes[0]))
        if group is not None and not 1 <= group <= most:
            raise BackendError(
                f"{info.name} has groups of 1 to {most} work-items, {group} were asked for "
                "(TENSORBUS_OPENCL_GROUP)"
            )
        fp64 = "cl_khr_fp64" in device.extensions.split() or bool(device.double_fp_config)
        processor = entry.kind == "cpu"
        loops = processor and group is None
        block, columns = (4096, 64) if processor else (1024, 32)
        hide = loops and entry.short == "intel"
        spelling = Spelling(fp64, loops, hide, block, columns)
        self.group = 1 if loops else min(group or 128, most)
        self.dialect: Dialect = spelling.dialect()
        self._in_memory = spelling.dialect(in_memory=True)
        self._argument_bytes = int(device.max_parameter_size)
        fma = device.double_fp_config if fp64 else device.single_fp_config
        self.capabilities = Capabilities(
            dtypes=frozenset(d.name for d in dt.ALL if fp64 or d is not dt.float64),
            fp64=fp64,
            fp16="cl_khr_fp16" in device.extensions.split(),
            fma=bool(fma & cl.device_fp_config.FMA),
            local_memory=int(device.local_mem_size),
            max_group=most,
            atomics="cl_khr_global_int32_base_atomics" in device.extensions.split(),
        )
        try:
            self._context: Any = cl.Context([device])
            self.queue: Any = cl.CommandQueue(self._context, device)
        except cl.Error as error:
            raise translate(error, info.name, "being opened") from error
        toolchain = OpenCLToolchain(
            self._context,
            entry.identity(),
            build_options(device),
            binaries=entry.short != "pocl",
            parallel=workers() if entry.short in _THREADED else 1,
        )
        self._builder = UnitBuilder(toolchain, cache)
        # clSetKernelArg and the launch that uses it must not be torn apart by another thread.
        self.lock = threading.Lock()
        self._compiling = threading.RLock()
        self._kernels: dict[KernelSpec, OpenCLKernel] = {}
        self._largest = int(device.max_mem_alloc_size)
        total = int(device.global_mem_size)
        self._pool: CachingPool[Any] = CachingPool(
            info.name, self._obtain, self._release, total=total, keep=total // 2
        )

    def settle(self, verdict: Mapping[str, bool]) -> None:
        """Put what `run_check` found out into the capabilities."""
        # Without correct rounding OpenCL C allows 2.5 ulp for / and 3 ulp for sqrt in float32.
        self.capabilities = settled(self.capabilities, verdict, "2.5", "3")

    def local_size(self, kernel: Any) -> int:
        """Work-items in a group of one kernel; results do not depend on it."""
        if self.group == 1:
            return 1
        query = cl.kernel_work_group_info.WORK_GROUP_SIZE
        return min(self.group, int(kernel.get_work_group_info(query, self._context.devices[0])))

    # -- memory ---------------------------------------------------------------------------

    def _obtain(self, nbytes: int) -> Any:
        try:
            # The last size class may exceed what a single buffer can have.
            return cl.Buffer(
                self._context, cl.mem_flags.READ_WRITE, max(1, min(nbytes, self._largest))
            )
        except cl.Error as error:
            if is_memory(error):
                raise MemoryError from error
            raise translate(error, self.info.name, "allocating") from error

    @staticmethod
    def _release(block: Any, nbytes: int) -> None:
        block.release()

    def allocate(self, nbytes: int) -> Buffer:
        pool = self._pool
        if nbytes > self._largest:
            raise OutOfMemoryError(
                f"{self.info.name}: out of memory: {format_bytes(nbytes)} asked for in one piece, "
                f"and the device's largest is {format_bytes(self._largest)}; work on smaller pieces"
            )
        home = pool.size_class(nbytes)
        mem = pool.take(home)
        buffer = OpenCLBuffer.__new__(OpenCLBuffer)
        buffer.mem = mem
        buffer._home = home
        buffer._pool = pool
        buffer.device = self
        buffer.nbytes = nbytes
        return buffer

    def part(self, buffer: Buffer, offset: int, nbytes: int) -> Buffer:
        self._span(buffer, offset, nbytes, "a part")
        whole = buffer
        if isinstance(buffer, OpenCLPart):
            # OpenCL has no sub-buffer of a sub-buffer.
            whole, offset = buffer.whole, buffer.offset + offset
        mem = self._own(whole).mem
        try:
            # Nor one of nothing.
            mem = mem.get_sub_region(offset, nbytes) if nbytes else mem
        except cl.Error as error:
            raise translate(error, self.info.name, "making a part of a buffer") from error
        part = OpenCLPart.__new__(OpenCLPart)
        part.mem, part.offset, part.whole = mem, offset, whole
        part.device, part.nbytes = self, nbytes
        return part

    def memory(self) -> MemoryFigures:
        return self._pool.figures()

    def empty_cache(self) -> None:
        self._pool.empty()

    def _own(self, buffer: Buffer) -> OpenCLBuffer:
        if getattr(buffer, "device", None) is not self:
            owner = getattr(getattr(buffer, "device", None), "info", None)
            raise BackendError(
                f"{self.info.name} was given a buffer of {getattr(owner, 'name', 'another')}; "
                f"copy it to {self.info.name} first"
            )
        return cast(OpenCLBuffer, buffer)

    def _span(self, buffer: Buffer, offset: int, nbytes: int, what: str = "a copy") -> Any:
        own = self._own(buffer)
        if offset < 0 or nbytes < 0 or offset + nbytes > own.nbytes:
            raise BackendError(
                f"{what} of {nbytes} bytes at offset {offset} does not fit a buffer of "
                f"{own.nbytes} bytes"
            )
        return own.mem

    def copy_in(self, target: Buffer, offset: int, source: memoryview) -> None:
        mem = self._span(target, offset, source.nbytes)
        if source.nbytes:
            self._enqueue("copying to it", _write, self.queue, mem, source, offset, None, True)

    def copy_out(self, source: Buffer, offset: int, target: memoryview) -> None:
        mem = self._span(source, offset, target.nbytes)
        if target.nbytes:
            self._enqueue("copying from it", _read, self.queue, mem, target, offset, None, True)

    def copy(
        self, target: Buffer, target_offset: int, source: Buffer, source_offset: int, nbytes: int
    ) -> None:
        to = self._span(target, target_offset, nbytes)
        mem = self._span(source, source_offset, nbytes)
        if nbytes:
            self._enqueue(
                "copying", _copy, self.queue, mem, to, nbytes, source_offset, target_offset
            )
            self.queue.flush()

    def _enqueue(self, doing: str, command: Callable[..., Any], *arguments: Any) -> None:
        """Run a command, once more with the cache emptied if memory ran out."""
        try:
            command(*arguments)
        except cl.Error as error:
            self.recover(error, doing)
            try:
                command(*arguments)
            except cl.Error as second:
                raise translate(second, self.info.name, doing) from second

    def recover(self, error: Any, doing: str) -> None:
        """Make room if that may help; else raise the error in the contract's terms."""
        if not is_memory(error):
            raise translate(error, self.info.name, doing) from error
        self._pool.empty()

    # -- kernels --------------------------------------------------------------------------

    def compile(self, kernels: Sequence[KernelSpec]) -> list[Compiled]:
        known = self._kernels
        if any(spec not in known for spec in kernels):
            with self._compiling:
                missing = [spec for spec in dict.fromkeys(kernels) if spec not in known]
                pairs = [(spec, self._dialect_of(spec)) for spec in missing]
                programs = self._builder.programs(pairs)
                for (spec, dialect), program in zip(pairs, programs, strict=True):
                    try:
                        kernel = OpenCLKernel(spec, program, self, dialect is self._in_memory)
                    except cl.Error as error:
                        raise CompileError(
                            f"kernel {spec.name!r}: {self.info.name} compiled it but cannot load "
                            f"it ({error})"
                        ) from error
                    known[spec] = kernel
        return [known[spec] for spec in kernels]

    def _dialect_of(self, spec: KernelSpec) -> Dialect:
        local = spec.local_bytes(self.dialect)
        if local > self.capabilities.local_memory:
            raise CompileError(
                f"kernel {spec.name!r} needs {local} bytes of memory shared by a group, and "
                f"{self.info.name} has {self.capabilities.local_memory}"
            )
        arguments = 8 * (spec.words + spec.buffers)
        return self.dialect if arguments <= self._argument_bytes else self._in_memory

    def launch(self, kernel: Compiled, groups: int, buffers: Sequence[Buffer], meta: bytes) -> None:
        if not isinstance(kernel, OpenCLKernel):
            raise LaunchError(f"{self.info.name} was given a kernel that it did not compile")
        if len(buffers) != kernel.count or len(meta) != 8 * kernel.words or groups < 1:
            kernel.check(groups, meta, len(buffers))
        blocks = [self._own(b).mem for b in buffers]
        words: Buffer | None = None
        if kernel.in_memory:
            words = self.allocate(len(meta))
            self.copy_in(words, 0, memoryview(meta))
            blocks.append(cast(OpenCLBuffer, words).mem)
        self._enqueue(
            f"launching kernel {kernel.spec.name}", self._launch, kernel, groups, blocks, meta
        )

    def _launch(self, kernel: OpenCLKernel, groups: int, blocks: list[Any], meta: bytes) -> None:
        handle, local = kernel.kernel, kernel.local
        with self.lock:
            for k, block in enumerate(blocks):
                handle.set_arg(k, block)
            if not kernel.in_memory:
                _set_bytes(handle, kernel.count, meta)
            _run(self.queue, handle, (groups * local,), (local,))
            self.queue.flush()

    def synchronize(self) -> None:
        try:
            self.queue.finish()
        except cl.Error as error:
            raise self.failure(error) from error

    def record(self) -> Event:
        try:
            event = _marker(self.queue)
            self.queue.flush()
        except cl.Error as error:
            raise self.failure(error) from error
        return _Marker(self, event)

    def failure(self, error: Any) -> BackendError:
        """What to raise for an error met while waiting: an earlier kernel's, most likely."""
        return translate(error, self.info.name, "running kernels", memory=False)


def build_options(device: Any) -> list[str]:
    """Options for every program: IEEE arithmetic, nothing fast and loose."""
    options = ["-cl-std=CL1.2", "-w"]
    if device.single_fp_config & cl.device_fp_config.CORRECTLY_ROUNDED_DIVIDE_SQRT:
        options.append("-cl-fp32-correctly-rounded-divide-sqrt")
    return options


def _set_bytes(kernel: Any, index: int, data: bytes) -> None:
    # set_arg alone takes 40 times as long to find out what bytes are.
    kernel._set_arg_buf(index, data)
