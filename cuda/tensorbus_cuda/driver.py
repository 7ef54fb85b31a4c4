"""A GPU behind pycuda: memory, copies, launches and events on one stream."""

from __future__ import annotations

import contextlib
import struct
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pycuda.driver as cu
from tensorbus_backends.contract import BackendError, CompileError, Event, KernelSpec, LaunchError
from tensorbus_backends.grid import GridBuffer, GridDriver, Launcher

from .context import PrimaryContext
from .errors import Kind, Results
from .libcuda import LibCuda

__all__ = ["CudaDriver"]

# cuda.h: CU_STREAM_NON_BLOCKING, so that another library's default stream does not hold ours up.
_NON_BLOCKING = 1
_LARGEST_GRID = (1 << 31) - 1


def _runner(function: Any) -> Callable[[Any, Any, bytes, int, Any], None]:
    """What launches a function with its arguments packed: pycuda's own, or what it makes public."""
    private: Callable[[Any, Any, bytes, int, Any], None] | None
    private = getattr(function, "_launch_kernel", None)
    return private or partial(_run_prepared, function)


def _run_prepared(
    function: Any, grid: Any, block: Any, packed: bytes, shared: int, stream: Any
) -> None:
    # pycuda takes three dimensions from `prepared_async_call` alone.
    whole = (*grid, 1, 1)[:3], (*block, 1, 1)[:3]
    function.prepare([f"{len(packed)}s"])
    function.prepared_async_call(*whole, stream, packed, shared_size=shared)


class _Resources:
    """Everything of pycuda that belongs to a context, so that it can go in the right order."""

    def __init__(self, context: PrimaryContext) -> None:
        self.context = context
        self.memory: dict[int, Any] = {}
        self.modules: list[Any] = []
        self.events: list[Any] = []
        self.stream: Any = None
        self.closers: list[Callable[[], object]] = []

    def close(self) -> None:
        context = self.context
        if not context.alive():
            context.abandon()
            return
        with contextlib.suppress(cu.Error), context.pushed():
            with contextlib.suppress(cu.Error):
                self.stream.synchronize()
            for closer in self.closers:
                closer()
            self.events.clear()
            self.modules.clear()
            self.memory.clear()
            self.stream = None
        with contextlib.suppress(cu.Error):
            context.close()


class _Mark:
    """A point in the stream; its event is used again when nobody waits for it any more."""

    __slots__ = ("_driver", "_event")

    def __init__(self, driver: CudaDriver, event: Any) -> None:
        self._driver, self._event = driver, event

    def wait(self) -> None:
        self._driver.call("running kernels", self._event.synchronize)

    def done(self) -> bool:
        return bool(self._driver.call("running kernels", self._event.query))

    def __del__(self) -> None:
        self._driver.spare(self._event)


class CudaDriver(GridDriver):
    """One GPU.

    Attributes:
        context: Its primary context.
        stream: pycuda's stream that everything runs on.
        group: Threads in a group.

    Args:
        cuda: The driver library.
        ordinal: Number of the GPU.
        name: Name of the device, for messages.
        group: Threads in a group.
    """

    def __init__(self, cuda: LibCuda, ordinal: int, name: str, group: int) -> None:
        self.ordinal, self.name, self.group = ordinal, name, group
        self._cuda = cuda
        self._results = Results(cuda.words)
        try:
            self.context = PrimaryContext(cuda, ordinal, name)
        except cu.Error as error:
            raise self._results.of(error).error(name, "being opened") from error
        self._own = _Resources(self.context)
        self._finalizer = weakref.finalize(self, self._own.close)
        self.stream: Any = self._made("making its stream", cu.Stream, _NON_BLOCKING)
        self._own.stream = self.stream

    # -- calls ----------------------------------------------------------------------------

    def call(self, doing: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call pycuda with the context current, errors in the contract's terms."""
        entered = self.context.enter()
        try:
            return function(*arguments)
        except cu.Error as error:
            raise self.failure(error, doing) from error
        finally:
            if entered:
                self.context.leave()

    def _made(self, doing: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """Make an object of pycuda."""
        try:
            with self.context.pushed():
                return function(*arguments)
        except cu.Error as error:
            raise self.failure(error, doing) from error

    def failure(self, error: Any, doing: str) -> BackendError:
        """What to raise for an error of pycuda."""
        result = self._results.of(error)
        if result.kind is Kind.LOST:
            self.context.dead = True
        return result.error(self.name, doing)

    def before_close(self, closer: Callable[[], object]) -> None:
        """Call something with the context current before it is released, if that still works."""
        self._own.closers.append(closer)

    # -- memory ---------------------------------------------------------------------------

    def obtain(self, nbytes: int) -> int:
        try:
            with self.context.pushed():
                block = cu.mem_alloc(nbytes)
        except cu.MemoryError as error:
            raise MemoryError from error
        except cu.Error as error:
            raise self.failure(error, "allocating") from error
        address = int(block)
        self._own.memory[address] = block
        return address

    def release(self, place: int, nbytes: int) -> None:
        block = self._own.memory.pop(place, None)
        if block is None or self.context.dead:
            return
        with contextlib.suppress(cu.Error), self.context.pushed():
            # That cuMemFree waits for kernels is no promise.
            self.stream.synchronize()
            block.free()

    def at(self, place: int, offset: int) -> int:
        return place + offset

    def pointer(self, place: int) -> int:
        return place

    def write(self, place: int, source: memoryview) -> None:
        entered = self.context.enter()
        try:
            cu.memcpy_htod_async(place, source, self.stream)
            # Memory that another library pinned is read late.
            self.stream.synchronize()
        except cu.Error as error:
            raise self.failure(error, "copying to it") from error
        finally:
            if entered:
                self.context.leave()

    def staged(self, nbytes: int) -> memoryview | None:
        """Pinned memory, without which a copy may wait for the stream."""
        ffi, lib = self._cuda.ffi, self._cuda.lib
        address = ffi.new("void **")
        if self.call("allocating", lib.cuMemHostAlloc, address, nbytes, 0) != 0:
            return None
        pinned = address[0]
        self.before_close(lambda: lib.cuMemFreeHost(pinned))
        return memoryview(ffi.buffer(pinned, nbytes))

    def send(self, place: int, source: memoryview) -> None:
        self.call("copying to it", cu.memcpy_htod_async, place, source, self.stream)

    def read(self, place: int, target: memoryview) -> None:
        entered = self.context.enter()
        try:
            cu.memcpy_dtoh_async(target, place, self.stream)
            self.stream.synchronize()
        except cu.Error as error:
            raise self.failure(error, "copying from it") from error
        finally:
            if entered:
                self.context.leave()

    def copy(self, target: int, source: int, nbytes: int) -> None:
        self.call("copying", cu.memcpy_dtod_async, target, source, nbytes, self.stream)

    # -- kernels --------------------------------------------------------------------------

    def load(self, image: bytes) -> Any:
        """A module from a cubin or PTX.

        Raises:
            CompileError: The driver does not take it; `log` holds its compiler's words.
        """
        try:
            with self.context.pushed():
                module = cu.module_from_buffer(image)
        except cu.Error as error:
            failure = self.failure(error, "loading a program")
            if isinstance(failure, CompileError):
                failure.log = str(error).partition(" - ")[2].strip()
            raise failure from error
        self._own.modules.append(module)
        return module

    def function(self, program: Any, spec: KernelSpec) -> Any:
        try:
            return self._made(f"finding kernel {spec.name!r}", program.get_function, spec.name)
        except LaunchError as error:
            raise CompileError(str(error)) from error

    def launcher(self, function: Any, spec: KernelSpec, groups: int, meta: bytes) -> Launcher:
        if groups > _LARGEST_GRID:
            raise LaunchError(
                f"kernel {spec.name!r} was launched with {groups} groups, and {self.name} takes "
                f"{_LARGEST_GRID}; work on smaller pieces"
            )
        # Metadata in memory has a place of its own, behind the buffers'.
        pack = struct.Struct(f"{spec.buffers + (not meta)}Q").pack
        run, stream, context = _runner(function), self.stream, self.context
        grid, block = (groups,), (self.group,)

        def launch(buffers: Sequence[GridBuffer]) -> None:
            entered = context.enter()
            try:
                run(grid, block, pack(*[b.at for b in buffers]) + meta, 0, stream)
            except cu.MemoryError as error:
                raise MemoryError from error
            except cu.Error as error:
                raise self.failure(error, f"launching kernel {spec.name!r}") from error
            finally:
                if entered:
                    context.leave()

        return launch

    # -- waiting --------------------------------------------------------------------------

    def synchronize(self) -> None:
        self.call("running kernels", self.stream.synchronize)

    def record(self) -> Event:
        return _Mark(self, self._recorded())

    def _recorded(self) -> Any:
        try:
            event = self._own.events.pop()
        except IndexError:
            event = self._made("making an event", cu.Event, cu.event_flags.DISABLE_TIMING)
        self.call("recording an event", event.record, self.stream)
        return event

    def spare(self, event: Any) -> None:
        """Keep an event for `record`; safe in a finalizer."""
        self._own.events.append(event)

    def after(self, other: CudaDriver) -> None:
        """Let what is launched from now on wait for what was launched on another GPU."""
        event = other._recorded()
        try:
            self.call("waiting for another device", self.stream.wait_for_event, event)
        finally:
            # What waits is the state of an event at the call.
            other.spare(event)

    # -- another GPU ----------------------------------------------------------------------

    def reaches(self, other: CudaDriver) -> bool:
        """Whether the memory of another GPU can be copied from without the host."""
        here, there = cu.Device(self.ordinal), cu.Device(other.ordinal)
        return bool(here.can_access_peer(there))

    def copy_from(self, target: int, other: CudaDriver, source: int, nbytes: int) -> None:
        """Copy from another GPU, between what both were given before and after."""
        doing = "copying from another device"
        self.after(other)
        # Not pycuda's memcpy_peer, which takes no other context than the current one.
        status = self.call(
            doing,
            self._cuda.lib.cuMemcpyPeerAsync,
            target,
            self.context.handle,
            source,
            other.context.handle,
            nbytes,
            int(self.stream.handle),
        )
        if status != 0:
            raise self._results.code(status).error(self.name, doing)
        other.after(self)
