"""An open AMD GPU."""

from __future__ import annotations

from tensorbus_backends import dtypes as dt
from tensorbus_backends.cache import DiskCache
from tensorbus_backends.contract import Buffer, Capabilities, DeviceInfo, Feature
from tensorbus_backends.grid import GridDevice

from .compiler import Hiprtc, Toolchain
from .dialect import GROUP, hip_dialect
from .driver import HipDriver
from .inventory import Gpu
from .library import Hip, ffi
from .natives import load_rocblas, native_table

__all__ = ["RocmDevice"]


class RocmDevice(GridDevice):
    """One GPU.

    Args:
        hip: The runtime.
        hiprtc: Its compiler.
        found: The device.
        info: Its line.
        group: Threads of a group, 1 to ``found.most_threads``; None for what is usual.

    Raises:
        BackendError: It cannot be opened.
    """

    features = GridDevice.features | {Feature.PEERS}
    dlpack_type = 10  # kDLROCM

    def __init__(
        self, hip: Hip, hiprtc: Hiprtc, found: Gpu, info: DeviceInfo, group: int | None = None
    ) -> None:
        group = group or GROUP
        self.hip = hip
        driver = HipDriver(hip, found.index, info.name, group)
        super().__init__(
            info,
            Capabilities(
                dtypes=frozenset(d.name for d in dt.ALL),
                fp16=True,
                local_memory=found.local_memory,
                max_group=found.most_threads,
                atomics=True,
            ),
            hip_dialect(group),
            driver,
            Toolchain(hiprtc, found.arch, driver.load),
            DiskCache(),
            total=found.memory,
        )
        self._hip_driver = driver
        self.dlpack_stream = int(ffi().cast("uintptr_t", driver.stream))

    def copy_from(
        self, target: Buffer, target_offset: int, source: Buffer, source_offset: int, nbytes: int
    ) -> bool:
        other = source.device
        if not isinstance(other, RocmDevice) or not self._hip_driver.reaches(other._hip_driver):
            return False
        to = self._span(target, target_offset, nbytes)
        of = other._span(source, source_offset, nbytes)
        if nbytes:
            driver = self._hip_driver
            driver.copy_from(to + target_offset, other._hip_driver, of + source_offset, nbytes)
        return True

    def add_natives(self) -> None:
        """Offer rocBLAS's products, if it is installed."""
        blas = load_rocblas(self.hip)
        if blas is not None:
            self.natives = native_table(self._hip_driver, blas).table
