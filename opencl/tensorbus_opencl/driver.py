"""OpenCL as a grid driver: one context, one in-order queue, pyopencl's buffers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pyopencl as cl
from tensorbus_backends.contract import BackendError, CompileError, Event, KernelSpec
from tensorbus_backends.grid import GridBuffer, GridDriver, Launcher

from . import public
from .errors import is_memory, translate

__all__ = ["OpenCLDriver", "Place"]

_read = public.chosen("_enqueue_read_buffer", public.read)
_write = public.chosen("_enqueue_write_buffer", public.write)
_copy = public.chosen("_enqueue_copy_buffer", public.copy)
_marker = public.chosen("_enqueue_marker", public.marker)
_run: Callable[..., Any] = cl.enqueue_nd_range_kernel

# Launches share a kernel object, since making one takes about as long as setting its metadata a
# thousand times; one that has had to set it that often gets its own.
_SHARED = 1000


class Place:
    """A position in a buffer.

    Attributes:
        whole: pyopencl's buffer.
        offset: Bytes into it.
        mem: What a kernel is given: the buffer itself, or the sub-buffer that `cut` makes.
    """

    __slots__ = ("mem", "offset", "whole")

    def __init__(self, whole: Any, offset: int = 0) -> None:
        self.whole, self.offset = whole, offset
        self.mem: Any = None if offset else whole

    def cut(self) -> Any:
        """Make `mem`: a sub-buffer of the buffer itself, since OpenCL has none of a sub-buffer."""
        rest = self.whole.size - self.offset
        # Nor has it one of nothing.
        self.mem = self.whole.get_sub_region(self.offset, rest) if rest else self.whole
        return self.mem


class _Function:
    """A kernel object with the metadata that was set last, and its work-items in a group."""

    __slots__ = ("kernel", "local", "meta", "program")

    def __init__(self, program: Any, kernel: Any, local: int) -> None:
        self.program, self.kernel, self.local, self.meta = program, kernel, local, b""

    def clone(self) -> _Function:
        """Another object for the same kernel."""
        kernel = cl.Kernel(self.program, self.kernel.function_name)
        return _Function(self.program, kernel, self.local)


class _Marker:
    """A point in the queue."""

    __slots__ = ("_driver", "_event")

    def __init__(self, driver: OpenCLDriver, event: Any) -> None:
        self._driver, self._event = driver, event

    def wait(self) -> None:
        self._driver.wait(self._event.wait)

    def done(self) -> bool:
        status = int(self._event.command_execution_status)
        if status < 0:
            self.wait()
        return status <= cl.command_execution_status.COMPLETE


class OpenCLDriver(GridDriver):
    """One device of one platform.

    Attributes:
        context: pyopencl context of this device alone.
        queue: The queue that everything runs in.

    Args:
        device: pyopencl device.
        name: Its name, for messages.
        group: Work-items in a group, where a kernel allows as many.

    Raises:
        BackendError: The device cannot be used.
    """

    def __init__(self, device: Any, name: str, group: int) -> None:
        self._device, self._name, self._group = device, name, group
        # clSetKernelArg and the launch that uses it must not be torn apart by another thread.
        self._lock = threading.Lock()
        try:
            self.context: Any = cl.Context([device])
            self.queue: Any = cl.CommandQueue(self.context, device)
        except cl.Error as error:
            raise translate(error, name, "being opened") from error

    # -- memory ---------------------------------------------------------------------------

    def obtain(self, nbytes: int) -> Place:
        try:
            return Place(cl.Buffer(self.context, cl.mem_flags.READ_WRITE, nbytes))
        except cl.Error as error:
            raise self._failure(error, "allocating") from error

    def release(self, place: Place, nbytes: int) -> None:
        place.whole.release()

    def at(self, place: Place, offset: int) -> Place:
        return Place(place.whole, place.offset + offset) if offset else place

    def write(self, place: Place, source: memoryview) -> None:
        try:
            _write(self.queue, place.whole, source, place.offset, None, True)
        except cl.Error as error:
            raise self._failure(error, "copying to it") from error

    def staged(self, nbytes: int) -> memoryview | None:
        return memoryview(bytearray(nbytes))

    def send(self, place: Place, source: memoryview) -> object:
        try:
            # pyopencl's event of such a copy waits for it when it dies.
            event = _write(self.queue, place.whole, source, place.offset, None, False)
            self.queue.flush()
        except cl.Error as error:
            raise self._failure(error, "copying to it") from error
        return event

    def read(self, place: Place, target: memoryview) -> None:
        try:
            _read(self.queue, place.whole, target, place.offset, None, True)
        except cl.Error as error:
            raise self._failure(error, "copying from it") from error

    def copy(self, target: Place, source: Place, nbytes: int) -> None:
        offsets = source.offset, target.offset
        try:
            _copy(self.queue, source.whole, target.whole, nbytes, *offsets)
            self.queue.flush()
        except cl.Error as error:
            raise self._failure(error, "copying") from error

    def _failure(self, error: Any, doing: str) -> BackendError | MemoryError:
        return MemoryError() if is_memory(error) else translate(error, self._name, doing)

    # -- kernels --------------------------------------------------------------------------

    def function(self, program: Any, spec: KernelSpec) -> _Function:
        try:
            kernel = cl.Kernel(program, spec.name)
            return _Function(program, kernel, self._local_size(kernel))
        except cl.Error as error:
            raise CompileError(
                f"kernel {spec.name!r}: {self._name} compiled it but cannot load it ({error})"
            ) from error

    def _local_size(self, kernel: Any) -> int:
        """Work-items in a group of one kernel; results do not depend on it."""
        query = cl.kernel_work_group_info.WORK_GROUP_SIZE
        return min(self._group, int(kernel.get_work_group_info(query, self._device)))

    def launcher(self, function: _Function, spec: KernelSpec, groups: int, meta: bytes) -> Launcher:
        count, local, size = spec.buffers, (function.local,), (groups * function.local,)
        # Metadata in memory comes with the buffers, and nothing is ever set here.
        meta = meta or function.meta
        lock, queue, flush = self._lock, self.queue, self.queue.flush
        kernel, set_arg, misses = function.kernel, function.kernel.set_arg, 0
        set_bytes = public.set_bytes(kernel)

        def launch(buffers: Sequence[GridBuffer]) -> None:
            nonlocal function, kernel, set_arg, set_bytes, misses
            try:
                with lock:
                    if function.meta is not meta:
                        misses += 1
                        if misses == _SHARED:
                            function = function.clone()
                            kernel, set_arg = function.kernel, function.kernel.set_arg
                            set_bytes = public.set_bytes(kernel)
                        set_bytes(count, meta)
                        function.meta = meta
                    for k, buffer in enumerate(buffers):
                        set_arg(k, buffer.at.mem or buffer.at.cut())
                    _run(queue, kernel, size, local)
                    flush()
            except cl.Error as error:
                raise self._failure(error, f"launching kernel {spec.name!r}") from error

        return launch

    # -- waiting --------------------------------------------------------------------------

    def synchronize(self) -> None:
        self.wait(self.queue.finish)

    def wait(self, command: Callable[[], Any]) -> Any:
        """Wait for kernels: an error is an earlier one's, most likely."""
        try:
            return command()
        except cl.Error as error:
            raise translate(error, self._name, "running kernels", memory=False) from error

    def record(self) -> Event:
        event = self.wait(lambda: _marker(self.queue))
        self.wait(self.queue.flush)
        return _Marker(self, event)
