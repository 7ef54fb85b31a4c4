"""NVIDIA GPUs through CUDA: pycuda for the driver, NVRTC for the kernels."""

from __future__ import annotations

from collections.abc import Sequence

from tensorbus_backends.contract import Device, DeviceInfo
from tensorbus_backends.offline import AbsentCompiler, OfflineCompiler

__all__ = ["PLUGIN"]


class _Plugin:
    """The plugin; the driver, pycuda and the compiler are loaded at its first use."""

    name = "cuda"
    api_version = 2, 0

    def probe(self) -> Sequence[DeviceInfo]:
        """Every GPU, tried with a kernel; else one line that says what is missing."""
        from .plugin import probe

        return probe()

    def open(self, index: int) -> Device:
        """Open device `index` of `probe`; DeviceUnavailableError if that cannot be done."""
        from .plugin import open_device

        return open_device(index)

    def offline(self) -> Sequence[OfflineCompiler | AbsentCompiler]:
        """The compiler, which needs no device."""
        from .offline import offline

        return offline()


PLUGIN = _Plugin()
