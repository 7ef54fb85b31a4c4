"""NVIDIA GPUs through CUDA: found and explained, without kernels yet."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

from tensorbus_backends.contract import API_VERSION, Device, DeviceInfo, DeviceUnavailableError

__all__ = ["PLUGIN"]

_LIBRARY = "libcuda.so.1"


class _Plugin:
    name = "cuda"
    api_version = API_VERSION

    def probe(self) -> Sequence[DeviceInfo]:
        """One line that says what is missing: the driver, or the kernels."""
        cause, fix = _state()
        line = DeviceInfo(
            name=self.name,
            plugin=self.name,
            index=0,
            available=False,
            description="NVIDIA GPUs through CUDA",
            cause=cause,
            fix=fix,
        )
        return [line]

    def open(self, index: int) -> Device:
        """Always DeviceUnavailableError, with the cause and the fix of `probe`."""
        raise DeviceUnavailableError(self.name, *_state())


def _state() -> tuple[str, str]:
    """Cause and fix."""
    try:
        ctypes.CDLL(_LIBRARY)
    except OSError as error:
        return (
            f"the NVIDIA driver's library {_LIBRARY} cannot be loaded ({error})",
            "install NVIDIA's driver for this GPU, or use another device",
        )
    return (
        f"the driver library {_LIBRARY} is there, but this version of tensorbus has no CUDA "
        "kernels yet",
        "use the GPU as an OpenCL device, which NVIDIA's driver provides too, or another device",
    )


PLUGIN = _Plugin()
