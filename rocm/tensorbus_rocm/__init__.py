"""AMD GPUs through ROCm: found and explained, without kernels yet."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

from tensorbus_backends.contract import API_VERSION, Device, DeviceInfo, DeviceUnavailableError

__all__ = ["PLUGIN"]

_LIBRARIES = ("libamdhip64.so", "libamdhip64.so.7", "libamdhip64.so.6", "libamdhip64.so.5")


class _Plugin:
    name = "rocm"
    api_version = API_VERSION

    def probe(self) -> Sequence[DeviceInfo]:
        """One line that says what is missing: the runtime, or the kernels."""
        cause, fix = _state()
        line = DeviceInfo(
            name=self.name,
            plugin=self.name,
            index=0,
            available=False,
            description="AMD GPUs through ROCm",
            cause=cause,
            fix=fix,
        )
        return [line]

    def open(self, index: int) -> Device:
        """Always DeviceUnavailableError, with the cause and the fix of `probe`."""
        raise DeviceUnavailableError(self.name, *_state())


def _state() -> tuple[str, str]:
    """Cause and fix."""
    errors = []
    for library in _LIBRARIES:
        try:
            ctypes.CDLL(library)
        except OSError as error:
            errors.append(str(error))
            continue
        return (
            f"the HIP runtime {library} is there, but this version of tensorbus has no ROCm "
            "kernels yet",
            "use the GPU as an OpenCL device, which ROCm provides too, or another device",
        )
    return (
        f"the HIP runtime libamdhip64.so cannot be loaded ({errors[0]})",
        "install AMD's ROCm for this GPU, or use another device",
    )


PLUGIN = _Plugin()
