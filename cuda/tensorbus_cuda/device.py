"""An open CUDA device: what the shared grid device needs to know of a GPU."""

from __future__ import annotations

from dataclasses import replace

from tensorbus_backends import dtypes as dt
from tensorbus_backends.cache import DiskCache
from tensorbus_backends.contract import (
    Buffer,
    Capabilities,
    CompileError,
    DeviceInfo,
    DeviceUnavailableError,
    Evidence,
    Feature,
)
from tensorbus_backends.grid import GridDevice
from tensorbus_backends.units import workers

from .compiler import INSTALL, Nvrtc, Toolchain, target
from .dialect import Spelling
from .driver import CudaDriver
from .inventory import Entry
from .libcuda import LibCuda
from .natives import native_table

__all__ = ["CudaDevice"]

# CUDA C++ Programming Guide: what __shared__ variables of a kernel may have without opting in.
_SHARED = 48 * 1024
# The same, kernel parameters: all devices take 4 KiB (since CUDA 12.1 most take 32764 bytes).
_ARGUMENTS = 4096
_KDLCUDA = 2
_EMPTY = 'extern "C" __global__ void tb_empty() {}\n'


class CudaDevice(GridDevice):
    """One GPU.

    Args:
        cuda: The driver library.
        nvrtc: The compiler.
        entry: Which GPU.
        info: The line that `probe` gives for it.
        cache: Keeps compiled programs.
        group: Threads in a group, 1 to ``entry.max_group``, for tests of determinism; None lets
            the device choose.

    Raises:
        BackendError: The device cannot be used.
        DeviceUnavailableError: The compiler and the driver do not go together.
    """

    driver: CudaDriver
    features = GridDevice.features | {Feature.PEERS}
    dlpack_type = _KDLCUDA

    def __init__(
        self,
        cuda: LibCuda,
        nvrtc: Nvrtc,
        entry: Entry,
        info: DeviceInfo,
        cache: DiskCache,
        group: int | None = None,
    ) -> None:
        own = group or entry.group
        driver = CudaDriver(cuda, entry.ordinal, info.name, own)
        arch = _settled_target(driver, nvrtc, entry, cuda)
        spelling = Spelling(own, grid_constant=entry.capability >= (7, 0))
        simulated = cuda.evidence is Evidence.SIMULATED
        # A simulated driver's programs depend on the library that compiled them.
        version = "{}.{}".format(*cuda.version) + (cuda.path if simulated else "")
        super().__init__(
            info,
            Capabilities(
                dtypes=frozenset(d.name for d in dt.ALL),
                fp16=entry.capability >= (5, 3),
                local_memory=min(_SHARED, entry.shared),
                max_group=entry.max_group,
                atomics=True,
            ),
            spelling.dialect(),
            driver,
            Toolchain(nvrtc, arch, version, driver.load, workers()),
            cache,
            total=entry.memory,
            in_memory=spelling.dialect(in_memory=True),
            argument_bytes=_ARGUMENTS,
        )
        self.target, self.cuda_major, self.capability = arch, cuda.version[0], entry.capability
        self.dlpack_stream = int(driver.stream.handle)
        self.natives = native_table(self, cuda.path if simulated else None).table
        details = {**info.details, "target": arch}
        if self.natives:
            details["library"] = self.natives["matmul"].library
        words = info.description
        if arch.startswith("compute_"):
            words += f", kernels as PTX for {arch}"
        self.info = replace(info, description=words, details=details)

    def copy_from(
        self, target: Buffer, target_offset: int, source: Buffer, source_offset: int, nbytes: int
    ) -> bool:
        other = source.device
        if not isinstance(other, CudaDevice) or not self.driver.reaches(other.driver):
            return False
        to = self._span(target, target_offset, nbytes)
        of = other._span(source, source_offset, nbytes)
        if nbytes:
            self.driver.copy_from(to + target_offset, other.driver, of + source_offset, nbytes)
        return True


def _settled_target(driver: CudaDriver, nvrtc: Nvrtc, entry: Entry, cuda: LibCuda) -> str:
    """What to compile for, found out with an empty kernel: a driver may refuse newer machine code.

    Raises:
        DeviceUnavailableError: Nothing that this NVRTC makes runs on the device.
        CompileError: NVRTC makes nothing at all.
    """
    arch = target(entry.capability, nvrtc.supported_archs)
    capability = "{}.{}".format(*entry.capability)
    if arch is None:
        raise DeviceUnavailableError(
            driver.name,
            f"{nvrtc.name} does not compile for its compute capability {capability}",
            "install an older NVRTC: pip install nvidia-cuda-nvrtc-cu12",
        )
    rejected: CompileError | None = None
    refused = []
    for tried in dict.fromkeys((arch, arch.replace("sm_", "compute_"))):
        try:
            image = nvrtc.compile(_EMPTY, tried)
        except CompileError as error:
            rejected = error
            continue
        try:
            driver.load(image)
        except CompileError as error:
            refused.append(f"{tried}: {error.args[0]}")
        else:
            return tried
    if rejected is not None and not refused:
        raise rejected
    version = "{}.{}".format(*cuda.version)
    major = cuda.version[0]
    raise DeviceUnavailableError(
        driver.name,
        f"the driver, for CUDA {version}, does not take what {nvrtc.name} compiles "
        f"({'; '.join(refused)})",
        f"update the driver, or install NVRTC for it: {_install(major)}",
    )


def _install(major: int) -> str:
    return INSTALL if major >= 13 else f"pip install nvidia-cuda-nvrtc-cu{major}"
