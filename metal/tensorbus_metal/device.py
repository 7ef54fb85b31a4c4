"""An open Metal device: a grid device whose memory is the host's."""

from __future__ import annotations

import mmap
import sys
from dataclasses import replace
from typing import Any, cast

from tensorbus_backends import dtypes as dt
from tensorbus_backends.cache import DiskCache
from tensorbus_backends.contract import (
    Buffer,
    Capabilities,
    CompileError,
    DeviceInfo,
    Feature,
    KernelSpec,
    UnsupportedError,
)
from tensorbus_backends.dialect import Dialect
from tensorbus_backends.grid import GridBuffer, GridDevice

from .compiler import Compiler
from .dialect import BUFFERS, MSL
from .driver import MetalDriver, Place
from .natives import native_table
from .objc import ObjC

__all__ = ["LARGEST_GROUP", "MetalDevice", "declared"]

DEFAULT_GROUP = 128
LARGEST_GROUP = 1024


def declared(local_memory: int = 32 * 1024) -> Capabilities:
    """What every device declares before it is checked: no float64, flushed subnormals.

    Args:
        local_memory: Bytes of threadgroup memory.
    """
    return Capabilities(
        dtypes=frozenset(d.name for d in dt.ALL if d is not dt.float64),
        fp64=False,
        fp16=True,
        subnormals="flush",
        local_memory=local_memory,
        max_group=LARGEST_GROUP,
        atomics=True,
    )


class MetalDevice(GridDevice):
    """One MTLDevice.

    DLPack: the memory is shared as the host's, so that NumPy sees it without a copy.

    Args:
        objc: The runtime.
        device: MTLDevice.
        info: The line that `probe` gives for it.
        cache: Keeps sources.
        group: Threads in a group, 1 to `LARGEST_GROUP`; None lets the device choose.

    Raises:
        BackendError: It gives no queue.
    """

    driver: MetalDriver
    features = GridDevice.features | {Feature.ADDRESS}

    def __init__(
        self,
        objc: ObjC,
        device: Any,
        info: DeviceInfo,
        cache: DiskCache,
        group: int | None = None,
    ) -> None:
        compiler = Compiler(objc, device, info.name)
        super().__init__(
            info,
            declared(int(objc.send(device, "maxThreadgroupMemoryLength"))),
            MSL,
            MetalDriver(objc, device, info.name, group or DEFAULT_GROUP, compiler),
            compiler,
            cache,
            total=int(objc.send(device, "recommendedMaxWorkingSetSize")),
            largest=int(objc.send(device, "maxBufferLength")),
        )
        table = native_table(objc, device, lambda: self.driver)
        if table is not None:
            self.natives = table.table
        library = next((n.library for n in self.natives.values()), "none")
        self.info = replace(info, details={**info.details, "natives": library})

    def __del__(self) -> None:
        driver = self.__dict__.get("driver")
        # Buffers keep their device, so none is in use.  The process's end releases them as well.
        if isinstance(driver, MetalDriver) and not sys.is_finalizing():
            driver.close()
            self.empty_cache()

    def spelling(self, spec: KernelSpec) -> Dialect:
        if spec.buffers > BUFFERS:
            raise CompileError(
                f"kernel {spec.name!r} has {spec.buffers} buffers, and Metal binds at most "
                f"{BUFFERS} beside the metadata"
            )
        return super().spelling(spec)

    # -- memory that the host sees --------------------------------------------------------

    def allocate(self, nbytes: int) -> Buffer:
        buffer = super().allocate(nbytes)
        cast(Place, cast(GridBuffer, buffer).at).block.shown = False
        return buffer

    def address(self, buffer: Buffer) -> int:
        """Host address; from now on launches with this buffer have finished when they return."""
        place: Place = self._own(buffer).at
        if not place.block.shown:
            self.driver.synchronize()
            place.block.shown = True
        return place.block.address + place.offset

    def import_pointer(self, address: int, nbytes: int, owner: object) -> Buffer:
        """A buffer over host memory: over the whole pages that hold it.

        Raises:
            UnsupportedError: Metal refuses these pages (memory that may not be written, say).
        """
        first = address // mmap.PAGESIZE * mmap.PAGESIZE
        length = -(-(address + max(nbytes, 1) - first) // mmap.PAGESIZE) * mmap.PAGESIZE
        place = self.driver.borrow(first, length, owner)
        if place is None:
            raise UnsupportedError(
                f"{self.info.name} cannot use {nbytes} bytes of host memory at 0x{address:x} in "
                "place; copy them to the device instead"
            )
        return self._borrow(self.driver.at(place, address - first), nbytes, owner)
