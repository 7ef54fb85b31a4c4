"""AMD GPUs through ROCm: libamdhip64 and hiprtc."""

from __future__ import annotations

from collections.abc import Sequence

from tensorbus_backends.contract import Device, DeviceInfo
from tensorbus_backends.offline import AbsentCompiler, OfflineCompiler

__all__ = ["PLUGIN"]


class _Plugin:
    """The plugin; HIP is loaded at its first use."""

    name = "rocm"
    api_version = 2, 0

    def probe(self) -> Sequence[DeviceInfo]:
        """Every GPU that HIP sees, tried with a kernel; else what is missing."""
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
