"""Metal as a grid driver: shared buffers, command buffers of many launches, one queue.

A launch is recorded in the open command buffer and starts when that is committed: when somebody
waits or reads, or after `BATCH` launches.  An encoder runs its launches one after the other, and
the queue its command buffers, so the order is that of the calls.

All memory is shared with the host.  What the host has been shown (`Block.shown`: another library's
memory, or a buffer whose address was asked for) is used synchronously: its launches have finished
when they return, since nobody outside knows when to wait.
"""

from __future__ import annotations

import atexit
import contextlib
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tensorbus_backends.contract import (
    BackendError,
    DeviceLostError,
    Event,
    KernelSpec,
    LaunchError,
)
from tensorbus_backends.grid import GridBuffer, GridDriver, Launcher

from .compiler import Compiler, Pipeline
from .errors import failure
from .objc import ObjC

__all__ = ["BATCH", "Block", "MetalDriver", "Place"]

BATCH = 32
"""Launches in a command buffer before it is committed without anybody waiting."""

# Command buffers that a queue has at once; Metal makes the caller wait from 64 on.
_IN_FLIGHT = 48

# "This method only works for data smaller than 4 kilobytes": Apple on `setBytes`.
_INLINE = 4096

# A thread reads the number of its group as a uint.
_MOST_GROUPS = (1 << 32) - 1

_STORAGE_SHARED = 0
_COMPLETED, _ERROR = 4, 5


class Block:
    """An MTLBuffer.

    Attributes:
        buffer: The object.
        address: Host address of its contents.
        shown: The host may look at it or change it at any time.
        used: Number of the last command buffer that uses it; 0 if none does.
        owner: Keeps the memory alive, if it is not the buffer's own.
    """

    __slots__ = ("address", "buffer", "owner", "shown", "used")

    def __init__(self, buffer: Any, address: int, owner: object = None) -> None:
        self.buffer, self.address, self.owner = buffer, address, owner
        self.shown = owner is not None
        self.used = 0


@dataclass(frozen=True, slots=True)
class Place:
    """A position in a block, in bytes."""

    block: Block
    offset: int


class _Marker:
    """The end of a command buffer."""

    __slots__ = ("_driver", "_number")

    def __init__(self, driver: MetalDriver, number: int) -> None:
        self._driver, self._number = driver, number

    def wait(self) -> None:
        self._driver.wait(self._number)

    def done(self) -> bool:
        return self._driver.reached(self._number)


class MetalDriver(GridDriver):
    """One device and one queue.

    Args:
        objc: The runtime.
        device: MTLDevice.
        name: The device's name.
        group: Threads in a group, where a kernel allows as many.
        compiler: Makes pipelines.

    Raises:
        BackendError: The device gives no queue.
    """

    def __init__(self, objc: ObjC, device: Any, name: str, group: int, compiler: Compiler) -> None:
        self._objc, self._device, self._name, self._group = objc, device, name, group
        self._compiler = compiler
        self._lock = threading.RLock()
        with objc.pool():
            self._queue = objc.own(objc.send(device, "newCommandQueue"))
        if self._queue is None:
            raise BackendError(f"{name} gives no command queue; restart the system or the process")
        self._number = 1  # of the open command buffer, or of the next one
        self._commands: Any = None
        self._compute: Any = None
        self._count = 0
        self._sent: deque[tuple[int, Any]] = deque()
        self._done = 0
        self._failure: BackendError | None = None
        self._lost = ""
        _open.add(self)

    def close(self) -> None:
        """End what is open: Metal aborts the process if an open encoder goes away."""
        if self._objc.alive and (self._commands is not None or self._sent):
            with contextlib.suppress(BackendError):
                self.synchronize()

    def __del__(self) -> None:
        if hasattr(self, "_lost"):
            self.close()

    # -- memory ---------------------------------------------------------------------------

    def obtain(self, nbytes: int) -> Place:
        # Not owned by the reference: the pool takes blocks back in finalizers, and in a cycle of
        # garbage cffi would have released this one first.
        return Place(self._block("newBufferWithLength:options:", nbytes), 0)

    def _block(self, selector: str, *arguments: Any) -> Block:
        """A fresh block, to be released; MemoryError if Metal gives none."""
        self._check()
        objc = self._objc
        with objc.pool():
            buffer = objc.send(self._device, selector, *arguments, _STORAGE_SHARED)
        if buffer == objc.nil:
            raise MemoryError
        address = int(objc.ffi.cast("uintptr_t", objc.send(buffer, "contents")))
        return Block(buffer, address)

    def borrow(self, address: int, nbytes: int, owner: object) -> Place | None:
        """Whole pages of host memory that `owner` keeps alive; None if Metal refuses them."""
        objc = self._objc
        self._check()
        with objc.pool():
            buffer = objc.own(
                objc.send(
                    self._device,
                    "newBufferWithBytesNoCopy:length:options:deallocator:",
                    objc.ffi.cast("void *", address),
                    nbytes,
                    _STORAGE_SHARED,
                    objc.nil,
                )
            )
        return None if buffer is None else Place(Block(buffer, address, owner), 0)

    def release(self, place: Place, nbytes: int) -> None:
        # Command buffers hold on to what they use.
        self._objc.release(place.block.buffer)

    def at(self, place: Place, offset: int) -> Place:
        return Place(place.block, place.offset + offset) if offset else place

    def write(self, place: Place, source: memoryview) -> None:
        self._settle(place)
        ffi = self._objc.ffi
        target = ffi.cast("void *", place.block.address + place.offset)
        ffi.memmove(target, source, source.nbytes)

    def read(self, place: Place, target: memoryview) -> None:
        self._settle(place)
        ffi = self._objc.ffi
        source = ffi.cast("void *", place.block.address + place.offset)
        ffi.memmove(target, source, target.nbytes)

    def _settle(self, place: Place) -> None:
        """Wait for what uses a block."""
        if place.block.used > self._done or self._failure is not None or self._lost:
            self.wait(place.block.used)

    def copy(self, target: Place, source: Place, nbytes: int) -> None:
        # On macOS Metal copies whole words only.
        if (target.offset | source.offset | nbytes) % 4:
            self._settle(target)
            self._settle(source)
            ffi = self._objc.ffi
            to = ffi.cast("void *", target.block.address + target.offset)
            ffi.memmove(to, ffi.cast("void *", source.block.address + source.offset), nbytes)
            return

        def blit(commands: Any) -> None:
            send = self._objc.send
            encoder = send(commands, "blitCommandEncoder")
            send(
                encoder,
                "copyFromBuffer:sourceOffset:toBuffer:destinationOffset:size:",
                source.block.buffer,
                source.offset,
                target.block.buffer,
                target.offset,
                nbytes,
            )
            send(encoder, "endEncoding")

        self.encode(blit, (target, source))

    # -- launches -------------------------------------------------------------------------

    def function(self, program: Any, spec: KernelSpec) -> Pipeline:
        return self._compiler.pipeline(program, spec, self._group)

    def launcher(self, function: Pipeline, spec: KernelSpec, groups: int, meta: bytes) -> Launcher:
        if groups > _MOST_GROUPS:
            raise LaunchError(
                f"kernel {spec.name!r} was launched with {groups} groups, and {self._name} numbers "
                f"{_MOST_GROUPS}; work on smaller pieces"
            )
        objc, last = self._objc, spec.buffers
        set_state = objc.call("setComputePipelineState:")
        set_buffer = objc.call("setBuffer:offset:atIndex:")
        set_bytes = objc.call("setBytes:length:atIndex:")
        dispatch = objc.call("dispatchThreadgroups:threadsPerThreadgroup:")
        state, grid, group = function.state, objc.size(groups), objc.size(function.width)
        words = meta or bytes(8)  # no kernel may leave an argument unset
        inline = len(words) < _INLINE
        kept: list[Block] = []

        def run(buffers: Sequence[GridBuffer]) -> None:
            places: list[Place] = [b.at for b in buffers]
            if not inline and not kept:
                make = "newBufferWithBytes:length:options:"
                block = self._block(make, objc.ffi.from_buffer(words), len(words))
                block.buffer = objc.own(block.buffer)
                kept.append(block)
            with self._lock, objc.pool():
                encoder = self._encoder()
                set_state(encoder, state)
                for k, place in enumerate(places):
                    set_buffer(encoder, place.block.buffer, place.offset, k)
                if inline:
                    set_bytes(encoder, objc.ffi.from_buffer(words), len(words), last)
                else:
                    set_buffer(encoder, kept[0].buffer, 0, last)
                dispatch(encoder, grid, group)
                number = self._used(places)
            if number:
                self.wait(number)

        return run

    def encode(self, record: Callable[[Any], None], places: Sequence[Place]) -> None:
        """Let `record` add commands other than launches to the open MTLCommandBuffer."""
        with self._lock, self._objc.pool():
            commands = self._open()
            self._end_encoder()
            record(commands)
            number = self._used(places)
        if number:
            self.wait(number)

    def _open(self) -> Any:
        """The open command buffer."""
        self._check()
        if self._commands is None:
            objc = self._objc
            while len(self._sent) >= _IN_FLIGHT:
                objc.send(self._sent[0][1], "waitUntilCompleted")
                self._collect(self._sent[0][0])
            self._commands = objc.keep(objc.send(self._queue, "commandBuffer"))
            if self._commands is None:
                raise BackendError(f"{self._name} gives no command buffer; restart the process")
        return self._commands

    def _encoder(self) -> Any:
        """The open encoder of launches."""
        if self._compute is None:
            objc = self._objc
            self._compute = objc.keep(objc.send(self._open(), "computeCommandEncoder"))
            if self._compute is None:
                raise BackendError(f"{self._name} gives no command encoder; restart the process")
        return self._compute

    def _end_encoder(self) -> None:
        if self._compute is not None:
            self._objc.send(self._compute, "endEncoding")
            self._compute = None

    def _used(self, places: Sequence[Place]) -> int:
        """Note what the open command buffer uses; its number if it has to be waited for."""
        number, shown = self._number, False
        for place in places:
            block = place.block
            block.used = number
            shown = shown or block.shown
        self._count += 1
        if self._count >= BATCH or shown:
            self._commit()
        return number if shown else 0

    def _commit(self) -> None:
        """Send the open command buffer off, if there is one."""
        if self._commands is not None:
            with self._objc.pool():
                self._end_encoder()
                self._objc.send(self._commands, "commit")
            self._sent.append((self._number, self._commands))
            self._commands, self._count = None, 0
            self._number += 1

    # -- waiting --------------------------------------------------------------------------

    def synchronize(self) -> None:
        self.wait(self._number)

    def record(self) -> Event:
        with self._lock:
            self._check()
            self._commit()
            return _Marker(self, self._number - 1)

    def wait(self, number: int) -> None:
        """Wait until a command buffer has finished; raises what it or an earlier one met."""
        with self._lock:
            if number >= self._number:
                self._commit()
            waiting = [commands for n, commands in self._sent if n <= number]
        if waiting:
            # Others may go on recording meanwhile.
            with self._objc.pool():
                self._objc.send(waiting[-1], "waitUntilCompleted")
        with self._lock:
            self._collect(number)
            self._raise()

    def reached(self, number: int) -> bool:
        """Whether a command buffer has finished; raises what it met."""
        with self._lock:
            for n, commands in self._sent:
                if n == number and self._objc.send(commands, "status") < _COMPLETED:
                    return False
            self._collect(number)
            self._raise()
            return self._done >= number

    def _collect(self, number: int) -> None:
        """Take finished command buffers off the list, and keep the first failure."""
        objc = self._objc
        while self._sent and self._sent[0][0] <= number:
            self._done, commands = self._sent.popleft()
            if objc.send(commands, "status") != _ERROR:
                continue
            with objc.pool():
                error = objc.send(commands, "error")
                words = objc.text(objc.send(error, "localizedDescription"))
                met = failure(int(objc.send(error, "code")), words, self._name)
            if isinstance(met, DeviceLostError):
                self._lost = str(met)
            if self._failure is None:
                self._failure = met

    def _raise(self) -> None:
        met, self._failure = self._failure, None
        if met is not None:
            raise met
        self._check()

    def _check(self) -> None:
        if self._lost:
            raise DeviceLostError(self._lost)


_open: weakref.WeakSet[MetalDriver] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for driver in list(_open):
        driver.close()
