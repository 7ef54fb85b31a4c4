"""One AMD GPU through HIP: memory, copies, launches and events on one stream."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

from tensorbus_backends.contract import CompileError, KernelSpec, LaunchError
from tensorbus_backends.grid import GridBuffer, GridDriver, Launcher

from .dialect import MOST_THREADS
from .errors import NOT_READY, is_memory, translate
from .library import Hip, ffi

__all__ = ["HipDriver", "Loaded"]

_TO_DEVICE, _TO_HOST, _ON_DEVICE = 1, 2, 3  # hipMemcpyKind
_NON_BLOCKING = 1  # hipStreamNonBlocking: does not wait for the default stream
_NO_TIMING = 2  # hipEventDisableTiming
_BUFFER, _SIZE, _END = 1, 2, 3  # HIP_LAUNCH_PARAM_...


class Loaded:
    """A module on the device, with the code object that it was loaded from."""

    __slots__ = ("code", "handle")

    def __init__(self, handle: Any, code: Any) -> None:
        self.handle, self.code = handle, code


class HipDriver(GridDriver):
    """The driver of one device.

    HIP's current device belongs to the thread and other libraries set it too: where there are
    several devices, each call makes this one current and restores what was.

    Args:
        hip: The library.
        index: HIP's number of the device.
        device: Its name, for messages.
        group: Threads of a group.

    Raises:
        BackendError: The device cannot be used.
    """

    def __init__(self, hip: Hip, index: int, device: str, group: int) -> None:
        hip.check_process()
        self.hip, self.index, self.device, self.group = hip, index, device, group
        self._lib, self._ffi = hip.lib, ffi()
        count = self._ffi.new("int *")
        self.expect(self._lib.hipGetDeviceCount(count), "being opened")
        alone = count[0] == 1
        self.current: AbstractContextManager[Any] = (
            contextlib.nullcontext() if alone else _Current(hip, index)
        )
        stream = self._ffi.new("void **")
        with self.current:
            made = self._lib.hipStreamCreateWithFlags(stream, _NON_BLOCKING)
        self.expect(made, "being opened")
        self.stream: Any = stream[0]

    def expect(self, status: int, doing: str) -> None:
        """Raise the contract's exception unless a call succeeded."""
        if status != 0:
            raise translate(status, self.hip.words(status), self.device, doing)

    # -- memory ---------------------------------------------------------------------------

    def obtain(self, nbytes: int) -> int:
        address = self._ffi.new("void **")
        with self.current:
            status = self._lib.hipMalloc(address, nbytes)
        if is_memory(status):
            raise MemoryError(self.hip.words(status))
        self.expect(status, f"allocating {nbytes} bytes")
        return int(self._ffi.cast("uintptr_t", address[0]))

    def release(self, place: int, nbytes: int) -> None:
        with self.current:
            # hipFree waits for the device in today's versions, and nowhere promises to.
            self._lib.hipStreamSynchronize(self.stream)
            self._lib.hipFree(self._pointer(place))

    def at(self, place: int, offset: int) -> int:
        return place + offset

    def pointer(self, place: int) -> int:
        return place

    def _pointer(self, place: int) -> Any:
        return self._ffi.cast("void *", place)

    def write(self, place: int, source: memoryview) -> None:
        host = self._ffi.from_buffer(source)
        self._transfer(self._pointer(place), host, source.nbytes, _TO_DEVICE, "copying to it")
        self._wait("copying to it")

    def staged(self, nbytes: int) -> memoryview | None:
        """Pinned memory, without which a copy may wait for the stream."""
        address = self._ffi.new("void **")
        with self.current:
            status = self._lib.hipHostMalloc(address, nbytes, 0)
        return None if status != 0 else memoryview(self._ffi.buffer(address[0], nbytes))

    def send(self, place: int, source: memoryview) -> None:
        host = self._ffi.from_buffer(source)
        self._transfer(self._pointer(place), host, source.nbytes, _TO_DEVICE, "copying to it")

    def read(self, place: int, target: memoryview) -> None:
        host = self._ffi.from_buffer(target, require_writable=True)
        self._transfer(host, self._pointer(place), target.nbytes, _TO_HOST, "copying from it")
        self._wait("copying from it")

    def copy(self, target: int, source: int, nbytes: int) -> None:
        to, of = self._pointer(target), self._pointer(source)
        self._transfer(to, of, nbytes, _ON_DEVICE, "copying on it")

    def reaches(self, other: HipDriver) -> bool:
        """Whether memory of another GPU can be copied from without the host."""
        answer = self._ffi.new("int *")
        asked = self._lib.hipDeviceCanAccessPeer(answer, self.index, other.index)
        return other.hip is self.hip and asked == 0 and bool(answer[0])

    def copy_from(self, target: int, other: HipDriver, source: int, nbytes: int) -> None:
        """Copy from another GPU, between what both were given before and after."""
        self._after(other)
        with self.current:
            status = self._lib.hipMemcpyPeerAsync(
                self._pointer(target),
                self.index,
                self._pointer(source),
                other.index,
                nbytes,
                self.stream,
            )
        self.expect(status, "copying from another device")
        other._after(self)

    def _after(self, other: HipDriver) -> None:
        """Let what is launched from now on wait for what was launched on another GPU."""
        event = other.record()
        with self.current:
            status = self._lib.hipStreamWaitEvent(self.stream, event.handle, 0)
        self.expect(status, "waiting for another device")

    def _transfer(self, to: Any, of: Any, nbytes: int, kind: int, doing: str) -> None:
        with self.current:
            status = self._lib.hipMemcpyAsync(to, of, nbytes, kind, self.stream)
        self.expect(status, doing)

    def _wait(self, doing: str) -> None:
        with self.current:
            status = self._lib.hipStreamSynchronize(self.stream)
        self.expect(status, doing)

    # -- kernels --------------------------------------------------------------------------

    def load(self, code: bytes) -> Loaded:
        """A module from a code object.

        Raises:
            CompileError: It is not for this device, or damaged.
        """
        held, handle = self._ffi.new("char[]", code), self._ffi.new("void **")
        with self.current:
            status = self._lib.hipModuleLoadData(handle, held)
        if is_memory(status):
            self.expect(status, "loading a program")
        if status != 0:
            error = translate(status, self.hip.words(status), self.device, "loading a program")
            if isinstance(error, LaunchError):
                raise CompileError(str(error)) from None
            raise error
        return Loaded(handle[0], held)

    def function(self, program: Loaded, spec: KernelSpec) -> Any:
        handle = self._ffi.new("void **")
        name = self._ffi.new("char[]", spec.name.encode())
        with self.current:
            status = self._lib.hipModuleGetFunction(handle, program.handle, name)
        if status != 0:
            words = self.hip.words(status)
            raise CompileError(f"{self.device} finds no kernel {spec.name!r} in it ({words})")
        return handle[0]

    def launcher(self, function: Any, spec: KernelSpec, groups: int, meta: bytes) -> Launcher:
        made, launch = self._ffi, self._lib.hipModuleLaunchKernel
        count, group, stream, current = spec.buffers, self.group, self.stream, self.current
        most = MOST_THREADS // group
        parts = [(first, min(most, groups - first)) for first in range(0, groups, most)]
        size = 8 * (count + 1) + len(meta)
        no_parameters = made.NULL

        def block() -> tuple[Any, Any, Any]:
            """Space for the arguments of one call: the buffers, the first group, the metadata."""
            values, length = made.new("uint64_t[]", size // 8), made.new("size_t *", size)
            made.memmove(values + count + 1, meta, len(meta))
            marks = [_BUFFER, values, _SIZE, length, _END]
            extra = made.new("void *[]", [made.cast("void *", mark) for mark in marks])
            return values, extra, length

        # HIP copies arguments during the call, which lets other Python threads run: so a call has
        # a block to itself, and the next one takes it over.
        free: list[tuple[Any, Any, Any]] = []

        def run(buffers: Sequence[GridBuffer]) -> None:
            try:
                mine = free.pop()
            except IndexError:
                mine = block()
            values, extra, _ = mine
            values[0:count] = [b.at for b in buffers]
            status = 0
            with current:
                for first, part in parts:
                    values[count] = first
                    status = launch(
                        function, part, 1, 1, group, 1, 1, 0, stream, no_parameters, extra
                    )
                    if status != 0:
                        break
            free.append(mine)
            if status != 0:
                if is_memory(status) and values[count] == 0:
                    raise MemoryError
                self.expect(status, f"launching kernel {spec.name!r}")

        return run

    # -- the queue ------------------------------------------------------------------------

    def synchronize(self) -> None:
        self._wait("finishing its work")

    def record(self) -> _Event:
        handle = self._ffi.new("void **")
        with self.current:
            status = self._lib.hipEventCreateWithFlags(handle, _NO_TIMING)
            if status == 0:
                event = _Event(self, handle[0])
                status = self._lib.hipEventRecord(handle[0], self.stream)
        self.expect(status, "recording an event")
        return event


class _Event:
    """A point in a device's stream."""

    __slots__ = ("_driver", "_process", "handle")

    def __init__(self, driver: HipDriver, handle: Any) -> None:
        self._driver, self.handle, self._process = driver, handle, os.getpid()

    def _ask(self, call: Callable[[Any], int]) -> int:
        self._driver.hip.check_process()
        with self._driver.current:
            return call(self.handle)

    def wait(self) -> None:
        """Block until it has been reached; raises what the device met before it."""
        status = self._ask(self._driver.hip.lib.hipEventSynchronize)
        self._driver.expect(status, "waiting for an event")

    def done(self) -> bool:
        """Whether it has been reached."""
        status = self._ask(self._driver.hip.lib.hipEventQuery)
        if status == NOT_READY:
            return False
        self._driver.expect(status, "asked for an event")
        return True

    def __del__(self) -> None:
        if os.getpid() == self._process:
            self._driver.hip.lib.hipEventDestroy(self.handle)


class _Current:
    """Makes a device the thread's current one for the time of a ``with`` block; not reentrant."""

    def __init__(self, hip: Hip, index: int) -> None:
        self._lib, self._index = hip.lib, index
        self._local = threading.local()

    def __enter__(self) -> None:
        local = self._local
        try:
            now = local.now
        except AttributeError:
            now = local.now = ffi().new("int *")
        if self._lib.hipGetDevice(now) != 0:
            now[0] = self._index  # a lost device: the call itself will say so
        local.before = now[0]
        if now[0] != self._index:
            self._lib.hipSetDevice(self._index)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._local.before != self._index:
            self._lib.hipSetDevice(self._local.before)
