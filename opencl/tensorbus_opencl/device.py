"""An open OpenCL device: what the shared grid device needs to know of one."""

from __future__ import annotations

from typing import Any

import pyopencl as cl
from tensorbus_backends import dtypes as dt
from tensorbus_backends.cache import DiskCache
from tensorbus_backends.contract import Capabilities, DeviceInfo
from tensorbus_backends.grid import GridDevice
from tensorbus_backends.units import workers

from .dialect import Spelling
from .driver import OpenCLDriver
from .inventory import Entry, largest_group
from .kernels import OpenCLToolchain

__all__ = ["OpenCLDevice", "build_options"]

# Runtimes whose compilers run in parallel; others serialise (PoCL) or crash (Oclgrind).
_THREADED = ("amd", "intel", "nvidia")


class OpenCLDevice(GridDevice):
    """One device of one platform.

    Args:
        entry: Which.
        info: The line that `probe` gives for it.
        cache: Keeps compiled programs.
        group: Work-items in a group, 1 to `largest_group`, for tests of determinism; None lets the
            device choose.

    Raises:
        BackendError: It cannot be used at all.
    """

    driver: OpenCLDriver

    def __init__(
        self, entry: Entry, info: DeviceInfo, cache: DiskCache, group: int | None = None
    ) -> None:
        device = entry.device
        capabilities = _declared(device)
        processor = entry.kind == "cpu"
        loops = processor and group is None
        block, columns = (4096, 64) if processor else (1024, 32)
        hide = loops and entry.short == "intel"
        spelling = Spelling(capabilities.fp64, loops, hide, block, columns)
        self.group = 1 if loops else group or min(128, capabilities.max_group)
        driver = OpenCLDriver(device, info.name, self.group)
        toolchain = OpenCLToolchain(
            driver.context,
            entry.identity(),
            build_options(device),
            binaries=entry.short != "pocl",
            parallel=workers() if entry.short in _THREADED else 1,
        )
        total = int(device.global_mem_size)
        super().__init__(
            info,
            capabilities,
            spelling.dialect(),
            driver,
            toolchain,
            cache,
            total=total,
            keep=total // 2,
            largest=int(device.max_mem_alloc_size),
            in_memory=spelling.dialect(in_memory=True),
            argument_bytes=int(device.max_parameter_size),
        )


def _declared(device: Any) -> Capabilities:
    """What the driver says of a device."""
    extensions = device.extensions.split()
    fp64 = "cl_khr_fp64" in extensions or bool(device.double_fp_config)
    fma = device.double_fp_config if fp64 else device.single_fp_config
    return Capabilities(
        dtypes=frozenset(d.name for d in dt.ALL if fp64 or d is not dt.float64),
        fp64=fp64,
        fp16="cl_khr_fp16" in extensions,
        fma=bool(fma & cl.device_fp_config.FMA),
        local_memory=int(device.local_mem_size),
        max_group=largest_group(device),
        atomics="cl_khr_global_int32_base_atomics" in extensions,
    )


def build_options(device: Any) -> list[str]:
    """Options for every program: IEEE arithmetic, nothing fast and loose."""
    options = ["-cl-std=CL1.2", "-w"]
    if device.single_fp_config & cl.device_fp_config.CORRECTLY_ROUNDED_DIVIDE_SQRT:
        options.append("-cl-fp32-correctly-rounded-divide-sqrt")
    return options
