"""OpenCL devices of every installed driver, through pyopencl."""

from __future__ import annotations

from collections.abc import Sequence

from tensorbus_backends.contract import Device, DeviceInfo

__all__ = ["PLUGIN"]


class _Plugin:
    """The plugin; pyopencl and the drivers are loaded at its first use."""

    name = "opencl"
    api_version = 2, 0

    def probe(self) -> Sequence[DeviceInfo]:
        """Every device of every platform, tried with a kernel; else what is missing."""
        from .plugin import probe

        return probe()

    def open(self, index: int) -> Device:
        """Open device `index` of `probe`; DeviceUnavailableError if that cannot be done."""
        from .plugin import open_device

        return open_device(index)


PLUGIN = _Plugin()
