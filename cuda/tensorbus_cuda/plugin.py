"""Probing and opening CUDA devices; imported at the first use of the plugin."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tensorbus_backends.cache import DiskCache
from tensorbus_backends.contract import (
    BackendError,
    CompileError,
    DeviceInfo,
    DeviceUnavailableError,
    Evidence,
    OutOfMemoryError,
)
from tensorbus_backends.pool import format_bytes

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
        return [_absent(error.cause, error.fix)]
    return [_try(entry, found) for entry in found.entries]


def open_device(index: int) -> CudaDevice:
    """Open device `index` of `probe`.

    Raises:
        DeviceUnavailableError: It is not there, or does not compute right.
        BackendError: ``TENSORBUS_CUDA_GROUP`` asks for what the device does not have.
    """
    found = _find()
    if not 0 <= index < len(found.entries):
        count = len(found.entries)
        raise DeviceUnavailableError(
            f"{NAME}:{index}",
            f"this process sees {count} CUDA device{'' if count == 1 else 's'}",
            "choose one that `tensorbus devices` lists, or look at CUDA_VISIBLE_DEVICES",
        )
    device, _ = _checked(found.entries[index], found, _group())
    return device


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


def _group() -> int | None:
    text = os.environ.get(GROUP, "")
    if not text:
        return None
    try:
        return int(text)
    except ValueError:
        raise BackendError(
            f"{GROUP}={text!r} is no number of threads; use 1, 2, ... or unset it"
        ) from None


def _checked(
    entry: Entry, found: _Found, group: int | None
) -> tuple[CudaDevice, Mapping[str, bool]]:
    """Open a device and let it prove itself.

    Raises:
        DeviceUnavailableError: It cannot be opened, or is wrong.
    """
    from tensorbus_backends.check import run_check

    from .device import CudaDevice

    memory = f"{format_bytes(entry.memory)} of memory"
    try:
        device = CudaDevice(found.cuda, found.nvrtc, entry, _line(entry, found), DiskCache(), group)
        verdict = run_check(device)
    except DeviceUnavailableError:
        raise
    except OutOfMemoryError as error:
        raise DeviceUnavailableError(
            entry.name,
            f"a small kernel finds no room in its {memory} ({error})",
            "end other programs that use the GPU (nvidia-smi lists them)",
        ) from error
    except CompileError as error:
        words = [line.strip() for line in error.log.splitlines() if "error" in line.lower()]
        raise DeviceUnavailableError(
            entry.name,
            f"a small kernel does not compile: {words[0] if words else error.args[0]}",
            "update its driver and NVRTC together, or use another device",
        ) from error
    except BackendError as error:
        if group is not None and GROUP in str(error):
            raise
        raise DeviceUnavailableError(
            entry.name,
            f"a small kernel cannot be run on it ({error})",
            "look at nvidia-smi; update its driver, or use another device",
        ) from error
    wrong = [name for name, ok in verdict.items() if not ok and name.split()[0] in ("add", "mul")]
    if wrong:
        raise DeviceUnavailableError(
            entry.name,
            f"a small kernel gave wrong results on it ({', '.join(wrong)})",
            "update its driver, or use another device",
        )
    device.settle(verdict)
    return device, verdict


def _try(entry: Entry, found: _Found) -> DeviceInfo:
    """The line of one GPU."""
    line = _line(entry, found)
    try:
        device, verdict = _checked(entry, found, None)
    except DeviceUnavailableError as error:
        cause = " ".join(error.cause.split())
        return replace(line, available=False, cause=cause, fix=error.fix)
    details = {**line.details, "target": device.target}
    inexact = ", ".join(name for name, ok in verdict.items() if not ok)
    if inexact:
        details["inexact"] = inexact
    if device.natives:
        details["library"] = device.natives["matmul"].library
    return replace(line, details=details)


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


def _absent(cause: str, fix: str) -> DeviceInfo:
    return DeviceInfo(
        name=NAME,
        plugin=NAME,
        index=-1,
        available=False,
        description="NVIDIA GPUs through CUDA",
        cause=" ".join(cause.split()),
        fix=fix,
    )
