"""The few functions of NVIDIA's driver library that pycuda does not have, and its first loading.

pycuda's module is linked to ``libcuda.so.1``.  Loading the library here first tells a missing or
old driver apart from a broken pycuda, and puts a simulated driver in its place where that is asked
for: the loader knows a library by its name, so pycuda gets the one that is there already.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import cffi
from tensorbus_backends.contract import DeviceUnavailableError, Evidence
from tensorbus_backends.loading import loader_words

__all__ = ["LibCuda", "libcuda"]

_LIBRARY = "libcuda.so.1"
_OLDEST = 11080
_DECLARATIONS = """
int cuInit(unsigned flags);
int cuDriverGetVersion(int *version);
int cuDeviceGetCount(int *count);
int cuGetErrorString(int error, const char **text);
int cuCtxGetCurrent(uintptr_t *context);
int cuCtxSetCurrent(uintptr_t context);
int cuMemcpyPeerAsync(uint64_t to, uintptr_t to_context, uint64_t from, uintptr_t from_context,
                      size_t nbytes, uintptr_t stream);
int cuMemHostAlloc(void **address, size_t nbytes, unsigned flags);
int cuMemFreeHost(void *address);
"""


@dataclass(frozen=True)
class LibCuda:
    """The loaded driver library.

    Attributes:
        ffi: cffi with the declarations of `lib`.
        lib: Its functions.
        path: What was loaded.
        evidence: Whether it drives hardware.
    """

    ffi: Any
    lib: Any
    path: str
    evidence: Evidence

    @functools.cached_property
    def version(self) -> tuple[int, int]:
        """The newest CUDA that the driver knows."""
        number = self.ffi.new("int *")
        self.lib.cuDriverGetVersion(number)
        return number[0] // 1000, number[0] % 1000 // 10

    def words(self, code: int) -> str:
        """What the driver says of a result code."""
        text = self.ffi.new("const char **")
        if self.lib.cuGetErrorString(code, text) != 0 or text[0] == self.ffi.NULL:
            return ""
        return str(self.ffi.string(text[0]).decode(errors="replace"))

    def devices(self) -> int:
        """The number of devices.

        Raises:
            DeviceUnavailableError: There are none, or the driver is too old or does not start.
        """
        if self.version < divmod(_OLDEST // 10, 100):
            oldest = "{}.{}".format(*divmod(_OLDEST // 10, 100))
            raise DeviceUnavailableError(
                "cuda",
                "NVIDIA's driver is too old: it knows CUDA {}.{}".format(*self.version)
                + f", and {oldest} is needed",
                "install a newer driver for this GPU, or use it as an OpenCL device",
            )
        count = self.ffi.new("int *")
        status = self.lib.cuInit(0) or self.lib.cuDeviceGetCount(count)
        if status == _NO_DEVICE or (status == 0 and count[0] == 0):
            raise DeviceUnavailableError(
                "cuda",
                "NVIDIA's driver is installed but finds no GPU",
                "look at nvidia-smi, at CUDA_VISIBLE_DEVICES, and at what a container is given "
                "(docker run --gpus all)",
            )
        if status != 0:
            raise DeviceUnavailableError(
                "cuda",
                f"NVIDIA's driver does not start ({self.words(status) or status})",
                "look at nvidia-smi; after an update of the driver, reboot",
            )
        return int(count[0])


_NO_DEVICE = 100
_loaded: list[LibCuda] = []


def libcuda() -> LibCuda:
    """The driver library, loaded once.

    Raises:
        DeviceUnavailableError: It cannot be loaded.
    """
    # No lock, which a fork could leave held: a library that is loaded twice is one.
    if not _loaded:
        _loaded.append(_load())
    return _loaded[0]


def _load() -> LibCuda:
    from tensorbus_backends import simulator

    ffi = cffi.FFI()
    ffi.cdef(_DECLARATIONS)
    if simulator.wanted("cuda"):
        from .simulator import load

        try:
            path = str(load())
            lib = ffi.dlopen(path, ffi.RTLD_NOW | ffi.RTLD_GLOBAL)
        except OSError as error:
            raise DeviceUnavailableError(
                "cuda",
                f"the simulated driver cannot be loaded ({loader_words(error)})",
                "remove the compile cache, or unset TENSORBUS_SIMULATE",
            ) from error
        return LibCuda(ffi, lib, path, Evidence.SIMULATED)
    try:
        # Global, so that what else is linked to it finds the same one.
        lib = ffi.dlopen(_LIBRARY, ffi.RTLD_NOW | ffi.RTLD_GLOBAL)
    except OSError as error:
        raise DeviceUnavailableError(
            "cuda",
            f"NVIDIA's driver is not installed: {_LIBRARY} cannot be loaded "
            f"({loader_words(error)})",
            "install NVIDIA's driver for this GPU, or use another device",
        ) from error
    return LibCuda(ffi, lib, _LIBRARY, Evidence.HARDWARE)
