"""The processor as a tensorbus device: C compiled at run time, vectorized, on all cores."""

from __future__ import annotations

from collections.abc import Sequence

from tensorbus_backends.contract import Device, DeviceInfo

__all__ = ["PLUGIN", "CpuPlugin"]


class CpuPlugin:
    """What the entry point ``cpu`` names; imports its parts when first used."""

    name = "cpu"
    api_version = 2, 0

    def probe(self) -> Sequence[DeviceInfo]:
        """The cpu device, available or with cause and fix."""
        from .plugin import probe

        return probe()

    def open(self, index: int) -> Device:
        """The cpu device; DeviceUnavailableError where `probe` says that it is absent."""
        from .plugin import open_device

        return open_device(index)


PLUGIN = CpuPlugin()
