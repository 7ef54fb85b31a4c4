"""Apple's GPUs through Metal."""

from __future__ import annotations

from collections.abc import Sequence

from tensorbus_backends.contract import Device, DeviceInfo
from tensorbus_backends.offline import AbsentCompiler, OfflineCompiler

__all__ = ["PLUGIN"]


class _Plugin:
    """The plugin; cffi and the frameworks are loaded at its first use."""

    name = "metal"
    api_version = 2, 0

    def probe(self) -> Sequence[DeviceInfo]:
        """Every Metal device, tried with a kernel; else what is missing."""
        from .plugin import probe

        return probe()

    def open(self, index: int) -> Device:
        """Open device `index` of `probe`; DeviceUnavailableError if that cannot be done."""
        from .plugin import open_device

        return open_device(index)

    def offline(self) -> Sequence[OfflineCompiler | AbsentCompiler]:
        """The check of MSL without a device."""
        from .offline import offline

        return offline()


PLUGIN = _Plugin()
