"""Probing and opening CUDA devices; imported at the first use of the plugin."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from tensorbus_backends.cache import DiskCache
from tensorbus_backends.contract import DeviceInfo, DeviceUnavailableError, Evidence
from tensorbus_backends.environment import group_threads
from tensorbus_backends.opening import Terms, absent, checked, expect_index, tried

from .compiler import OPTIONS, Nvrtc
from .inventory import Entry, inventory
from .libcuda import LibCuda, libcuda

if TYPE_CHECKING:
    from .device import CudaDevice

__all__ = ["open_device", "probe"]

NAME = "cuda"
GROUP = "TENSORBUS_CUDA_GROUP"
_INSTALL = 'pip install "tensorbus[cuda]"'
_BUILD = "python -m tensorbus_cuda.simulator.build_pycuda"
# With -prec-div=false and -prec-sqrt=false CUDA allows 2 and 3 ulp in float32.
_TERMS = Terms(
    "2",
    "3",
    fix="look at nvidia-smi; update its driver, or use another device",
    compiler_fix="update its driver and NVRTC together, or use another device",
    memory_fix="end other programs that use the GPU (nvidia-smi lists them)",
)


@dataclass(frozen=True)
class _Found:
    """What every device of a process has in common."""

    cuda: LibCuda
    nvrtc: Nvrtc
    entries: tuple[Entry, ...]
    pycuda: str


def probe() -> list[DeviceInfo]:
    """Every GPU, available if it ran a kernel right; else what is missing."""
    try:
        found = _find()
    except DeviceUnavailableError as error:
        return [absent(NAME, "NVIDIA GPUs through CUDA", error.cause, error.fix)]
    return [tried(_line(entry, found), partial(_checked, entry, found)) for entry in found.entries]


def open_device(index: int) -> CudaDevice:
    """Open device `index` of `probe`.

    Raises:
        DeviceUnavailableError: It is not there, does not compute right, or has no groups of what
            ``TENSORBUS_CUDA_GROUP`` asks for.
    """
    found = _find()
    expect_index(NAME, index, len(found.entries), "CUDA", "look at CUDA_VISIBLE_DEVICES")
    entry = found.entries[index]
    return _checked(entry, found, group_threads(GROUP, entry.name, entry.max_group))


def _find() -> _Found:
    """Driver, pycuda, compiler and GPUs.

    Raises:
        DeviceUnavailableError: One of them is missing.
    """
    cuda = libcuda()
    count = cuda.devices()
    try:
        import pycuda
        import pycuda.driver as cu
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and (error.name or "") == "pycuda"
        what = "is not installed" if missing else f"cannot be imported ({error})"
        simulated = cuda.evidence is Evidence.SIMULATED
        fix = _BUILD if simulated else _INSTALL
        fix = fix if missing else "pip install --force-reinstall --no-cache-dir pycuda"
        raise DeviceUnavailableError(NAME, f"pycuda {what}", fix) from error
    simulated = cuda.evidence is Evidence.SIMULATED
    nvrtc = Nvrtc.open(cuda.path if simulated else None, newest=cuda.version[0])
    try:
        cu.init()
        entries = tuple(inventory(count))
    except cu.Error as error:
        raise DeviceUnavailableError(
            NAME, f"the driver cannot list its GPUs ({error})", "look at nvidia-smi"
        ) from error
    return _Found(cuda, nvrtc, entries, str(getattr(pycuda, "VERSION_TEXT", "")))


def _checked(entry: Entry, found: _Found, group: int | None = None) -> CudaDevice:
    """Open a device and let it prove itself."""
    from .device import CudaDevice

    line = _line(entry, found)
    return checked(
        entry.name,
        lambda: CudaDevice(found.cuda, found.nvrtc, entry, line, DiskCache(), group),
        _TERMS,
    )


def _line(entry: Entry, found: _Found) -> DeviceInfo:
    capability = "{}.{}".format(*entry.capability)
    driver = "CUDA {}.{}".format(*found.cuda.version)
    return DeviceInfo(
        name=entry.name,
        plugin=NAME,
        index=entry.ordinal,
        description=f"{entry.product} (compute capability {capability}, driver {driver}, "
        f"{found.nvrtc.name})",
        evidence=found.cuda.evidence,
        details={
            "kind": "gpu",
            "device": entry.product,
            "vendor": "NVIDIA",
            "compute_capability": capability,
            "driver": driver,
            "compiler": found.nvrtc.name,
            "build_options": " ".join(OPTIONS),
            "loader": found.cuda.path,
            "pycuda": found.pycuda,
            "compute_units": str(entry.processors),
            "memory": str(entry.memory),
            "address": entry.address,
        },
    )
